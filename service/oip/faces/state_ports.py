"""The states of a model as tensors that a request may give on START and ask for."""

from collections.abc import Iterable

from export.manifest import StateSpec
from service.engine.interface import StateTensors
from service.oip.datatypes import DATATYPE
from service.oip.errors import OipError
from service.oip.faces.face import Port
from service.oip.faces.layout import is_finite


class StatePorts:
    """See the module docstring.

    Args:
        model: Its name, for messages.
        states: That it has.

    Attributes:
        given: By name, those that may be given.
        told: By name, those that may be asked for.
        state_of: The manifest's name of each of both.
    """

    def __init__(self, model: str, states: Iterable[StateSpec]) -> None:
        self._model = model
        self.given: dict[str, Port] = {}
        self.told: dict[str, Port] = {}
        self.state_of: dict[str, str] = {}
        for state in states:
            for name, ports in ((state.sequence_input, self.given), (state.sequence_output, self.told)):
                if name is not None:
                    ports[name] = Port(name, DATATYPE[state.dtype], state.shape)
                    self.state_of[name] = state.name

    def initial(self, given: StateTensors | None, start: bool) -> StateTensors | None:
        """Take the states that a request gives, by the client's names; by the manifest's they go to the engine.

        Raises:
            OipError: It is not the first of its sequence, or a state is not finite.
        """
        if given is None:
            return None
        for name, array in given.items():
            if not start:
                raise OipError(
                    "invalid_argument",
                    f"unexpected inference input '{name}' for model '{self._model}': a state is given on the START of "
                    "a sequence alone",
                )
            if not is_finite(array):
                raise OipError("invalid_argument", f"input '{name}' must have finite values: it is a state")
        return {self.state_of[name]: array for name, array in given.items()}
