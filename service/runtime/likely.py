"""Inputs that an imported model can be run on, made up from what its manifest says of it."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from export.manifest import Manifest, TensorSpec, own_tensors, storage

Array = npt.NDArray[Any]
_NUM_IDS: Final = 2  # integers are 0 or 1: whatever they name, there are two of it


def likely_batch(
    manifest: Manifest,
    reads: Sequence[int],
    writes: Sequence[int],
    generator: np.random.Generator,
    length: int | None = None,
) -> dict[str, Array]:
    """Make all inputs of a run but the pools.

    Args:
        manifest: Of the imported model.
        reads: The row of the state pools that each row of the batch begins with; without meaning where there are none.
        writes: The row that each leaves its state in, likewise.
        generator: Of what is random.
        length: T; None: that of the examples.
    """
    places = {"read_slots": reads, "write_slots": writes} if manifest.states else {}
    slots = {name: np.array(rows, dtype=np.int64) for name, rows in places.items()}
    return {**likely_rows(manifest, len(reads), generator, length), **shared_inputs(manifest), **slots}


def likely_rows(
    manifest: Manifest, num_rows: int, generator: np.random.Generator, length: int | None = None
) -> dict[str, Array]:
    """Make inputs with rows, (num_rows, ...) each.

    Args:
        manifest: Of the imported model; its `examples` say how large what is free may be.
        num_rows: B.
        generator: Of what is random.
        length: T; None: that of the examples.
    """
    assert manifest.imported is not None
    sizes = {**manifest.imported.examples, "B": num_rows}
    if length is not None:
        sizes["T"] = length
    arrays = {}
    for name, spec in own_tensors(manifest).inputs.items():
        shape = [sizes.get(d, 1) if isinstance(d, str) else d for d in spec.shape]
        if name == manifest.imported.lengths_input:
            arrays[name] = np.full(shape, sizes.get("T", 1), dtype=storage(spec.dtype))
        else:
            arrays[name] = likely_values(spec, shape, generator)
    return arrays


def shared_inputs(manifest: Manifest) -> dict[str, Array]:
    """The inputs that all rows share, as in the manifest's examples."""
    assert manifest.imported is not None
    sizes, values = manifest.imported.examples, manifest.imported.shared_examples
    arrays = {}
    for name, spec in own_tensors(manifest).shared.items():
        shape = [sizes.get(d, 1) if isinstance(d, str) else d for d in spec.shape]
        value: Any = b"" if spec.dtype == "string" else values.get(name, 0)
        arrays[name] = np.full(shape, value, dtype=storage(spec.dtype))
    return arrays


def likely_values(spec: TensorSpec, shape: list[int], generator: np.random.Generator) -> Array:
    """Numbers around zero; integers are 0 or 1."""
    if spec.dtype == "string":
        return np.full(shape, b"a", dtype=object)
    if spec.dtype in ("float16", "float32", "float64"):
        return generator.normal(0, 1, shape).astype(spec.dtype)
    if spec.dtype == "bfloat16":  # the upper half of a float32
        bits: Array = generator.normal(0, 1, shape).astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16)
    return generator.integers(0, _NUM_IDS, shape).astype(spec.dtype)
