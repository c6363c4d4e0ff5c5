"""The script for GPUs from its command to its file: every part, tiny, on the processor; and without a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from bench.gpu import __main__ as script
from bench.gpu import machine
from bench.gpu.__main__ import NO_CARD, main, summarise
from bench.gpu.config_models import CONFIGS, SIZES
from bench.gpu.journal import Found
from bench.gpu.parts import PARTS, Order, Outcome
from bench.gpu.plan import FULL, PARITY_LIMITS, SMOKE
from export.parity import LIMITS
from models.vocabulary import VOCABULARY_ROLES
from service.runtime.providers import CPU, CUDA


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The file that a smoke run writes."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    status = main(["--provider", "cpu", "--smoke", f"--out={out}"])
    found: dict[str, Any] = json.loads(out.read_text())
    empty = [
        row for one in found["parts"].values() for rows in one["tables"].values() for row in rows if row.get("note")
    ]
    assert status == 0, (empty, {name: (one["fault"], one["broken"]) for name, one in found["parts"].items()})
    return found


def rows_of(content: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """Rows of the last table of a part."""
    rows: list[dict[str, Any]] = list(content["parts"][part]["tables"].values())[-1]
    return rows


@pytest.mark.slow
@pytest.mark.timeout(500)  # that of the parts together
class TestSmoke:
    def test_every_part_comes_to_its_end_and_fills_its_rows(self, content: dict[str, Any]) -> None:
        assert list(content["parts"]) == list(PARTS)
        for name, part in content["parts"].items():
            assert part["fault"] == "" and part["broken"] == [] and part["tables"], name
            assert part["seconds"] <= part["budget_s"]

    def test_all_families_are_compared_in_all_variants(self, content: dict[str, Any]) -> None:
        rows = next(iter(content["parts"]["parity"]["tables"].values()))
        assert {row["model"].split("-")[0] for row in rows} == {"tagger", "language", "translator"}
        cells = {row["cells"] for row in rows if row["model"] == "language-gru-fp32"}
        assert cells == {"node", "primitive", "folded"}
        compared = {"sequence", "step", "chunk", "states", "memories"}
        assert {part for row in rows for part in compared if row[part] is not None} == compared
        (plain,) = (row for row in rows if row["model"] == "language-gru-fp32" and row["cells"] == "node")
        assert plain["worst"] == 0, "the same graph, only its memory lies elsewhere"

    def test_state_stays_where_it_is(self, content: dict[str, Any]) -> None:
        for row in rows_of(content, "residence"):
            assert row["updated"] == "in place" and row["poisoned row stays"] == row["bystander stays"] == "yes"
        for row in rows_of(content, "traffic"):
            assert row["beyond"] == 0
            assert row["up"] >= row["tokens and indices"] == 3 * 8 * row["sessions"]
            assert row["down"] >= row["results"] == (4 + 8) * row["sessions"]

    def test_steps_stand_beside_torch_and_the_floor(self, content: dict[str, Any]) -> None:
        rows = rows_of(content, "steps")
        assert {(row["sessions"], row["graphs"]) for row in rows} == {
            (n, g) for n in SMOKE.sessions for g in ("on", "off")
        }
        for row in rows:
            assert row["steps/s"] == pytest.approx(row["sessions"] / row["us a step"] * 1e6)
            assert row["x floor"] == pytest.approx(row["us a step"] / row["floor us"])
            assert row["torch eager us"] > 0 and row["torch captured us"] is None

    def test_both_doors_of_the_wire_and_all_configs_are_measured(self, content: dict[str, Any]) -> None:
        rows = rows_of(content, "wire")
        assert len(rows) == (2 + 1) * len(SMOKE.sessions) and all(0 < row["p50 ms"] <= row["p99 ms"] for row in rows)
        assert [row["config"] for row in rows_of(content, "crossover")] == list(SMOKE.configs)


@pytest.fixture
def no_part_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(order: Order) -> Outcome:
        raise AssertionError(f"{order.part} was begun")

    monkeypatch.setattr(script, "run", run)


@pytest.mark.usefixtures("no_part_is_run")
def test_without_a_provider_for_gpus_it_says_so_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["Other", CPU])
    assert main([]) == NO_CARD == 3
    out, err = capsys.readouterr()
    assert out == "" and err == (
        f"bench.gpu: no GPU can be used here: expected an ONNX Runtime with {CUDA}, got one with Other, {CPU}\n"
    )


@pytest.mark.usefixtures("no_part_is_run")
def test_without_a_driver_it_says_so_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(machine, "what_is_missing", lambda: "no NVIDIA driver")
    assert main([]) == 3
    assert (
        capsys.readouterr().err == "bench.gpu: no GPU can be used here: expected one that works, got no NVIDIA driver\n"
    )


@pytest.mark.usefixtures("no_part_is_run")
def test_a_processor_shows_nothing_about_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--provider", "cpu"])
    assert "--provider cpu: expected --smoke with it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome("peer", Found(tables={"t": [{"a": 1}]}, notes=["n"]), 1.0, 2.0), 0),
        (Outcome("peer", Found(), 1.0, 2.0, fault="it fell over"), 1),
        (Outcome("peer", Found(broken=["a promise"]), 1.0, 2.0), 1),
        (Outcome("peer", Found(tables={"t": [{"a": 1, "note": "why"}]}), 1.0, 2.0), 1),
    ],
)
def test_the_exit_status_says_whether_all_was_shown(
    outcome: Outcome, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summarise([outcome], Console(width=200)) == status
    said = capsys.readouterr().out
    assert all(text in said for text in (outcome.fault, *outcome.found.broken))


def test_parts_share_the_seconds_of_the_run_and_what_they_found_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, orders, written = tmp_path / "out.json", list[Order](), list[list[str]]()

    def run(order: Order) -> Outcome:
        written.append(list(json.loads(out.read_text())["parts"]) if out.exists() else [])
        orders.append(order)
        return Outcome(order.part, Found(), 1.0, order.budget_s)

    monkeypatch.setattr(script, "run", run)
    main(["--provider", "cpu", "--smoke", "--parts", "wire", "machine", f"--out={out}", "--seconds=30"])
    assert [order.part for order in orders] == ["machine", "wire"], "in the order of the parts"
    assert orders[0].budget_s == SMOKE.budgets["machine"] and orders[1].budget_s <= 30 < SMOKE.budgets["wire"]
    assert written == [[], ["machine"]]


def test_all_configs_are_run_with_vocabularies_for_all_their_roles() -> None:
    assert FULL.configs == tuple(SIZES) and {path.stem for path in CONFIGS.glob("*.yaml")} == set(SIZES)
    for name, sizes in SIZES.items():
        family = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]["family"]
        assert set(sizes) == set(VOCABULARY_ROLES[family])


def test_limits_are_those_of_the_export() -> None:
    assert {name: limit for name, limit in LIMITS.items() if limit is not None} == PARITY_LIMITS


def test_all_parts_fit_into_eight_minutes() -> None:
    assert set(FULL.budgets) == set(PARTS) and sum(FULL.budgets.values()) <= 470
