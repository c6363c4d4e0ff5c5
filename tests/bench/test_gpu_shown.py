"""What the script for GPUs finds out is so: held against other arithmetic, and against runners that are broken."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from bench.gpu import models, opened, parity, traffic
from bench.gpu.budget import Budget
from bench.gpu.cards import known
from bench.gpu.floor import Floor
from bench.gpu.inputs import LENGTH, draw
from bench.gpu.journal import Journal
from bench.gpu.opened import CountedMemory, Opened, Traffic, open_plain
from bench.gpu.parity import Worst, compare
from bench.gpu.peer import TorchSteps
from bench.gpu.plan import Context, Size
from bench.gpu.residence import prove
from bench.gpu.wire_client import Load, step_all
from bench.report import Report, show
from export.manifest import GraphKind, Variant
from service.runtime.device.memory import HostMemory, Transfer
from service.runtime.providers import CPU
from tests.bench.servers import Sessions, serving

SIZE = Size(vocabulary=30, embedding=6, hiddens=(8,))


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200 SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80 GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40 GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_cards_are_known_by_what_the_driver_calls_them(name: str, card: str | None) -> None:
    found = known(name)
    assert (found.name if found else None) == card


@pytest.mark.parametrize(("precision", "weight_bytes"), [("fp32", 4), ("fp16", 2)])
def test_the_floor_counts_the_weights_that_torch_has(precision: str, weight_bytes: int) -> None:
    lstm, output = torch.nn.LSTM(6, 8, 2), torch.nn.Linear(8, 30)
    weights = sum(one.numel() for one in (*lstm.parameters(), *output.parameters()))
    floor = Floor.of(SIZE, 8, precision)
    assert floor.operations(5) == 2 * 5 * weights
    states = 5 * 2 * 2 * 8 * 4  # rows, h and c, layers, units, float32
    assert floor.bytes_moved(5) == weights * weight_bytes + 5 * 6 * weight_bytes + 2 * states


def test_the_floor_is_what_takes_longer() -> None:
    card, floor = known("NVIDIA H100 80GB HBM3"), Floor.of(Size(), 1024, "fp32")
    assert card is not None
    assert floor.seconds(1, card, "fp32") == floor.bytes_moved(1) / 3.35e12 > floor.operations(1) / 67e12
    assert floor.seconds(16384, card, "fp32") == floor.operations(16384) / 67e12 > floor.bytes_moved(16384) / 3.35e12
    assert Floor.of(Size(), 1024, "fp16").seconds(16384, card, "fp16") < 0.1 * floor.seconds(16384, card, "fp32")


def test_steps_of_torch_carry_their_states() -> None:
    steps = TorchSteps(SIZE, 8, "fp32", 4, torch.device("cpu"))
    for _ in range(3):
        steps.eager()
    with torch.inference_mode():
        embedded = steps.embedding(steps.host_tokens).expand(3, 4, 6)
        output, _ = steps.lstm(embedded)
        expected = torch.log_softmax(steps.output(output[-1]), dim=-1).max(dim=-1)
    assert torch.equal(steps.host_best, expected.indices)
    torch.testing.assert_close(steps.host_log_probs, expected.values)


# ------------------------------------------------------------------------------------------------------------- parity


def test_the_largest_difference_counts_and_nan_is_as_far_off_as_can_be() -> None:
    worst = Worst()
    worst.compare("step", np.array([1.0, 2.0], np.float32), np.array([1.0, 2.5], np.float32))
    worst.compare("step", np.array([1.0], np.float32), np.array([1.25], np.float32))
    worst.compare("states", np.array([], np.float32), np.array([], np.float32))
    worst.compare("step", np.array([1, 2, 3]), np.array([1, 3, 3]))
    assert worst.by_part == {"step": 0.5, "states": 0.0} and worst.largest == 0.5
    assert (worst.choices, worst.other_choices) == (3, 1)
    worst.compare("memories", np.array([np.nan]), np.array([np.nan]))
    assert worst.by_part["memories"] == 0, "the processor has it too"
    worst.compare("states", np.array([np.nan, np.nan]), np.array([np.nan, 1.0]))
    assert worst.largest == np.inf


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and a translator."""
    from bench.untrained import publish_untrained
    from export.manifest import DecodingDefaults

    folder = tmp_path_factory.mktemp("gpu") / "repository"
    for name in ("language-lstm", "translator-gru-additive"):
        config = models.small_models(Size(width=6))[name]
        words, kinds = models._vocabularies(config, 40)
        publish_untrained(folder, name, config, words, kinds, "fp32", DecodingDefaults(top_k=4), for_cuda=True)
    return folder


@pytest.mark.parametrize("name", ["language-lstm", "translator-gru-additive"])
def test_the_same_graphs_are_equal_and_another_variant_is_near(repository: Path, name: str) -> None:
    folder = repository / name / "1"
    assert compare(folder, CPU, (1, 3)).largest == 0
    assert 0 < compare(folder, CPU, (1, 3), "primitive").largest < 1e-5


class CapturingMemory(HostMemory):
    """Memory of the host whose runs are captured; to the processor a replay is a run like any other."""

    captures = True


def test_steps_are_captured_in_every_variant_and_of_few_rows_at_least(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "HostMemory", CapturingMemory)
    folder = tmp_path / "language-lstm-fp32" / "1"  # a name that says the precision, as those that are made
    folder.parent.symlink_to(repository / "language-lstm")
    context = Context(CPU, SIZE, tmp_path, tmp_path, Journal(tmp_path / "journal"), Budget(100))
    variants: list[Variant | None] = [None, "primitive"]
    captured = [str(parity._answers(context, folder, variant)["captured rows"]).split(", ") for variant in variants]
    assert {"1", "8", "64"} <= set(captured[0])  # those that 1, 5 and 64 rows are padded to
    assert {"1", "8"} <= set(captured[1]) and "64" not in captured[1]


@pytest.mark.parametrize("at", ["step", "states", "memories"])
def test_an_error_anywhere_is_seen(repository: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that is off by a little in one place: on the device's side alone, which is opened first."""
    folder = repository / "translator-gru-additive" / "1"
    first = list[Opened]()
    real = Opened.run

    def run(opened: Opened, kind: GraphKind, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        results = real(opened, kind, inputs, outputs)
        first.append(opened)
        if opened is first[0] and kind == "step":
            if at == "step":
                results["top_log_probs"][-1, -1] += 1e-3
            elif at == "states":
                runner = opened.runner
                row = int(inputs["write_slots"][-1])
                runner.write_rows([row], {name: array + 1e-3 for name, array in runner.read_rows([row]).items()})
            else:
                runner = opened.runner
                row = int(inputs["source_rows"][0, 0])
                runner.write_memory([row], {name: array + 1e-3 for name, array in runner.read_memory([row]).items()})
        return results

    monkeypatch.setattr(Opened, "run", run)
    assert compare(folder, CPU, (2,)).by_part[at] > 5e-4


def test_padding_is_not_compared() -> None:
    output = np.arange(2 * LENGTH * 3).reshape(2, LENGTH, 3)
    real = parity._real(output, {"lengths": np.array([LENGTH, 2])})
    assert np.array_equal(real, np.concatenate([output[0], output[1, :2]]))
    assert parity._real(output, {}) is output


def test_inputs_are_what_the_graphs_take(repository: Path) -> None:
    """ONNX Runtime itself refuses what is not; every graph of both runs on them."""
    for name in ("language-lstm", "translator-gru-additive"):
        folder = repository / name / "1"
        manifest = models.manifest_of(folder)
        with open_plain(folder, 12, memory_rows=64) as opened:
            for kind, spec in manifest.graphs.items():
                fed = draw(spec, manifest, 3, np.random.default_rng(0), {})
                opened.run(kind, fed, [spec.outputs[-1].name] if kind == "sequence" else ())
                assert all(array.min() >= 1 for key, array in fed.items() if "lengths" in key)


# ---------------------------------------------------------------------------------------------------------- residence


class FakeRunner:
    """One number a row, stepped by adding the token; broken in one way."""

    def __init__(self, flaw: str) -> None:
        self.flaw, self.pool = flaw, np.zeros((12, 1), np.float32)

    def read_rows(self, rows: Sequence[int]) -> dict[str, Any]:
        return {"state": self.pool[list(rows)].copy()}

    def write_rows(self, rows: Sequence[int], tensors: Mapping[str, Any]) -> None:
        self.pool[list(rows)] = tensors["state"]

    def run(self, kind: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        new = self.pool[inputs["read_slots"]] + inputs["tokens"][:, None]
        if self.flaw == "mixes rows":
            new = new + 0 * new.sum()
        if self.flaw == "mends":
            new = np.nan_to_num(new)
        self.pool[inputs["write_slots"]] = new
        if self.flaw == "heals the poisoned":
            self.pool[7] = 0
        if self.flaw == "touches all":
            self.pool *= np.float32(1 + 1e-6)
        return {"top_log_probs": new[:, :1], "top_tokens": new[:, :1].astype(np.int64)}


@pytest.mark.parametrize(
    ("flaw", "broken"),
    [
        ("", set()),
        ("mixes rows", {"poison reaches its reader alone"}),
        ("mends", {"poison reaches its reader alone"}),
        ("heals the poisoned", {"poisoned row stays", "poison reaches its reader alone"}),
        ("touches all", {"bystander stays"}),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_rows_that_are_not_apart_are_told(flaw: str, broken: set[str]) -> None:
    found = prove(Opened(cast(Any, FakeRunner(flaw)), Traffic()), 30, [])
    assert {promise for promise, holds in found.items() if holds != "yes"} == broken


# ------------------------------------------------------------------------------------------------------------ traffic


def test_copies_are_made_and_counted() -> None:
    count = Traffic()
    memory = CountedMemory(HostMemory(), count)
    block, here = memory.allocate(64), np.arange(16, dtype=np.uint8)
    back = np.zeros(16, np.uint8)

    def pieces(array: Any) -> Iterable[Transfer]:
        """A generator, which can be gone through once."""
        return (Transfer(block.address + at, array.ctypes.data + at, 8) for at in (0, 8))

    memory.upload(pieces(here))
    memory.download(pieces(back))
    memory.download(pieces(back))
    assert np.array_equal(here, back) and (count.uploaded, count.downloaded) == (16, 32)
    count.clear()
    assert (count.uploaded, count.downloaded) == (0, 0)
    assert (memory.name, memory.device_id, memory.captures) == ("cpu", 0, False)


def test_alignment_explains_some_bytes_and_no_state() -> None:
    assert traffic.beyond(3 * 256, 3 * 8, 3) == 0
    assert traffic.beyond(3 * 256 + 64 * 16384, 3 * 64 * 8, 3) == pytest.approx(64 * 16384 - 3 * 64 * 8)


def copies(folder: Path, work: Path) -> int:
    return traffic.copies_in_graph(folder, models.manifest_of(folder), CPU, 3, work)


def test_nothing_is_copied_within_a_graph_on_one_provider(repository: Path, tmp_path: Path) -> None:
    assert copies(repository / "language-lstm" / "1", tmp_path) == 0
    assert list(tmp_path.iterdir()) == [], "the profile is gone"


def test_copies_between_providers_are_read_from_the_profile(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "profile.json"

    class Session:
        def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> None:
            profile.write_text(
                '[{"args": {"op_name": "MemcpyToHost", "output_size": "24"}}, {"name": "session"},'
                ' {"args": {"op_name": "MatMul", "output_size": "99"}}, {"args": {"op_name": "MemcpyFromHost",'
                ' "output_size": "8"}}]'
            )

        def end_profiling(self) -> str:
            return str(profile)

    monkeypatch.setattr(traffic, "open_raw", lambda *given, **named: Session())
    assert copies(repository / "language-lstm" / "1", tmp_path) == 32


# --------------------------------------------------------------------------------------------------------------- wire


def load(address: str, sessions: int = 5) -> Load:
    return Load(address, "m", sessions, 2, 30, seconds=0.3, warmup=0.1)


async def test_the_plain_client_steps_all_sessions() -> None:
    server = Sessions()
    async with serving(server) as address:
        rate, p50, p99 = await asyncio.to_thread(step_all, load(address), 60.0)
    assert rate > 5 and 0 < p50 <= p99
    assert server.seen["streams"] == 2 and len(server.states) == 5
    assert server.seen["steps"] >= rate * 0.3 + 5, "those of the warm-up do not count"


async def test_the_plain_client_says_what_was_refused() -> None:
    async with serving(Sessions(refuse=lambda number: number == 3)) as address:
        with pytest.raises(RuntimeError, match="expected an answer, got code 8"):
            await asyncio.to_thread(step_all, load(address), 60.0)


async def test_the_plain_client_does_not_wait_for_ever() -> None:
    async with serving(Sessions(delay_s=30.0)) as address:
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(step_all, load(address), 0.5)


def test_figures_that_are_small_are_not_shown_as_zero(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    show(Report("r", "t", [{"small": 0.00012, "zero": 0.0, "usual": 0.25}]), Console(width=80))
    said = capsys.readouterr().out
    assert "1.2e-04" in said and "0.00 " in said and "0.25" in said
