"""The models that the protocol serves, found by the names and versions that requests give."""

from service.errors import InvalidInput, ModelNotFound
from service.models import LiveModel, Models
from service.oip.control import ModelControl
from service.oip.errors import OipError
from service.oip.faces.face import Face
from service.oip.faces.tensors import TensorFace
from service.oip.faces.texts import TextFace
from service.oip.faces.tokens import TokenFace
from service.oip.served import Served, Traffic
from service.oip.statistics import Statistics


class Directory:
    """See the module docstring.

    Args:
        models: That are served.
        control: Knows of those that are not, too.

    Attributes:
        traffic: Of requests to all of them.
    """

    def __init__(self, models: Models, control: ModelControl) -> None:
        self.traffic = Traffic()
        self._models = models
        self._control = control
        self._served: dict[tuple[str, int], Served] = {}

    def find(self, name: str, version: str) -> Served:
        """Find a version of a model; "" is the newest.

        Raises:
            OipError: It is not served.
        """
        number = version_number(version)
        try:
            model = self._models.find(name, number)
        except (ModelNotFound, InvalidInput):
            raise self._not_found(name, number) from None
        return self.of(model)

    def of(self, model: LiveModel) -> Served:
        """What requests to a model that is served need."""
        key = model.manifest.name, model.manifest.version
        served = self._served.get(key)
        if served is None or served.model is not model:
            statistics = Statistics() if served is None else served.statistics
            if served is not None:  # another bundle has taken the version: counts go on
                statistics.ran_before(served.bridge.engine.run_stats())
            self._forget_gone()
            served = self._served[key] = Served(face_of(model), self.traffic, statistics)
        return served

    def versions(self, name: str) -> list[int]:
        """The versions of a model that are served, oldest first."""
        return sorted(self._models.versions(name))

    def all(self, name: str = "") -> list[Served]:
        """All that is served, or all versions of one model.

        Raises:
            OipError: There is no such model.
        """
        if name:
            self.find(name, "")
        found = [model.manifest for model in self._models if name in ("", model.manifest.name)]
        return [self.find(manifest.name, str(manifest.version)) for manifest in found]

    def _forget_gone(self) -> None:
        for name, version in list(self._served):
            if version not in self._models.versions(name):
                del self._served[name, version]

    def _not_found(self, name: str, version: int) -> OipError:
        """Say in the reference server's words why a model cannot be asked."""
        known = [entry for entry in self._control.index() if entry.name == name]
        if not known:
            return OipError("not_found", f"Request for unknown model: '{name}' is not found")
        if not version:
            return OipError("not_found", f"Request for unknown model: '{name}' has no available versions")
        if any(entry.version == version for entry in known):
            return not_ready(name, version)
        return OipError("not_found", f"Request for unknown model: '{name}' version {version} is not found")


def not_ready(name: str, version: int | str) -> OipError:
    """The answer to a request for a version that exists and is not served."""
    return OipError("unavailable", f"Request for unknown model: '{name}' version {version} is not at ready state")


def version_number(text: str) -> int:
    """Read a version as requests give it; 0 is none.

    Raises:
        OipError: It is no version.
    """
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and int(text) > 0):
        raise OipError(
            "invalid_argument",
            f"failed to get model version from specified version string '{text[:40]}', version should be an integral "
            "value > 0",
        )
    return int(text)


def face_of(model: LiveModel) -> Face:
    """What a model looks like to the protocol."""
    if model.manifest.task == "tensors":
        return TensorFace(model)
    return TokenFace(model) if model.supports_sessions else TextFace(model)
