import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from export.backend import Array, Backend, Feeds
from export.checks import Checks
from export.compare import difference, pairs, rounding
from export.manifest import GraphKind
from export.parity import OnnxBackend
from export.probes import Probes, row_of
from export.report import Check
from tests.export.accumulator import (
    EMBEDDING,
    NumpyAccumulator,
    V,
    chunk_graph,
    sequence_graph,
    step_graph,
    write_bundle,
)


def check(
    tmp_path: Path,
    step: onnx.ModelProto,
    sequence: onnx.ModelProto,
    exact: Backend | None = None,
    chunk: onnx.ModelProto | None = None,
) -> dict[tuple[str, str, str], Check]:
    folder, manifest = write_bundle(tmp_path, step, sequence, chunk)
    probes = Probes(manifest, {"tokens": V}, np.random.default_rng(0))
    checks = Checks(OnnxBackend(folder, manifest), NumpyAccumulator(), exact or NumpyAccumulator(), probes, limit=1e-5)
    checks.run_all()
    return {(row.check, row.graph, row.tensor): row for row in checks.worst.rows()}


def failed(rows: dict[tuple[str, str, str], Check]) -> set[tuple[str, str, str]]:
    return {key for key, row in rows.items() if not row.passed}


def test_graphs_that_agree_pass_every_check_of_every_tensor(tmp_path: Path) -> None:
    rows = check(tmp_path, step_graph(), sequence_graph())
    assert failed(rows) == set()
    step = ("log_probs", "top_log_probs", "top_tokens", "hidden_0")
    sequence = ("target_log_probs", "final_hidden_0")
    against = ("random inputs", "carried state")
    assert set(rows) == {
        *((check, "step", tensor) for check in (*against, "alone = batched") for tensor in step),
        *((check, "sequence", tensor) for check in (*against, "alone = batched") for tensor in sequence),
        ("untouched rows", "step", "hidden_0"),
    }
    assert all(row.count > 0 for row in rows.values())


def corrupted() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    embedding = EMBEDDING.copy()
    embedding[5, 1] += np.float32(1e-3)
    return embedding


def test_one_corrupted_weight_is_found_in_the_graph_that_has_it(tmp_path: Path) -> None:
    rows = check(tmp_path, step_graph(corrupted()), sequence_graph())
    assert {graph for _, graph, _ in failed(rows)} == {"step"}
    assert rows["carried state", "step", "hidden_0"].difference == pytest.approx(5e-3, rel=0.9)
    assert rows["alone = batched", "step", "hidden_0"].passed
    rows = check(tmp_path / "other", step_graph(), sequence_graph(corrupted()))
    assert {graph for _, graph, _ in failed(rows)} == {"sequence"}


def rewire(graph: onnx.ModelProto, node: str, index: int, name: str) -> onnx.ModelProto:
    next(found for found in graph.graph.node if found.op_type == node).input[index] = name
    return graph


def test_reading_the_slot_that_is_written_is_found(tmp_path: Path) -> None:
    rows = check(tmp_path, rewire(step_graph(), "Gather", 1, "write_slots"), sequence_graph())
    assert ("random inputs", "step", "hidden_0") in failed(rows)


def test_a_row_that_depends_on_its_company_is_found(tmp_path: Path) -> None:
    """As stock dynamic quantisation does: something of the whole batch goes into every row."""
    graph = step_graph()
    nodes = list(graph.graph.node)
    nodes.insert(3, helper.make_node("ReduceMean", ["embedded"], ["mean"], keepdims=1))
    nodes.insert(4, helper.make_node("Mul", ["mean", "tiny"], ["leak"]))
    nodes.insert(5, helper.make_node("Add", ["new", "leak"], ["leaked"]))
    for node in nodes[6:]:
        for index, name in enumerate(node.input):
            if name == "new":
                node.input[index] = "leaked"
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1e-6, np.float32), "tiny"))
    rows = check(tmp_path, graph, sequence_graph())
    # Far below the limit against the reference, and still not let through.
    assert rows["random inputs", "step", "hidden_0"].passed
    assert ("alone = batched", "step", "hidden_0") in failed(rows)


def test_a_graph_that_touches_other_slots_is_found(tmp_path: Path) -> None:
    graph = step_graph()
    graph.graph.node.insert(0, helper.make_node("Mul", ["hidden_0_pool", "nearly_one"], ["faded"]))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1 + 2e-7, np.float32), "nearly_one"))
    rows = check(tmp_path, rewire(graph, "ScatterND", 0, "faded"), sequence_graph())
    assert ("untouched rows", "step", "hidden_0") in failed(rows)


def test_a_sequence_that_reads_its_padding_is_found(tmp_path: Path) -> None:
    rows = check(tmp_path, step_graph(), rewire(sequence_graph(), "CumSum", 0, "embedded"))
    assert ("random inputs", "sequence", "final_hidden_0") in failed(rows)
    assert rows["random inputs", "sequence", "target_log_probs"].passed


class Recorder(NumpyAccumulator):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[GraphKind, Feeds]] = []

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        self.seen.append((kind, {name: array.copy() for name, array in feeds.items()}))
        return super().run(kind, feeds)


def test_a_chunk_is_held_against_its_steps_bit_for_bit(tmp_path: Path) -> None:
    rows = check(tmp_path, step_graph(), sequence_graph(), chunk=chunk_graph())
    assert failed(rows) == set()
    checks = {(name, tensor) for name, graph, tensor in rows if graph == "chunk"}
    tensors = ("top_log_probs", "top_tokens", "hidden_0")
    assert checks == {
        *((name, tensor) for name in ("chunk = steps", "alone = batched") for tensor in tensors),
        ("untouched rows", "hidden_0"),
    }
    nearly = EMBEDDING.copy()
    nearly[5, 1] = np.nextafter(nearly[5, 1], np.float32(1))
    rows = check(tmp_path / "nearly", step_graph(), sequence_graph(), chunk=chunk_graph(nearly))
    assert ("chunk = steps", "chunk", "hidden_0") in failed(rows)
    assert {graph for _, graph, _ in failed(rows)} == {"chunk"}


def test_a_chunk_that_ends_in_the_wrong_slot_is_found(tmp_path: Path) -> None:
    wrong = rewire(chunk_graph(), "Unsqueeze", 0, "read_slots")
    rows = check(tmp_path, step_graph(), sequence_graph(), chunk=wrong)
    assert ("chunk = steps", "chunk", "hidden_0") in failed(rows)
    assert ("untouched rows", "chunk", "hidden_0") in failed(rows)


def test_what_is_tried_is_what_was_promised(tmp_path: Path) -> None:
    folder, manifest = write_bundle(tmp_path, step_graph(), sequence_graph())
    reference = Recorder()
    probes = Probes(manifest, {"tokens": V}, np.random.default_rng(3))
    Checks(OnnxBackend(folder, manifest), reference, NumpyAccumulator(), probes, limit=1e-5).run_all()
    sequences = [feeds for kind, feeds in reference.seen if kind == "sequence"]
    assert {feeds["tokens"].shape[1] for feeds in sequences} == {1, 7, 33}
    sizes = {len(feeds["lengths"]) for feeds in sequences}
    assert {1, 8} < sizes and sizes <= set(range(1, 9))
    assert all(1 in feeds["lengths"] for feeds in sequences if len(feeds["lengths"]) > 1)
    assert len({len(set(feeds["lengths"])) for feeds in sequences}) > 2

    steps = [feeds for kind, feeds in reference.seen if kind == "step"]
    reads, writes = [feeds["read_slots"] for feeds in steps], [feeds["write_slots"] for feeds in steps]
    assert any(read.tolist() == [0] for read in reads), "a sequence starts"
    assert any(len(set(read)) < len(read) for read in reads), "a sequence forks"
    assert any((read[-1], write[-1]) == (0, 1) for read, write in zip(reads, writes, strict=True)), "a row is padding"
    swapped = [set(read) == set(write) and not (read == write).all() for read, write in zip(reads, writes, strict=True)]
    assert any(swapped), "slots are read and written crosswise"
    assert all(len(set(write)) == len(write) and 0 not in write for write in writes)


def test_a_row_is_cut_to_its_own_extent(tmp_path: Path) -> None:
    _, manifest = write_bundle(tmp_path, step_graph(), sequence_graph())
    tokens = np.arange(6).reshape(2, 3)
    feeds = {
        "tokens": tokens,
        "targets": tokens,
        "lengths": np.array([3, 2]),
        "initial_hidden_0": np.ones((2, 3), np.float32),
    }
    alone = row_of(manifest.graphs["sequence"], feeds, 1)
    assert alone["tokens"].tolist() == [[3, 4]] and alone["lengths"].tolist() == [2]
    assert alone["initial_hidden_0"].shape == (1, 3)


def test_ties_among_the_best_may_come_in_either_order_and_nothing_else_may() -> None:
    want = {"log_probs": np.log(np.array([[0.4, 0.4, 0.15, 0.05]], np.float32))}

    def worst(tokens: list[int], probabilities: list[float]) -> float:
        got = {"top_log_probs": np.log(np.array([probabilities], np.float32)), "top_tokens": np.array([tokens])}
        return max(difference(left, right) for _, left, right in pairs(got, want))

    assert worst([0, 1], [0.4, 0.4]) == worst([1, 0], [0.4, 0.4]) == 0
    assert worst([0, 2], [0.4, 0.15]) > 0.5  # one of the best left out
    assert worst([0, 2], [0.4, 0.4]) > 0.5  # another token's probability
    assert worst([0, 0], [0.4, 0.4]) == math.inf  # one token twice


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        (np.array([1.0, 2.5]), np.array([1.0, 2.0]), 0.5),
        (np.array([np.inf]), np.array([np.inf]), 0),
        (np.array([np.nan]), np.array([np.nan]), math.inf),
        (np.array([np.nan, 1]), np.array([0.0, 1]), math.inf),
        (np.array([-np.inf]), np.array([-np.inf]), 0),
        (np.array([np.inf]), np.array([0.0]), math.inf),
        (np.zeros(2), np.zeros(3), math.inf),
        (np.zeros(2, np.float32), np.zeros(2, np.float64), math.inf),
        (np.array([3, 1]), np.array([1, 2]), 2),
        (np.zeros(0), np.zeros(0), 0),
    ],
)
def test_differences(got: Array, want: Array, expected: float) -> None:
    assert difference(got, want) == expected


def test_bit_identity_sees_the_sign_of_zero() -> None:
    zero, minus = np.array([0.0], np.float32), np.array([-0.0], np.float32)
    assert difference(zero, minus) == 0
    assert difference(zero, minus, exact=True) > 0
    assert difference(minus, minus, exact=True) == 0


def test_rounding_excuses_nothing_where_it_is_not_a_number() -> None:
    assert rounding(np.array([1.0, 2.0], np.float32), np.array([1.0, 2.5])) == 0.5
    assert rounding(np.array([np.inf], np.float32), np.array([1e39])) == 0
    assert rounding(np.array([np.nan], np.float32), np.array([1.0])) == 0
    assert rounding(np.zeros(0, np.float32), np.zeros(0)) == 0


class InexactAtLength(NumpyAccumulator):
    """As if the reference's own scores of long sequences were off."""

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        outputs = {name: array.astype(np.float64) for name, array in super().run(kind, feeds).items()}
        if kind == "sequence" and feeds["tokens"].shape[1] == 33:
            outputs["target_log_probs"] += 1e-3
        return outputs


def test_what_the_reference_rounds_at_33_steps_is_no_excuse_at_7(tmp_path: Path) -> None:
    rows = check(tmp_path, step_graph(), sequence_graph(corrupted()), InexactAtLength())
    row = rows["random inputs", "sequence", "target_log_probs"]
    assert row.longest in (1, 7) and row.limit == 1e-5 and not row.passed


class Inexact(NumpyAccumulator):
    """As if the reference's own log-probabilities of a step were off by a given amount."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        outputs = super().run(kind, feeds)
        return {name: array.astype(np.float64) + self.by * (name == "log_probs") for name, array in outputs.items()}


@pytest.mark.parametrize(("by", "limit"), [(0.0, 1e-5), (2e-6, 1e-5), (1e-5, 4e-5), (1e-3, 4e-3)])
def test_where_the_reference_is_not_exact_the_limit_is_four_times_its_rounding(
    tmp_path: Path, by: float, limit: float
) -> None:
    rows = check(tmp_path, step_graph(corrupted()), sequence_graph(), Inexact(by))
    for tensor in ("log_probs", "top_log_probs", "top_tokens"):
        row = rows["carried state", "step", tensor]
        assert row.rounding == pytest.approx(by, rel=0.05, abs=2e-7)
        assert row.limit == pytest.approx(limit, rel=0.05)
        assert row.limit is not None and row.passed == (row.difference <= row.limit)
    # Nothing else has become laxer for it.
    assert rows["carried state", "step", "hidden_0"].limit == 1e-5
    assert rows["alone = batched", "step", "log_probs"].limit == 0
    assert ("carried state", "step", "hidden_0") in failed(rows)
