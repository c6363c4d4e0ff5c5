"""Import with what was concluded and measured on the terminal; for `import-onnx`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from carryover.cli.console import make_console
from carryover.cli.errors import CommandError
from carryover.cli.memory import within_memory
from export.triton.repository import write_repository
from importing.checks import Check
from importing.layout import Layout, StateTensor
from importing.pipeline import import_model


def run_import(
    file: Path,
    repository: Path,
    *,
    name: str | None,
    states: Sequence[str],
    inputs: Sequence[str],
    stateless: bool,
    lengths: str | None,
    batched: bool,
    alone: bool,
    examples: Mapping[str, float],
    carry_sessions: bool,
    triton: Path | None,
    yes: bool,
    allow_external: bool,
    allow_custom: bool,
) -> None:
    """Import a model; print what it is taken for and how far it differs from the original.

    Args:
        file: The model.
        repository: Where it goes.
        name: To serve it by.
        states: As `--state` has them.
        inputs: Those that look like a state and are none.
        stateless: Whether there are none.
        lengths: Input with the length of each row.
        batched: Whether rows share runs although an operator may join them.
        alone: Whether they never do.
        examples: Sizes and values that work.
        carry_sessions: Whether sessions of the version before may go on with this one.
        triton: Repository of the reference server to write it to as well.
        yes: Whether not to ask.
        allow_external: Whether weights may lie in other files.
        allow_custom: Whether operators may be custom.

    Raises:
        ImportRefused: It cannot be imported.
        TritonError: It was imported, but cannot be written for the reference server.
        CommandError: States were found and nobody confirmed them, or options exclude each other.
    """
    if batched and alone:
        raise CommandError("expected --batched or --alone, got both")
    console = make_console()

    def confirm(layout: Layout) -> bool:
        for table in conclusion(layout):
            console.print(table)
        for note in layout.notes:
            console.print(escape(note), soft_wrap=True)
        if yes or states or stateless:
            return True
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            flags = " ".join(f"--state {flag(state)}" for state in layout.states) or "--stateless"
            flags += "".join(f" --input {given}" for given in inputs if layout.states)
            raise CommandError(f"nobody is there to ask whether this is right: expected --yes, or in its place {flags}")
        return typer.confirm("Is this right?")

    with within_memory():
        imported = import_model(
            file,
            repository,
            name=name,
            states=states,
            inputs=inputs,
            stateless=stateless,
            lengths=lengths,
            company="insisted" if batched else "never" if alone else "proved",
            examples=examples,
            carry_sessions=carry_sessions,
            allow_external=allow_external,
            allow_custom=allow_custom,
            confirm=confirm,
            on_checked=lambda checks: console.print(measured(checks)),
            on_progress=lambda line: console.print(escape(line), soft_wrap=True),
        )
    if triton is not None:
        written = write_repository(imported.folder, triton)
        console.print(escape(f"wrote {written.folder}"), soft_wrap=True)
        for note in written.notes:
            console.print(escape(note), soft_wrap=True)


def conclusion(layout: Layout) -> list[Table]:
    """What each tensor is taken for."""
    tables = []
    if layout.states:
        states = _table(
            "states", ("input", "next value", "type", "shape of a row", "batch axis", "starts from", "found by")
        )
        for state in layout.states:
            states.add_row(
                escape(state.input),
                escape(state.output),
                state.dtype,
                _shape(state.shape),
                "none" if state.axis is None else str(state.axis),
                _initial(state),
                state.found,
            )
        tables.append(states)
    own = _table(
        "inputs and outputs" if layout.states else "no states; inputs and outputs",
        ("", "name", "type", "shape", "tried"),
    )
    for kind, tensors in (("input", layout.inputs), ("output", layout.outputs)):
        for tensor in tensors:
            spec = tensor.spec()
            tried = [
                f"{size}={layout.sizes[size]}"
                for size in tensor.shape
                if isinstance(size, str) and size in layout.sizes
            ]
            if tensor.name in layout.shared and layout.shared[tensor.name].size:
                tried.append(str(layout.shared[tensor.name].flat[0]))
            shape = f"{_shape(spec.shape)}, shared by all rows" if tensor.shared else _shape(spec.shape)
            own.add_row(kind, escape(tensor.name), tensor.dtype, shape, escape(", ".join(tried)))
    tables.append(own)
    return tables


def measured(checks: Sequence[Check]) -> Table:
    """How far the rewritten model is from the original."""
    table = _table("checks on random steps", ("check", "tensor", "difference", "limit", "values"))
    for check in checks:
        difference = f"{check.difference:.2g}" if check.difference else "none: bit for bit"
        table.add_row(check.check, escape(check.tensor), difference, f"{check.limit:g}", f"{check.count:,}")
    return table


def flag(state: StateTensor) -> str:
    """A state as `--state` has it."""
    axis = "" if state.axis is None else f",axis={state.axis}"
    return f"{state.input}={state.output}{axis}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _shape(shape: Sequence[int | str]) -> str:
    return escape(f"[{', '.join(map(str, shape))}]")


def _initial(state: StateTensor) -> str:
    if state.initial is None:
        return "zeros"
    values = state.initial
    return str(values.flat[0]) if values.size and (values == values.flat[0]).all() else "given values"
