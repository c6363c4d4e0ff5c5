"""`carryover call`: text in, streamed text out, whatever the model's task."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from carryover.cli.help import flow

if TYPE_CHECKING:
    from carryover.client.sync import Client

HELP = """Send text to a served model and print the answer as it is decided.

What happens depends on the model: an encoder-decoder turns each TEXT into another one, token by token; a language model
continues it (or, with --score, says how probable it is); a tagger labels the words, which spaces separate. Without
TEXT, standard input is read, one text a line. Answers go to standard output, nothing else does.

\b
Examples:
  carryover call demo carryover
  carryover call demo --beam 5 --num-best 3 recurrence
  carryover call english-pos "The cat sat on the mat ."
  carryover call shakespeare "ROMEO:" --max-tokens 200 --seed 7
  carryover call shakespeare --score "To be, or not to be"
  carryover call demo < words.txt
"""
ONLY = {
    "encoder_decoder": ("beam", "num_best", "length_penalty", "max_tokens"),
    "language_model": ("temperature", "top_k", "top_p", "seed", "max_tokens", "score"),
    "tagger": (),
}


def call(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model; `carryover models` lists them.")],
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Input texts.", show_default="lines of standard input")
    ] = None,
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the service listens.")] = "127.0.0.1:8001",
    model_version: Annotated[
        int, typer.Option(metavar="N", min=0, help="Version of the model.", show_default="the newest")
    ] = 0,
    beam: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Encoder-decoder: hypotheses kept at each step; 1 is greedy.")
    ] = None,
    num_best: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Encoder-decoder: scored answers to give, at most --beam."),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(metavar="A", help="Encoder-decoder: exponent of the length penalty, 0 to 2 (Wu et al. 2016)."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", min=1, help="Most tokens of one answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Language model: 0 is greedy, 1 samples as the model says.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Language model: sample among the K most probable tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Language model: ... among the fewest that sum to P, in (0, 1].")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Language model: the same seed gives the same text.")
    ] = None,
    score: Annotated[
        bool,
        typer.Option("--score", help="Language model: print log-probability (nats), perplexity, text."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.001, max=86400, help="Bound on one answer, in seconds.")
    ] = 60,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Encrypt, trusting the PEM certificates in FILE.")
    ] = None,
) -> None:
    """Call; see HELP."""
    from carryover.cli.errors import CommandError
    from carryover.client.channel import Tls
    from carryover.client.sync import Client

    tls = None if tls_ca is None else Tls(root_certificates=tls_ca.read_bytes())
    texts = _texts(text)
    with Client(server, timeout_s=timeout, tls=tls) as client:
        task = client.model(model, version=model_version).task
        if task == "tensors":
            raise CommandError(
                f"expected a model that reads text, got {model!r}, which was imported and takes tensors: it is called "
                "over the Open Inference Protocol (docs/oip.md)"
            )
        options = {
            "beam": beam,
            "num_best": num_best,
            "length_penalty": length_penalty,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "score": score or None,
        }
        for name, value in options.items():
            if value is not None and name not in ONLY.get(task, ()):
                _misplaced(name, model, task)
        for line in texts:
            if task == "encoder_decoder":
                _transduce(client, model, model_version, line, beam, num_best, length_penalty, max_tokens)
            elif task == "tagger":
                _tag(client, model, model_version, line)
            elif score:
                _score(client, model, model_version, line)
            else:
                _generate(client, model, model_version, line, max_tokens, temperature, top_k, top_p, seed)


def _texts(arguments: list[str] | None) -> Iterator[str]:
    """Give the texts one by one: arguments, or else the lines of standard input."""
    import sys

    from carryover.cli.errors import CommandError

    if not arguments and sys.stdin.isatty():
        raise typer.BadParameter("expected a text, or lines on standard input", param_hint="TEXT...")

    def checked() -> Iterator[str]:
        if arguments:
            given = enumerate(arguments, 1)
            lines = ((f"TEXT {i}", argument.encode(errors="surrogateescape")) for i, argument in given)
        else:
            lines = ((f"standard input, line {i}", line.rstrip(b"\r\n")) for i, line in enumerate(sys.stdin.buffer, 1))
        for where, raw in lines:
            try:
                decoded = raw.decode()
            except UnicodeDecodeError as error:
                raise CommandError(f"{where}: expected UTF-8, got byte 0x{raw[error.start]:02x}") from None
            if not decoded.strip() and not arguments:
                raise CommandError(f"{where}: expected a text, got a blank line; what comes after it was not sent")
            yield decoded

    return checked()


def _misplaced(name: str, model: str, task: str) -> NoReturn:
    tasks = " or ".join(other.replace("_", "-") for other, names in ONLY.items() if name in names)
    raise typer.BadParameter(
        f"expected a model that is a {tasks}, got {model!r}, which is a {task.replace('_', '-')}",
        param_hint="--" + name.replace("_", "-"),
    )


def _transduce(
    client: "Client",
    model: str,
    version: int,
    text: str,
    beam: int | None,
    num_best: int | None,
    length_penalty: float | None,
    max_tokens: int | None,
) -> None:
    with client.transduce(
        model,
        text,
        version=version,
        beam_size=beam or 0,
        num_best=num_best or 0,
        length_penalty=length_penalty,
        max_tokens=max_tokens or 0,
    ) as stream:
        for token in stream:
            print(token.text, end="", flush=True)
        print()
        if num_best is not None:
            for rank, hypothesis in enumerate(stream.result.hypotheses, 1):
                print(f"  {rank}. {hypothesis.score:8.4f}  {hypothesis.text}")


def _generate(
    client: "Client",
    model: str,
    version: int,
    text: str,
    max_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
) -> None:
    with client.generate(
        model,
        text,
        version=version,
        max_tokens=max_tokens or 0,
        temperature=temperature,
        top_k=top_k or 0,
        top_p=top_p,
        seed=seed,
    ) as stream:
        print(text, end="", flush=True)
        for token in stream:
            print(token.text, end="", flush=True)
        print(flush=True)


def _tag(client: "Client", model: str, version: int, text: str) -> None:
    words = text.split()
    (tagged,) = client.tag(model, [words], version=version)
    width = max(map(len, words))
    for word, tag, confidence in zip(words, tagged.tags, tagged.confidences, strict=True):
        print(f"{word:{width}}  {tag:8} {confidence:6.3f}")
    print(flush=True)


def _score(client: "Client", model: str, version: int, text: str) -> None:
    (result,) = client.score(model, [text], version=version)
    print(f"{result.total_log_prob:.4f}\t{result.perplexity:.3f}\t{text}", flush=True)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(help=flow(HELP))(call)
