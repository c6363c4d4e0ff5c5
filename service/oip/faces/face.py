"""What a model looks like to the protocol: named inputs and outputs with rows first, whatever it is inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.engine.interface import AnyRequest, Priority, RequestId, SessionId, SessionState, StateTensors
from service.models import LiveModel
from service.oip.messages import InferRequest, Tensor


@dataclass(frozen=True)
class Port:
    """An input or an output.

    Args:
        name: As the client calls it.
        datatype: In the protocol's words.
        dims: Of one row, or of the whole where there are no rows; a text is a size that each request chooses.
        has_rows: Whether the first dimension on the wire is that of the rows; otherwise one value is for all of them.
    """

    name: str
    datatype: str
    dims: tuple[int | str, ...]
    has_rows: bool = True

    @property
    def config_dims(self) -> tuple[int, ...]:
        """Sizes without the rows, free ones -1; a scalar has one of 1, since a configuration cannot have none."""
        return tuple(size if isinstance(size, int) else -1 for size in self.dims) or ((1,) if not self.has_rows else ())

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes on the wire, the rows first, which clients take for granted; free ones are -1."""
        return (-1, *self.config_dims)


class Wanted(NamedTuple):
    """An output that a request asks for.

    Args:
        port: Which.
        state: The manifest's name of the state that it is; None: it is no state.
        classification: Of how many best classes to tell; 0: the tensor itself.
    """

    port: Port
    state: str | None = None
    classification: int = 0


class Prepared(Protocol):
    """A request that was found good."""

    @property
    def initial(self) -> StateTensors | None:
        """Where its sequence is to start from; None: where the model starts."""

    @property
    def needs_state(self) -> bool:
        """Whether states are among the outputs that it wants."""

    @property
    def num_rows(self) -> int:
        """Rows that it runs: steps of a sequence or rows of a batch."""

    def step(self, work: RequestId, session: SessionId, deadline_s: float | None) -> AnyRequest:
        """Make the engine's request of it, of a model with state."""

    def run(self, work: RequestId, priority: Priority, deadline_s: float | None) -> AnyRequest:
        """Make the engine's request of it, of a model without."""

    def outputs(self, value: object, state: SessionState | None) -> tuple[Tensor, ...]:
        """Make the answer of what the engine's request gave.

        Raises:
            OipError: It would be larger than an answer may be.
        """


class Face(Protocol):
    """One version of a model."""

    model: LiveModel
    is_stateful: bool
    max_batch_size: int

    @property
    def inputs(self) -> Mapping[str, Port]:
        """By name."""

    @property
    def outputs(self) -> Mapping[str, Port]:
        """By name."""

    @property
    def states(self) -> Mapping[str, Port]:
        """By name, those that may be given on START."""

    @property
    def state_outputs(self) -> Mapping[str, Port]:
        """By name, those that may be asked for."""

    def prepare(self, request: InferRequest, start: bool) -> Prepared:
        """Check a request.

        Raises:
            OipError: The model does not take it.
        """
