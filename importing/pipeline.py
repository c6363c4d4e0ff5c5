"""Import a model: read it, find its states, rewrite it, prove that nothing has changed, put it into the repository."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from export.bundle import check_name
from export.manifest import Manifest
from export.publish import publish, staging
from importing.analysis.analyse import Company, analyse
from importing.analysis.draws import Draws
from importing.analysis.examples import check_used, read_examples
from importing.analysis.hints import compared_values, index_ranges, widths
from importing.analysis.inference import refine
from importing.analysis.padding import declare_time
from importing.analysis.sizes import Search
from importing.analysis.walk import Original
from importing.checks import Check, check
from importing.errors import CheckFailed, ImportRefused
from importing.expand import expand
from importing.layout import Layout
from importing.options import parse_state
from importing.reading.model import read_model
from importing.rewrite import rewrite
from importing.session import Session
from importing.signature import Array, read_signature
from importing.states.finding import check_rest, find_pairs
from importing.states.pairs import Pair, StateOption, check_pairs
from importing.write import write_bundle, write_report

_MOST_NAME: Final = 64
_SEED: Final = 20260101


@dataclass(frozen=True)
class ImportedModel:
    """A bundle that exists, and so has passed.

    Args:
        folder: `<repository>/<name>/<version>`.
        manifest: As published.
        layout: What was concluded.
        checks: What was measured.
    """

    folder: Path
    manifest: Manifest
    layout: Layout
    checks: Sequence[Check]


def import_model(
    file: Path,
    repository: Path,
    *,
    name: str | None = None,
    states: Sequence[StateOption | str] = (),
    inputs: Sequence[str] = (),
    stateless: bool = False,
    lengths: str | None = None,
    company: Company = "proved",
    examples: Mapping[str, float] | None = None,
    carry_sessions: bool = False,
    allow_external: bool = False,
    allow_custom: bool = False,
    confirm: Callable[[Layout], bool] = lambda layout: True,
    on_checked: Callable[[Sequence[Check]], None] = lambda checks: None,
    on_progress: Callable[[str], None] = lambda line: None,
) -> ImportedModel:
    """Import an ONNX file as the next version of a model.

    Args:
        file: The model.
        repository: Where bundles live; made if need be.
        name: Of the model; the file's own without one.
        states: All of its states, as `StateOption` or as `--state` has them; none: found where they can be.
        inputs: Those that look like a state and are none.
        stateless: Whether it has no states, whatever its inputs look like.
        lengths: Of a stateless model, the input that says how long each row is.
        company: Whether rows share runs: where nothing speaks against it, although an operator does, or never.
        examples: By name of a free size or of an input that all rows share, as the model has them, what works.
        carry_sessions: Whether sessions of the version before may go on with this one.
        allow_external: Whether weights may lie in other files of the model's folder.
        allow_custom: Whether operators may be none of ONNX's and ONNX Runtime's.
        confirm: Asked before anything is written whether what was concluded is right.
        on_checked: Told what was measured, before anything is written.
        on_progress: Told each stage in a line.

    Raises:
        ImportRefused: It cannot be imported, or was not confirmed; nothing was written.
        BundleError: The repository cannot be written, or the name is not one.
    """
    name = default_name(file) if name is None else name
    check_name(name)
    if states and stateless:
        raise ImportRefused(f"expected states or none, got --stateless and {len(states)} states")
    options = [parse_state(state) if isinstance(state, str) else state for state in states]
    on_progress(f"reading {file}")
    model = read_model(file, allow_external, allow_custom)
    pairs = tuple(Pair(option.input, option.output, "given") for option in options)
    if not (pairs or stateless):
        pairs = find_pairs(model, read_signature(model, [info.name for info in model.graph.input]), inputs)
    signature = declared = read_signature(model, [pair.input for pair in pairs])
    check_pairs(signature, pairs, inputs)
    if options:
        check_rest(model, signature, pairs, inputs)
    signature = refine(signature, model, pairs)
    if lengths is not None:
        if pairs:
            raise ImportRefused(f"--lengths: expected a model without state, got the state {pairs[0].input}")
        signature = declare_time(signature, lengths)
    initial: dict[str, float | Array] = {
        pair.input: signature.defaults[pair.input] for pair in pairs if pair.input in signature.defaults
    }
    initial |= {option.input: option.initial for option in options if option.initial is not None}
    original = Original(model, signature, Session(model), pairs, initial)
    given = read_examples(examples or {}, original, declared)
    on_progress("running it to find its rows and sizes")
    compared = compared_values(model)
    search = Search(
        original,
        Draws(_SEED, index_ranges(model), compared),
        given.sizes,
        given.shared,
        compared,
        widths(model),
        lengths,
    )
    axes = {option.input: option.axis for option in options}
    analysis = analyse(original, search, {pair.input: axes.get(pair.input) for pair in pairs}, lengths, company)
    check_used(given, analysis.conditions)
    if not confirm(analysis.layout):
        raise ImportRefused("expected a yes, got none: nothing was written")
    served, graph = rewrite(model, analysis.layout)
    on_progress("comparing the rewritten model with the original")
    checks = check(original, analysis, search, Session(served), graph)
    primitive = expand(served)
    if primitive is not None:
        on_progress("the same without recurrent nodes that a GPU would not run")
        try:
            of_variant = check(original, analysis, search, Session(primitive), graph)
            checks = [*checks, *(each.model_copy(update={"check": f"{each.check} (primitive)"}) for each in of_variant)]
        except CheckFailed as failed:
            on_progress(f"left out, as it differs: {failed}")
            primitive = None
    on_checked(checks)
    with staging(repository) as bundle:
        manifest = write_bundle(bundle, name, file, model, served, primitive, graph, analysis.layout)
        manifest = manifest.model_copy(update={"carry_sessions": carry_sessions})
        write_report(bundle, analysis.layout, checks)
        folder, manifest = publish(bundle, repository, manifest)
    on_progress(f"published {folder}")
    return ImportedModel(folder, manifest, analysis.layout, checks)


def default_name(file: Path) -> str:
    """What a model is called that nobody named: its file, in the letters that names have."""
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("._-")[:_MOST_NAME]
    if not name:
        raise ImportRefused(f"{file}: expected a file name with letters or digits, or --name, got {file.name!r}")
    return name
