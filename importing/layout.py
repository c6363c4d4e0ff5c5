"""What is known of a model once it has been looked into: where its rows are, and what each tensor is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from export.manifest import DType, StateSpec, TensorSpec
from importing.signature import Array, Dims

# What a manifest's shapes mean something by: see `export.manifest`.
RESERVED_SIZES: Final = frozenset("BTCSNP")
READ_SLOTS, WRITE_SLOTS = "read_slots", "write_slots"


def public_size(name: str) -> str:
    """What a free size is called in the manifest."""
    return f"size_{name}" if name in RESERVED_SIZES else name


@dataclass(frozen=True)
class OwnTensor:
    """An input or output of the original that is no state.

    Args:
        name: As in the original.
        dtype: Of its elements.
        axis: Which of the original's axes has the rows; None: none has.
        shape: Of one row: the original's sizes without that axis. Names stand for sizes that are free; a name that no
            input has, for sizes that only a run tells.
        shared: Whether one value is given for all rows; without an axis and not shared, each row is a run of its own.
    """

    name: str
    dtype: DType
    axis: int | None
    shape: Dims
    shared: bool = False

    def spec(self) -> TensorSpec:
        """As clients see it: rows first."""
        return TensorSpec(name=self.name, dtype=self.dtype, shape=self.shape if self.shared else ("B", *self.shape))


@dataclass(frozen=True)
class StateTensor:
    """A state: an input of the original, and the output that is its next value.

    Args:
        name: In the pool's names.
        input: Name in the original.
        output: Name in the original.
        dtype: Of its elements.
        axis: Which of the original's axes has the rows; None: none has.
        shape: Of one row.
        initial: What a sequence starts from, of that shape; None is zeros.
        found: Why it is thought to be a state.
    """

    name: str
    input: str
    output: str
    dtype: DType
    axis: int | None
    shape: tuple[int, ...]
    initial: Array | None = field(default=None, compare=False)
    found: str = "given"

    def spec(self) -> StateSpec:
        """For the manifest."""
        return StateSpec(
            name=self.name,
            dtype=self.dtype,
            shape=self.shape,
            batch_axis=self.axis,
            initial="zeros" if self.initial is None else "file",
            pool_input=f"{self.name}_pool",
            pool_output=f"{self.name}_pool_out",
            sequence_input=self.input,
            sequence_output=self.output,
        )


@dataclass(frozen=True)
class Layout:
    """A whole model.

    Args:
        inputs: Its own.
        outputs: Its own.
        states: None for a stateless model.
        max_rows: Rows of one run; None: any.
        sizes: By name of a free size, one that works.
        shared: By shared input, a value that works.
        lengths: Of a stateless model, the input that says how long each row is.
        notes: What its owner should know, a line each.
    """

    inputs: tuple[OwnTensor, ...]
    outputs: tuple[OwnTensor, ...]
    states: tuple[StateTensor, ...]
    max_rows: int | None
    sizes: Mapping[str, int]
    shared: Mapping[str, Array]
    lengths: str | None = None
    notes: tuple[str, ...] = ()
