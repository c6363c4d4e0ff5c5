"""Check that exported graphs do what the PyTorch module does, before anybody can load them.

This is the only part of `export` that runs ONNX Runtime.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from export.backend import Array, Feeds, Floats, Ints
from export.checks import Checks
from export.greedy import Greedy
from export.manifest import GraphKind, Manifest, Precision, Variant, variants, with_variant
from export.probes import Probes, inputs, outputs, pool_specs
from export.quality import DEFAULT_LIMITS, QualityLimits, measure_quality, measure_variant
from export.real_inputs import Sample
from export.reference import TorchBackend
from export.report import Check, ParityReport, Quality, Worst
from models.tagger import Tagger
from models.tokenizer import Tokenizer

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

# Largest absolute difference between fp32 graphs and PyTorch on the CPU, wherever PyTorch itself is that exact.
LIMIT: Final = 1e-5
# The same for fp16 graphs: see docs/adr/0009.
HALF_LIMIT: Final = 0.05
LIMITS: Final[Mapping[Precision, float | None]] = {"fp32": LIMIT, "fp16": HALF_LIMIT, "int8": None}
SEED: Final = 20260101
# What decisions are made from.
SCORES: Final = ("emissions", "top_log_probs")


def check_parity(
    folder: Path,
    manifest: Manifest,
    model: nn.Module,
    tokenizers: Mapping[str, Tokenizer],
    samples: Sequence[Sample],
    quality_limits: QualityLimits = DEFAULT_LIMITS,
    on_progress: Callable[[str], None] = lambda line: None,
) -> ParityReport:
    """Compare the graphs of a staged bundle with the PyTorch module, on random and on real inputs.

    Graphs in fp32 are held to `LIMITS` and to the same greedy decisions; int8 ones to `quality_limits`; fp16 ones to
    both limits. That a row's answer does not depend on its company is demanded of all, bit for bit. Variants are held
    to what their graphs are held to.

    Args:
        folder: Where the graphs are.
        manifest: What they are.
        model: What they were exported from.
        tokenizers: By role.
        samples: Real inputs.
        quality_limits: What fp16 or int8 may cost.
        on_progress: Told each stage in a line.

    Returns:
        The report; whether it passed is for the caller to look at.
    """
    checks: list[Check] = []
    quality: list[Quality] = []
    for variant in (None, *variants(manifest)):
        of = "graphs" if variant is None else f"{variant} steps"
        run = manifest if variant is None else _steps_of(manifest, variant)
        graphs, reference = OnnxBackend(folder, run), TorchBackend(model, run)
        exact = TorchBackend(model, run, double=True)
        sizes = {role: len(tokenizer.vocabulary) for role, tokenizer in tokenizers.items()}
        worst = Worst()
        on_progress(f"comparing {of} with PyTorch on random inputs")
        probes = Probes(run, sizes, np.random.default_rng(SEED))
        Checks(graphs, reference, exact, probes, LIMITS[manifest.precision], worst).run_all()
        if _decides(manifest) in run.graphs:
            on_progress(f"decoding {len(samples)} real inputs with both")
            greedy = Greedy(run, samples, tokenizers, _tag_decoder(model))
            if manifest.precision == "fp32":
                _compare_decisions(graphs, reference, greedy, worst)
            elif variant is None:
                quality.extend(measure_quality(graphs, reference, greedy, quality_limits))
            else:
                quality.append(measure_variant(graphs, reference, greedy, variant, quality_limits))
        checks.extend(worst.rows() if variant is None else _renamed(worst.rows(), variant))
    return ParityReport(precision=manifest.precision, seed=SEED, checks=tuple(checks), quality=tuple(quality))


def _compare_decisions(graphs: "OnnxBackend", reference: TorchBackend, greedy: Greedy, worst: Worst) -> None:
    """Demand the same tokens of fp32 graphs."""
    # Two scores that each may be off by the limit have to differ by more to be told apart.
    tolerance = 2 * max(LIMIT, *(worst.widest_limit(tensor) for tensor in SCORES))
    decoded = greedy.decode(reference, graphs, tolerance)
    kind = _decides(greedy.manifest)
    worst.add("greedy, real inputs", kind, "tokens", decoded.differing, 0, decoded.count)
    if decoded.ties:
        worst.add("greedy, real inputs", kind, "ties", decoded.ties, None, decoded.count)


def _steps_of(manifest: Manifest, variant: Variant) -> Manifest:
    """What a variant changes, and what its steps start from: whole sequences are checked once."""
    run = with_variant(manifest, variant)
    return run.model_copy(update={"graphs": {kind: spec for kind, spec in run.graphs.items() if kind != "sequence"}})


def _renamed(rows: Sequence[Check], variant: Variant) -> list[Check]:
    """Rows of the graphs that a variant changes, under its name; what it leaves as it is has rows already."""
    changed = ("step", "chunk")
    return [row.model_copy(update={"graph": f"{row.graph}.{variant}"}) for row in rows if row.graph in changed]


def _decides(manifest: Manifest) -> GraphKind:
    """Which graph the decisions of a task come from."""
    return "sequence" if manifest.task == "tagger" else "step"


def _tag_decoder(model: nn.Module) -> Callable[[Array, Ints], Ints] | None:
    """The tagger's own way from emissions (B, T, K) to tags (B, T)."""
    if not isinstance(model, Tagger):
        return None

    def decode(emissions: Array, lengths: Ints) -> Ints:
        with torch.inference_mode():
            tags: Ints = model.decode(torch.from_numpy(emissions), torch.from_numpy(lengths)).numpy()
        return tags

    return decode


class OnnxBackend:
    """The graphs of a bundle in ONNX Runtime on the CPU, one thread, with the pools updated in place as in the service.

    Args:
        folder: Of the bundle.
        manifest: What is in it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._manifest = manifest
        self._sessions = {
            kind: ort.InferenceSession(folder / graph.file, options, providers=["CPUExecutionProvider"])
            for kind, graph in manifest.graphs.items()
        }
        self._arrays: dict[str, Floats] = {}
        self._values: dict[str, ort.OrtValue] = {}

    @property
    def pools(self) -> Mapping[str, Floats]:
        """See `Backend`; the arrays are the memory that ONNX Runtime reads and writes."""
        return self._arrays

    def allocate(self, num_slots: int, num_rows: int) -> None:
        """See `Backend`."""
        sizes = {spec.name: (num_slots, *spec.shape) for spec in self._manifest.states if spec.pool_input is not None}
        sizes |= {spec.name: (num_rows, *spec.shape) for spec in self._manifest.memories}
        self._arrays = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._arrays.items()}

    def run(self, kind: GraphKind, feeds: Feeds) -> dict[str, Array]:
        """See `Backend`."""
        session, graph = self._sessions[kind], self._manifest.graphs[kind]
        binding = session.io_binding()
        taken, given = {spec.name for spec in graph.inputs}, {spec.name for spec in graph.outputs}
        for pool in pool_specs(self._manifest):
            if pool.pool_input in taken:
                binding.bind_ortvalue_input(pool.pool_input, self._values[pool.name])
            if pool.pool_output in given:
                binding.bind_ortvalue_output(pool.pool_output, self._values[pool.name])
        for spec in inputs(self._manifest, kind):
            binding.bind_cpu_input(spec.name, np.ascontiguousarray(feeds[spec.name]))
        num_pools = len(given) - len(outputs(self._manifest, kind))
        for spec in outputs(self._manifest, kind):
            binding.bind_output(spec.name)
        session.run_with_iobinding(binding)
        values = binding.get_outputs()[num_pools:]
        return {spec.name: value.numpy() for spec, value in zip(outputs(self._manifest, kind), values, strict=True)}
