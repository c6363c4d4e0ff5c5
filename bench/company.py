"""Answers in company: 64 concurrent Transduce calls, a third cancelled at random moments, against one call at a time.

    python -m bench.company MODEL [--repository DIR | --server ADDRESS] [--calls 64] [--rounds 3] [--sources FILE]

Every call that was not cancelled must give the answer that it gives alone: same tokens, same log-probabilities, bit for
bit; and when all is over every state slot and every row of attention memory must be free. Exit status 1 and the first
difference where that does not hold.
"""

import argparse
import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from bench.server import serving
from carryover.client.aio import AsyncClient
from carryover.client.types import Hypothesis

SETTLE_S = 5.0  # bound on how long cancelled work may hold its rows
BEAMS = (1, 4)


@dataclass(frozen=True)
class Outcome:
    """What one round showed."""

    finished: int
    cancelled: int


async def answer(client: AsyncClient, model: str, source: str, beam: int) -> tuple[Hypothesis, ...]:
    """One call to its end; the streamed tokens must be those of the best hypothesis."""
    stream = client.transduce(model, source, beam_size=beam, num_best=beam)
    tokens = [token.token async for token in stream]
    hypotheses = stream.result.hypotheses
    if tuple(tokens) != hypotheses[0].tokens:
        raise SystemExit(f"company: {source!r}: streamed {tokens}, best hypothesis {hypotheses[0].tokens}")
    return hypotheses


async def cancelled(client: AsyncClient, model: str, source: str, beam: int, after_tokens: int) -> None:
    """One call that is given up after some tokens (0: before the first)."""
    stream = client.transduce(model, source, beam_size=beam, num_best=1)
    async with stream:
        for _ in range(after_tokens):
            if await anext(stream, None) is None:
                break


async def settled(client: AsyncClient, model: str) -> None:
    """Wait until everything is free again.

    Raises:
        SystemExit: It is not within `SETTLE_S`.
    """
    load = (await client.model(model)).load
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while load.free_slots != load.num_slots or load.free_memory_rows != load.num_memory_rows or load.running:
                load = (await client.model(model)).load
    if load.free_slots != load.num_slots or load.free_memory_rows != load.num_memory_rows:
        raise SystemExit(f"company: expected every slot and row free after {SETTLE_S:.0f} s, got {load}")


async def compare(client: AsyncClient, model: str, sources: list[str], rng: random.Random) -> Outcome:
    """One round over the sources; see the module docstring."""
    beams = [rng.choice(BEAMS) for _ in sources]
    pairs = list(zip(sources, beams, strict=True))
    alone = [await answer(client, model, source, beam) for source, beam in pairs]
    given_up = set(rng.sample(range(len(sources)), len(sources) // 3))
    calls = [
        cancelled(client, model, source, beam, rng.randrange(4))
        if i in given_up
        else answer(client, model, source, beam)
        for i, (source, beam) in enumerate(pairs)
    ]
    together = await asyncio.gather(*calls)
    for i, (source, got) in enumerate(zip(sources, together, strict=True)):
        if i not in given_up and got != alone[i]:
            raise SystemExit(f"company: {source!r}, beam {beams[i]}: alone {alone[i]}, in company {got}")
    await settled(client, model)
    return Outcome(len(sources) - len(given_up), len(given_up))


@contextlib.asynccontextmanager
async def _client(options: argparse.Namespace) -> AsyncIterator[AsyncClient]:
    with contextlib.ExitStack() as stack:
        address = options.server
        if address is None:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-"))) / "server.log"
            address = stack.enter_context(serving(options.repository, os.cpu_count() or 1, log))
        async with AsyncClient(address) as client:
            yield client


async def main() -> None:
    """Parse, run the rounds, print."""
    parser = argparse.ArgumentParser(
        prog="bench.company", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an encoder-decoder of the repository")
    parser.add_argument("--repository", type=Path, default=Path("repository"), help="serve this repository for the run")
    parser.add_argument("--server", help="use this running server instead, host:port")
    parser.add_argument("--calls", type=int, default=64, help="concurrent calls")
    parser.add_argument("--rounds", type=int, default=3, help="how often, each with other cancellations")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of beams and cancellations")
    parser.add_argument("--sources", type=Path, help="one source text a line; default: made-up words")
    options = parser.parse_args()
    rng, console = random.Random(options.seed), Console()
    if options.sources:
        sources = rng.sample(options.sources.read_text(encoding="utf-8").splitlines(), options.calls)
    else:
        sources = ["".join(rng.choices("abcdefghijklmnoprstuvwy", k=rng.randint(1, 14))) for _ in range(options.calls)]
    async with _client(options) as client:
        for number in range(options.rounds):
            outcome = await compare(client, options.model, sources, rng)
            console.print(
                f"round {number + 1}: {outcome.finished} answers equal to those alone, bit for bit; "
                f"{outcome.cancelled} cancelled; every slot and row free"
            )


if __name__ == "__main__":
    uvloop.run(main())
