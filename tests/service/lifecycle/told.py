"""Who watches a session."""

from dataclasses import dataclass, field

from service.engine.interface import SessionEnded
from service.models import LiveModel


@dataclass
class Told:
    """Writes down what it is told: the models that the session went to, and its end."""

    models: list[LiveModel] = field(default_factory=list)
    ends: list[SessionEnded] = field(default_factory=list)

    def moved(self, model: LiveModel) -> None:
        self.models.append(model)

    def ended(self, event: SessionEnded) -> None:
        self.ends.append(event)
