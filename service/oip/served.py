"""One version of a model as the protocol serves it."""

from service.bridge import Bridge
from service.models import LiveModel
from service.oip.face import Face
from service.oip.statistics import Statistics


class Served:
    """What the requests to one version of a model need.

    Attributes:
        face: What it looks like.
        model: Itself.
        bridge: The way to its engine.
        name: Of the model.
        version: As answers tell it.
        statistics: Of its requests.
    """

    __slots__ = ("bridge", "face", "model", "name", "statistics", "version")

    def __init__(self, face: Face) -> None:
        self.face = face
        self.model: LiveModel = face.model
        self.bridge: Bridge = face.model.bridge
        self.name = face.model.manifest.name
        self.version = str(face.model.manifest.version)
        self.statistics = Statistics()
