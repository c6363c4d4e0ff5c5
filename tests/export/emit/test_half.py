"""Steps in fp16, every operator rounded to 16 bits as hardware that has such operators would."""

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from export.emit.builder import EmitError, GraphBuilder
from export.emit.emit import emit
from models.config import Cell, LanguageModelConfig
from tests.export.emit.models import tiny
from tests.export.emit.runtime import run, session


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("variant", ["primitive", "folded"])
def test_carried_steps_stay_near_those_of_fp32(cell: Cell, variant: str) -> None:
    model = tiny(LanguageModelConfig(cell=cell, dim=12, hidden=24, layers=2))
    halves, exact = (emit(model, precision, top_k=3, for_cuda=True) for precision in ("fp16", "fp32"))
    rounded = ReferenceEvaluator(halves.variants[variant]["step"])  # type: ignore[index]
    fp32 = session(exact.graphs["step"])
    rng = np.random.default_rng(0)
    slots = np.arange(2, 8)
    pools = {str(state.pool_input): np.zeros((8, *state.shape), np.float32) for state in exact.states}
    of_halves = dict(pools)
    largest = 0.0
    for step in range(12):
        feeds = {"tokens": rng.integers(4, 40, 6), "read_slots": slots if step else 0 * slots, "write_slots": slots}
        want = run(fp32, {**feeds, **pools})
        got = dict(zip(rounded.output_names, rounded.run(None, {**feeds, **of_halves}), strict=True))
        pools, of_halves = ({name: found[f"{name}_out"] for name in pools} for found in (want, got))
        assert {array.dtype for array in (*of_halves.values(), got["log_probs"])} == {np.dtype(np.float32)}
        for name in ("log_probs", *(f"{name}_out" for name in pools)):
            largest = max(largest, float(np.abs(got[name][..., 4:] - want[name][..., 4:]).max()))
    assert 1e-4 < largest < 0.05, "rounded to 16 bits, and not another model"


def test_a_number_that_16_bits_do_not_hold_is_refused() -> None:
    graph = GraphBuilder("step", "fp16")
    graph.parameter(np.array([65504.0], np.float32), "largest")
    with pytest.raises(EmitError, match=r"weight w: expected numbers up to 65504, got 65600"):
        graph.parameter(np.array([-65600.0], np.float32), "w")
