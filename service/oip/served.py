"""One version of a model as the protocol serves it."""

from service.bridge import Bridge
from service.models import LiveModel
from service.oip.faces.face import Face
from service.oip.statistics import Statistics


class Traffic:
    """What is going on in the whole server.

    Attributes:
        num_unanswered: Requests that have no answer yet.
        num_bytes: Of their inputs.
        last_ns: When the last request came, on time.monotonic_ns.
    """

    __slots__ = ("last_ns", "num_bytes", "num_unanswered")

    def __init__(self) -> None:
        self.num_unanswered = 0
        self.num_bytes = 0
        self.last_ns = 0


class Served:
    """What the requests to one version of a model need.

    Attributes:
        face: What it looks like.
        model: Itself.
        bridge: The way to its engine.
        name: Of the model.
        version: As answers tell it.
        statistics: Of its requests.
        traffic: Of the server.
    """

    __slots__ = ("bridge", "face", "model", "name", "statistics", "traffic", "version")

    def __init__(self, face: Face, traffic: Traffic, statistics: Statistics) -> None:
        self.face = face
        self.model: LiveModel = face.model
        self.bridge: Bridge = face.model.bridge
        self.name = face.model.manifest.name
        self.version = str(face.model.manifest.version)
        self.statistics = statistics
        self.traffic = traffic
