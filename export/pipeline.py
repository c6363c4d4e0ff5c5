"""Export a training run: checkpoint -> graphs -> parity -> a version in the repository."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from export.bundle import check_name
from export.emit.emit import emit
from export.manifest import DecodingDefaults, Manifest, Precision
from export.parity import check_parity
from export.publish import publish, staging
from export.quality import DEFAULT_LIMITS, QualityLimits
from export.report import ParityError, ParityReport
from export.write import write_bundle
from models.training.checkpoint import Checkpoint, load
from models.vocabulary import VOCABULARY_ROLES

MAX_BEAM_SIZE: Final = 8
# Candidates of a step for each live beam: at most half of them end a hypothesis.
CANDIDATES_A_BEAM: Final = 2


@dataclass(frozen=True)
class PublishedBundle:
    """A bundle that exists, and so has passed.

    Args:
        folder: `<repository>/<name>/<version>`.
        manifest: As published.
        report: As in the bundle.
    """

    folder: Path
    manifest: Manifest
    report: ParityReport


def export_run(
    run: Path,
    repository: Path,
    precision: Precision = "fp32",
    name: str | None = None,
    quality_limits: QualityLimits = DEFAULT_LIMITS,
    on_progress: Callable[[str], None] = lambda line: None,
    for_cuda: bool = False,
) -> PublishedBundle:
    """Export a run as the next version of its model, if its graphs do what the model does.

    Args:
        run: Checkpoint folder of a finished training run.
        repository: Where bundles live; made if need be.
        precision: Of the graphs.
        name: Of the model; the run's own without one.
        quality_limits: What fp16 or int8 may cost.
        on_progress: Told each stage in a line.
        for_cuda: Whether the variants of step and chunk are exported as well; the service takes the quickest.

    Raises:
        ValueError: The precision is int8, which CUDA has no products for, and it is for CUDA.
        RunError: The run is not a finished one, or damaged.
        BundleError: The repository cannot be written, or the name is not one.
        EmitError: A weight is too large for fp16.
        ParityError: The graphs differ from the model, or fewer bits cost too much. Nothing was published.
    """
    on_progress(f"loading {run}")
    checkpoint = load(run)
    name = checkpoint.config.name if name is None else name
    check_name(name)
    sizes = {role: len(tokenizer.vocabulary) for role, tokenizer in checkpoint.tokenizers.items()}
    decoding = decoding_defaults(checkpoint, sizes)
    on_progress(f"emitting {precision} graphs")
    emitted = emit(checkpoint.model, precision=precision, top_k=decoding.top_k, for_cuda=for_cuda)
    with staging(repository) as bundle:
        manifest = write_bundle(bundle, name, run, checkpoint, emitted, precision, decoding)
        report = check_parity(
            bundle,
            manifest,
            checkpoint.model,
            checkpoint.tokenizers,
            checkpoint.samples,
            quality_limits,
            on_progress,
        )
        if not report.passed:
            raise ParityError(report)
        report.write(bundle)
        folder, manifest = publish(bundle, repository, manifest)
    on_progress(f"published {folder}")
    return PublishedBundle(folder, manifest, report)


def decoding_defaults(checkpoint: Checkpoint, vocabulary_sizes: dict[str, int]) -> DecodingDefaults:
    """Take the decoding that training was evaluated with; return as many outputs a step as the widest beam needs."""
    evaluation = checkpoint.config.evaluation
    num_outputs = vocabulary_sizes[VOCABULARY_ROLES[checkpoint.config.model.family][-1]]
    max_beam_size = max(MAX_BEAM_SIZE, evaluation.beam_size)
    return DecodingDefaults(
        beam_size=evaluation.beam_size,
        max_beam_size=max_beam_size,
        length_penalty=evaluation.length_penalty,
        max_tokens=evaluation.max_tokens,
        top_k=min(CANDIDATES_A_BEAM * max_beam_size, num_outputs),
    )
