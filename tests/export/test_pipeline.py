"""Real models of each family, trained for a moment, from the training run to a published bundle."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.bundle import BundleError, list_versions, load_crf, load_manifest, load_tokenizers
from export.emit.emit import emit
from export.emit.emitted import EmittedModel
from export.manifest import GraphKind, Variant, variants, with_variant
from export.parity import OnnxBackend
from export.pipeline import export_run
from export.quality import QualityLimits
from export.report import ParityError, ParityReport
from models.search import greedy_search
from models.tagger import Tagger
from models.training.checkpoint import load
from models.training.errors import RunError
from tests.export.by_hand import measure_by_hand
from tests.export.runs import train

FAMILIES = ("tagger", "encoder_decoder", "language_model")
MEASURES = {
    "tagger": "token accuracy",
    "encoder_decoder": "token error rate",
    "language_model": "perplexity (loss relative)",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each family; the tagger with a CRF."""
    folder = tmp_path_factory.mktemp("runs")
    return {family: train(folder / family, family, crf=family == "tagger") for family in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_becomes_a_bundle_that_loads_and_has_passed(family: str, runs: dict[str, Path], tmp_path: Path) -> None:
    lines: list[str] = []
    published = export_run(runs[family], tmp_path / "repository", on_progress=lines.append)
    assert published.folder == tmp_path / "repository" / f"tiny-{family.replace('_', '-')}" / "1"
    manifest = load_manifest(published.folder)
    assert manifest == published.manifest
    assert (manifest.task, manifest.precision, manifest.version) == (family, "fp32", 1)

    report = ParityReport.model_validate_json((published.folder / "parity.json").read_bytes())
    assert report == published.report and report.passed and "parity.json" in manifest.files
    (greedy,) = (row for row in report.checks if row.check == "greedy, real inputs")
    assert greedy.difference == 0 and greedy.count >= 20
    roundings = [row.rounding for row in report.checks if row.rounding is not None]
    assert 1e-8 < max(roundings) < 2.5e-6, "PyTorch is measured, and exact enough here for 1e-5 to be the limit"
    assert {row.limit for row in report.checks} == {0, 1e-5}
    assert {row.check for row in report.checks} >= {"random inputs", "carried state", "alone = batched"}
    assert lines[-1].endswith(str(published.folder))

    checkpoint = load(runs[family])
    tokenizers = load_tokenizers(published.folder, manifest)
    assert {role: tokenizer.vocabulary for role, tokenizer in tokenizers.items()} == {
        role: tokenizer.vocabulary for role, tokenizer in checkpoint.tokenizers.items()
    }
    assert manifest.metrics == checkpoint.metrics and manifest.data == checkpoint.data
    assert manifest.training_config["seed"] == checkpoint.config.seed
    assert str(tmp_path.parent) not in json.dumps(manifest.training_config), "no path of this machine"
    assert {"torch", "onnx", "numpy"} <= set(manifest.tool_versions)


@pytest.mark.slow
def test_the_scores_of_a_crf_are_the_models(runs: dict[str, Path], tmp_path: Path) -> None:
    published = export_run(runs["tagger"], tmp_path, name="renamed")
    crf, model = load_crf(published.folder, load_manifest(published.folder)), load(runs["tagger"]).model
    assert published.folder == tmp_path / "renamed" / "1"
    assert isinstance(model, Tagger) and model.crf is not None and crf is not None
    for name in ("start", "end", "transitions"):
        np.testing.assert_array_equal(getattr(crf, name), getattr(model.crf, name).detach().numpy())


@pytest.mark.slow
def test_a_published_encoder_decoder_answers_as_torch_does(runs: dict[str, Path], tmp_path: Path) -> None:
    """The graphs from the published folder, driven by hand, against the search that evaluation uses."""
    published, checkpoint = export_run(runs["encoder_decoder"], tmp_path), load(runs["encoder_decoder"])
    backend = OnnxBackend(published.folder, published.manifest)
    source = checkpoint.tokenizers["source"]
    for text in ("fade", "a", "deadbeef"):
        ids = np.array([source.encode(text)])
        rows, length = 2 + np.arange(ids.shape[1])[None], np.array([ids.shape[1]])
        backend.allocate(4, 2 + ids.shape[1])
        slot = np.array([3])
        backend.run("encode", {"source": ids, "lengths": length, "source_rows": rows, "write_slots": slot})
        answer, token = list[int](), 2
        for _ in range(12):
            feeds = {"tokens": np.array([token]), "read_slots": slot, "write_slots": slot}
            token = int(
                backend.run("step", {**feeds, "source_rows": rows, "source_lengths": length})["top_tokens"][0, 0]
            )
            if token == 3:
                break
            answer.append(token)
        (expected,) = greedy_search(checkpoint.model, torch.from_numpy(ids), torch.from_numpy(length), max_tokens=12)  # type: ignore[arg-type]
        assert tuple(answer) == expected.tokens


def corrupting(
    *kinds: GraphKind, weight: str, by: float = 0.05, variant: Variant | None = None
) -> Callable[..., EmittedModel]:
    """An emitter that gets one number of one weight wrong, in each of these graphs, or of these of a variant."""

    def emit_wrongly(model: nn.Module, *arguments: object, **settings: object) -> EmittedModel:
        emitted = emit(model, *arguments, **settings)  # type: ignore[arg-type]
        graphs = emitted.graphs if variant is None else emitted.variants[variant]
        for kind in kinds:
            (tensor,) = (found for found in graphs[kind].graph.initializer if found.name == weight)
            values = numpy_helper.to_array(tensor).copy()
            values.flat[values.size // 2] += by
            tensor.CopyFrom(numpy_helper.from_array(values, weight))
        return emitted

    return emit_wrongly


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "weight", "worst"),
    [
        ("tagger", "sequence", "output.bias", {"sequence.emissions"}),
        (
            "tagger",
            "sequence",
            "character_stack.0.W",
            {"sequence.emissions", "sequence.final_cell_0_forward", "sequence.final_cell_0_backward"},
        ),
        ("encoder_decoder", "encode", "attention.key.weight", {"encode.keys"}),
        ("encoder_decoder", "encode", "bridge.bias", {"encode.hidden_0", "encode.cell_0"}),
        ("encoder_decoder", "step", "decoder.0.R", {"step.hidden_0", "step.cell_0"}),
        ("encoder_decoder", "step", "output.weight", {"step.top_log_probs", "step.top_tokens"}),
        ("language_model", "step", "output.bias", {"step.log_probs", "step.top_log_probs", "step.top_tokens"}),
        ("language_model", "sequence", "stack.1.R", {"sequence.final_cell_1"}),
        ("language_model", "chunk", "output.bias", {"chunk.top_log_probs", "chunk.top_tokens"}),
    ],
)
def test_one_wrong_weight_in_a_graph_publishes_nothing_and_names_the_tensor(
    family: str,
    kind: GraphKind,
    weight: str,
    worst: set[str],
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.pipeline.emit", corrupting(kind, weight=weight))
    with pytest.raises(ParityError, match="parity: worst tensor") as caught:
        export_run(runs[family], tmp_path)
    assert any(f"worst tensor {tensor} in" in str(caught.value) for tensor in worst), str(caught.value)
    assert not caught.value.report.passed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_failed_export_leaves_the_versions_before_it_alone(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export_run(runs["language_model"], tmp_path)
    monkeypatch.setattr("export.pipeline.emit", corrupting("step", weight="output.bias"))
    with pytest.raises(ParityError):
        export_run(runs["language_model"], tmp_path)
    monkeypatch.undo()
    second = export_run(runs["language_model"], tmp_path)
    assert [found.folder for found in list_versions(tmp_path)] == [first.folder, second.folder]
    assert load_manifest(first.folder) == first.manifest


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_published_with_what_it_costs_and_is_as_blind_to_company(
    family: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    lax = QualityLimits(disagreement=0.2, accuracy=0.2, error_rate=0.5, perplexity=0.2)
    published = export_run(runs[family], tmp_path, "int8", quality_limits=lax)
    report = published.report
    assert (load_manifest(published.folder).precision, report.precision) == ("int8", "int8")
    exact = [row for row in report.checks if row.check in ("alone = batched", "untouched rows", "chunk = steps")]
    assert exact and all((row.limit, row.difference) == (0, 0) for row in exact)
    against = [row for row in report.checks if row not in exact]
    assert all(row.limit is None for row in against)
    assert 1e-4 < max(row.difference for row in against) < 0.5, "it is quantised, and not another model"
    agreement, measured = report.quality
    assert agreement.measure == "decisions equal to fp32's, share" and agreement.fp32 is None
    assert 0.8 <= agreement.quantized <= 1
    assert measured.measure == MEASURES[family]
    assert measured.fp32 is not None and measured.fp32 == pytest.approx(measure_by_hand(family, runs[family]), rel=1e-5)


@pytest.mark.slow
def test_int8_that_costs_too_much_is_not_published(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.pipeline.emit", corrupting("step", "chunk", weight="output.bias", by=20.0))
    with pytest.raises(
        ParityError, match=r"quantisation: decisions equal to fp32's, share: expected a loss of at most 0\.02"
    ):
        export_run(runs["language_model"], tmp_path, "int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["encoder_decoder", "language_model"])
def test_an_export_for_cuda_holds_variants_that_have_passed_what_their_graphs_have(
    family: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    published = export_run(runs[family], tmp_path, for_cuda=True)
    manifest = load_manifest(published.folder)
    assert variants(manifest) == ("primitive", "folded") and published.report.passed
    kinds: list[GraphKind] = [kind for kind in ("step", "chunk") if kind in manifest.graphs]
    for kind in kinds:
        checks = {row.check for row in published.report.checks if row.graph == kind}
        for variant in variants(manifest):
            rows = [row for row in published.report.checks if row.graph == f"{kind}.{variant}"]
            assert {row.check for row in rows} == checks and "alone = batched" in checks
            assert {row.limit for row in rows} <= {0, 1e-5}
            assert with_variant(manifest, variant).graphs[kind].file == f"{kind}.{variant}.onnx" in manifest.files
    whole = {"sequence", "encode"} & manifest.graphs.keys()
    for name, graph in with_variant(manifest, "folded").graphs.items():
        assert name not in whole or graph == manifest.graphs[name]
    assert with_variant(manifest, None) == manifest
    assert {row.graph for row in published.report.checks} == whole | {
        f"{kind}{of}" for kind in kinds for of in ("", ".primitive", ".folded")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "variant", "weight", "worst"),
    [
        ("step", "primitive", "stack.0.joined.weight", "step.primitive."),
        ("step", "folded", "stack.0.folded", "step.folded."),
        ("chunk", "folded", "output.bias", "chunk.folded."),
    ],
)
def test_one_wrong_weight_in_a_variant_publishes_nothing_and_names_it(
    kind: GraphKind,
    variant: Variant,
    weight: str,
    worst: str,
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrongly = corrupting(kind, weight=weight, variant=variant, by=0.5)
    monkeypatch.setattr("export.pipeline.emit", wrongly)
    with pytest.raises(ParityError) as caught:
        export_run(runs["language_model"], tmp_path, for_cuda=True)
    failed = {row.graph for row in caught.value.report.checks if not row.passed}
    assert f"{kind}.{variant}" in failed and failed <= {f"step.{variant}", f"chunk.{variant}"}
    assert f"worst tensor {worst}" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_bundle_for_any_machine_holds_each_graph_once(runs: dict[str, Path], tmp_path: Path) -> None:
    manifest = export_run(runs["language_model"], tmp_path).manifest
    assert variants(manifest) == ()
    assert {name for name in manifest.files if name.endswith(".onnx")} == {"sequence.onnx", "step.onnx", "chunk.onnx"}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_fp16_is_held_to_numbers_and_to_decisions(family: str, runs: dict[str, Path], tmp_path: Path) -> None:
    published = export_run(runs[family], tmp_path, "fp16", for_cuda=True)
    manifest, report = load_manifest(published.folder), published.report
    assert (manifest.precision, report.precision) == ("fp16", "fp16")
    kept = {state.dtype for state in manifest.states} | {memory.dtype for memory in manifest.memories}
    assert kept == {"float32"}
    for graph in manifest.graphs.values():
        assert {tensor.dtype for tensor in (*graph.inputs, *graph.outputs)} <= {"int64", "float32"}
    exact = [row for row in report.checks if row.limit == 0]
    assert {row.check for row in exact} >= {"alone = batched"} and all(row.difference == 0 for row in exact)
    against = [row for row in report.checks if row.limit != 0]
    assert {row.limit for row in against} == {0.05}
    assert 1e-5 < max(row.difference for row in against) < 0.01, "it is rounded, and not another model"
    agreement, measured, *of_variants = report.quality
    assert agreement.quantized >= 0.98 and measured.measure == MEASURES[family]
    names = [] if family == "tagger" else ["primitive", "folded"]
    assert [row.measure for row in of_variants] == [f"{agreement.measure} ({name})" for name in names]
    files = [graph.file for graph in manifest.graphs.values()]
    weights = [weight for file in files for weight in onnx.load(published.folder / file).graph.initializer]
    halves = [weight for weight in weights if weight.data_type == onnx.TensorProto.FLOAT16]
    assert {weight.name for weight in weights if weight.data_type == onnx.TensorProto.FLOAT and weight.dims} <= {
        weight.name for weight in weights if weight.name.startswith(("attention", "constant"))
    }
    assert halves


@pytest.mark.slow
def test_fp16_past_its_limit_is_not_published(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.pipeline.emit", corrupting("step", weight="output.bias", by=0.2))
    with pytest.raises(ParityError, match=r"worst tensor step\..*: expected a difference of at most 0\.05, got 0\.1"):
        export_run(runs["language_model"], tmp_path, "fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_exports_of_one_run_hold_the_same_graphs(runs: dict[str, Path], tmp_path: Path) -> None:
    first, second = (export_run(runs["language_model"], tmp_path).manifest.files for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_graphs_stay_at_an_opset_that_the_cuda_kernels_know(runs: dict[str, Path], tmp_path: Path) -> None:
    published = export_run(runs["encoder_decoder"], tmp_path)
    for graph in published.manifest.graphs.values():
        model = onnx.load(published.folder / graph.file)
        assert all(opset.version <= 21 for opset in model.opset_import)


@pytest.mark.parametrize("name", ["Upper", "a/b", "..", "", ".hidden", "x" * 65])
def test_a_name_that_cannot_be_a_models_is_refused(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="model name: expected"):
        export_run(runs["tagger"], tmp_path / "repository", name=name)
    assert not (tmp_path / "repository").exists()


def test_a_run_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a finished training run, got no run"):
        export_run(tmp_path / "nowhere", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
