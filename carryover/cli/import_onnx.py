"""`carryover import-onnx`."""

from pathlib import Path
from typing import Annotated

import typer

from carryover.cli.help import flow

HELP = """Import an ONNX model from anywhere and publish it in a model repository, as the next version of its name.

Inputs that are a recurrent state, and the outputs that are their next values, are found by themselves where names or
recurrent operators tell, and shown; on a terminal you are asked whether that is right, elsewhere say --yes or name the
states. The graph is rewritten so that states stay in the server. Nothing is published that has not passed: the result
is compared with the original on random steps, alone and in company.

\b
Examples:
  carryover import-onnx silero_vad.onnx --repository repository
  carryover import-onnx denoiser.onnx --repository repository --state h_in=h_out,axis=1 --state pos=pos_next,init=1
  carryover import-onnx encoder.onnx --repository repository --stateless --lengths lengths --yes
"""


def import_onnx(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The model.")],
    repository: Annotated[Path, typer.Option(metavar="DIR", help="Model repository; made where it does not exist.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name to serve it by.", show_default="the file's name")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IN=OUT[,axis=A][,init=VALUE|FILE.npy]",
            help="An input that is a state, the output that is its next value, which of its axes has the rows of a "
            "batch, what a sequence starts from (zeros). Once for each state; all of them, if any.",
            show_default="found",
        ),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME",
            help="An input that looks like a state and is none. Once for each.",
            show_default="none",
        ),
    ] = None,
    stateless: Annotated[bool, typer.Option("--stateless", help="It has no state, whatever it looks like.")] = False,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Input with the length of each row, of a model without state: rows of different lengths are padded "
            "and batched.",
        ),
    ] = None,
    batched: Annotated[
        bool,
        typer.Option(
            "--batched", help="Rows share runs although an operator looks across them, if random rows do not differ."
        ),
    ] = False,
    alone: Annotated[bool, typer.Option("--alone", help="One row at a time, whatever it looks like.")] = False,
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="A size that works for a free dimension, or a value for an input that all rows share (sr=16000).",
            show_default="found",
        ),
    ] = None,
    carry_sessions: Annotated[
        bool,
        typer.Option(
            "--carry-sessions",
            help="Sessions of the version before, with the same states and inputs, may go on with this one.",
        ),
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write it, as it came, to a model repository that Triton Inference Server loads."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="What is concluded is right; do not ask.")] = False,
    allow_external: Annotated[
        bool, typer.Option("--allow-external", help="Read weights from other files, inside the model's folder.")
    ] = False,
    allow_custom: Annotated[
        bool, typer.Option("--allow-custom", help="Allow operators that are neither ONNX's nor ONNX Runtime's.")
    ] = False,
) -> None:
    """Import; see HELP."""
    from carryover.cli.errors import needing_import

    with needing_import():
        from carryover.cli.importing import run_import
        from importing.options import parse_examples

    run_import(
        file,
        repository,
        name=name,
        states=tuple(state or ()),
        inputs=tuple(input_ or ()),
        stateless=stateless,
        lengths=lengths,
        batched=batched,
        alone=alone,
        examples=parse_examples(example or ()),
        carry_sessions=carry_sessions,
        triton=triton,
        yes=yes,
        allow_external=allow_external,
        allow_custom=allow_custom,
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="import-onnx", help=flow(HELP))(import_onnx)
