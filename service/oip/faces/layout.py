"""Whether the inputs of a request are what a model takes.

That is said by their names, types and shapes alone, so that what was found good once need not be looked at again.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.engine.interface import StateTensors, Tensors
from service.engine.sizes import fits
from service.oip.codec import check_num_texts
from service.oip.datatypes import dims_text
from service.oip.errors import OipError
from service.oip.faces.face import Port
from service.oip.messages import Tensor

Shape = tuple[int, ...]
Key = tuple[tuple[str, str, Shape], ...]  # of each input: name, type, shape
TIME = "T"  # the symbol of the dimension that lengths are about
_NONE: Mapping[str, Any] = {}


class Rules(NamedTuple):
    """What the inputs of a model are held to.

    Args:
        model: Its name, for messages.
        inputs: All must be given.
        states: May be given too.
        is_sequence: Whether a request has one row, of one sequence, and may have several steps of it.
        max_rows: Rows of a request, or steps of one; 1: a step has no dimension for them.
        lengths: The input with the true lengths of rows along TIME, which may be left out; None: there is none.
    """

    model: str
    inputs: Mapping[str, Port]
    states: Mapping[str, Port]
    is_sequence: bool
    max_rows: int
    lengths: str | None = None


class Layout(NamedTuple):
    """How inputs of certain names, types and shapes become rows.

    Args:
        num_rows: Rows, or steps of a sequence.
        is_timed: Whether the inputs have steps along a second dimension.
        is_plain: Whether they can be taken as they are: none is timed, shared or a state.
        shared: By name, the shape of those that all rows share.
        states: By name, the shape of the states that are given.
        longest: Size along TIME, where rows have lengths; 0: they have none.
    """

    num_rows: int
    is_timed: bool
    is_plain: bool
    shared: Mapping[str, Shape]
    states: Mapping[str, Shape]
    longest: int = 0

    def split(self, tensors: Sequence[Tensor]) -> tuple[Tensors, Tensors, StateTensors | None]:
        """Sort the inputs of a request: with rows first, shared by all rows, and states.

        Those that are shared and the states are copies: they are looked at now and used later, where rows of others
        may depend on them, and the memory that they came in may be written by its owner meanwhile.
        """
        if self.is_plain:
            return {tensor.name: tensor.array for tensor in tensors}, _NONE, None
        rows: dict[str, npt.NDArray[Any]] = {}
        shared: dict[str, npt.NDArray[Any]] = {}
        states: dict[str, npt.NDArray[Any]] = {}
        for tensor in tensors:
            name, array = tensor.name, tensor.array
            if name in self.shared:
                shared[name] = np.array(array).reshape(self.shared[name])
            elif name in self.states:
                states[name] = np.array(array).reshape(self.states[name])
            else:
                rows[name] = array[0] if self.is_timed else array
        return rows, shared, states or None


def lay_out(rules: Rules, key: Key) -> Layout:
    """Check the inputs of a request.

    Raises:
        OipError: They are not what the model takes.
    """
    _check_names(rules, [name for name, _, _ in key])
    sizes: dict[str, int] = {}  # by symbol: it has one size throughout a request
    shared: dict[str, Shape] = {}
    states: dict[str, Shape] = {}
    shapes: dict[str, Shape] = {}
    for name, datatype, shape in key:
        port = rules.inputs.get(name) or rules.states[name]
        if datatype != port.datatype:
            raise _bad(
                f"inference input '{name}' data-type is '{datatype}', but model '{rules.model}' expects "
                f"'{port.datatype}'"
            )
        if datatype == "BYTES":
            check_num_texts(prod(shape), name, rules.model)
        if name in rules.states:
            states[name] = _state_shape(rules, port, shape)
        elif port.has_rows:
            shapes[name] = shape
        else:
            shared[name] = _shared_shape(rules, port, shape, sizes)
    num_rows = _num_rows(rules, shapes)
    is_timed = (
        rules.is_sequence
        and rules.max_rows > 1
        and any(len(shape) > len(rules.inputs[name].dims) + 1 for name, shape in shapes.items())
    )
    skipped = 2 if is_timed else 1
    for name, shape in shapes.items():
        if len(shape) < skipped or not fits(shape[skipped:], rules.inputs[name].dims, sizes):
            raise _bad_shape(rules, rules.inputs[name], shape, sizes)
    if is_timed:
        num_rows = next(iter(shapes.values()))[1]
        for name, shape in shapes.items():
            if shape[1] != num_rows:
                raise _bad(f"input '{name}' steps along time do not match other inputs for '{rules.model}'")
    if not 1 <= num_rows <= rules.max_rows:
        raise _bad_count(rules, num_rows)
    longest = 0 if rules.lengths is None else sizes.get(TIME, 0)
    return Layout(num_rows, is_timed, not (is_timed or shared or states), shared, states, longest)


def _check_names(rules: Rules, names: Sequence[str]) -> None:
    given = [name for name in names if name not in rules.states]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _bad(f"input '{twice}' already exists in request for model '{rules.model}'")
    missing = [name for name in rules.inputs if name not in given and name != rules.lengths]
    if len(given) > len(rules.inputs) or len(given) + (rules.lengths not in (None, *given)) < len(rules.inputs):
        raise _bad(
            f"expected {len(rules.inputs)} inputs but got {len(given)} inputs for model '{rules.model}'. "
            f"Got input(s) [{_quoted(given)}], but missing required input(s) [{_quoted(missing)}]. "
            "Please provide all required input(s)."
        )
    for name in given:
        if name not in rules.inputs:
            raise _bad(f"unexpected inference input '{name}' for model '{rules.model}'")


def _num_rows(rules: Rules, shapes: Mapping[str, Shape]) -> int:
    num_rows: int | None = None
    for name, shape in shapes.items():
        if not shape:
            raise _bad(f"input '{name}' has no shape but model requires batch dimension for '{rules.model}'")
        if num_rows is not None and shape[0] != num_rows:
            raise _bad(f"input '{name}' batch size does not match other inputs for '{rules.model}'")
        num_rows = shape[0]
    if rules.is_sequence and num_rows not in (None, 1):
        raise _bad(
            f"inference request to model '{rules.model}' must specify batch-size 1 due to requirements of sequence "
            "batcher"
        )
    return 1 if num_rows is None else num_rows


def _bad_count(rules: Rules, num_rows: int) -> OipError:
    if rules.is_sequence:
        return _bad(
            f"inference request must have 1 to {rules.max_rows} steps along time for '{rules.model}', got {num_rows}"
        )
    if num_rows < 1:
        return _bad(f"inference request batch-size must be >= 1 for '{rules.model}'")
    return _bad(f"inference request batch-size must be <= {rules.max_rows} for '{rules.model}'")


def _state_shape(rules: Rules, port: Port, shape: Shape) -> Shape:
    """The shape of one row of a state; it may come with a 1 where the original model has its rows."""
    dims = tuple(size for size in port.dims if isinstance(size, int))
    without = [shape[:axis] + shape[axis + 1 :] for axis, size in enumerate(shape) if size == 1]
    if shape != dims and dims not in without:
        raise _bad_shape(rules, port, shape, {})
    return dims


def _shared_shape(rules: Rules, port: Port, shape: Shape, sizes: dict[str, int]) -> Shape:
    """The shape as the graph takes it: on the wire it may have 1s before, as if it had rows."""
    own = shape[len(shape) - len(port.dims) :] if len(shape) >= len(port.dims) else shape
    extra = shape[: len(shape) - len(own)]
    if len(extra) > 2 or any(size != 1 for size in extra) or not fits(own, port.dims, sizes):
        raise _bad_shape(rules, port, shape, sizes)
    return own


def _bad_shape(rules: Rules, port: Port, shape: Shape, sizes: Mapping[str, int]) -> OipError:
    dims = tuple(size if isinstance(size, int) else sizes.get(size, -1) for size in port.dims)
    expected = dims_text((-1, *dims) if port.has_rows else dims)
    return _bad(
        f"unexpected shape for input '{port.name}' for model '{rules.model}'. Expected {expected}, got "
        f"{dims_text(shape)}."
    )


def _quoted(names: Sequence[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


def _bad(message: str) -> OipError:
    return OipError("invalid_argument", message)


def is_finite(array: npt.NDArray[Any]) -> bool:
    """Whether a state has values that a model can go on from; types that are not floats always have."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
