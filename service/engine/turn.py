"""What those who take part in a turn of the engine share: the time, and what is to be published."""

from dataclasses import dataclass, field

from service.engine.interface import Event, Failed, RequestId
from service.engine.schedule import PRIORITY_HEAD_START_S
from service.errors import Overloaded, ServiceError


@dataclass
class Turn:
    """See the module docstring.

    Attributes:
        now: On the engine's clock, as of the last call from the engine.
        events: Since the last publishing.
        num_ended: Requests for new work that were done, since then too.
        num_stepped: Steps that sessions have taken, since then too.
        num_refused: Requests that found no room, ever.
    """

    now: float = 0.0
    events: list[Event] = field(default_factory=list)
    num_ended: int = 0
    num_stepped: int = 0
    num_refused: int = 0

    def key(self, priority: int) -> float:
        """The age of work that becomes ready now: see `WorkItem.key`."""
        return self.now - PRIORITY_HEAD_START_S * priority

    def fail(self, request: RequestId, error: ServiceError) -> None:
        """End a request that was not, or could not be, begun."""
        self.num_refused += isinstance(error, Overloaded)
        self.events.append(Failed(request, error))
