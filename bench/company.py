"""Answers in company: 64 concurrent Transduce calls, a third cancelled at random moments, against one call at a time.

    python -m bench.company MODEL [--repository DIR | --server ADDRESS] [--calls 64] [--rounds 3] [--sources FILE]

Every call that was not cancelled must give the answer that it gives alone: same tokens, same log-probabilities, bit for
bit; and when all is over every state slot and every row of attention memory must be free. Exit status 1 and the first
difference where that does not hold. A round's seed decides its sources, beams and cancellations, and `--seed SEED
--rounds 1` repeats it (how the calls meet is up to the machine).
"""

import argparse
import asyncio
import contextlib
import os
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from rich.console import Console

from bench.server import serving
from carryover.client.aio import AsyncClient
from carryover.client.errors import Cancelled, CarryoverError
from carryover.client.types import Hypothesis

SETTLE_S = 5.0  # bound on how long cancelled work may hold its rows
BEAMS = (1, 4)


@dataclass(frozen=True)
class Outcome:
    """What one round showed."""

    finished: int
    given_up: int
    cancelled: int  # of those given up: before their end had come


async def answer(client: AsyncClient, model: str, source: str, beam: int) -> tuple[Hypothesis, ...]:
    """One call to its end; the streamed tokens must be those of the best hypothesis."""
    stream = client.transduce(model, source, beam_size=beam, num_best=beam)
    tokens = [token.token async for token in stream]
    hypotheses = stream.result.hypotheses
    if tuple(tokens) != hypotheses[0].tokens:
        raise SystemExit(f"company: {source!r}: streamed {tokens}, best hypothesis {hypotheses[0].tokens}")
    return hypotheses


async def give_up(client: AsyncClient, model: str, source: str, beam: int, after_tokens: int) -> bool:
    """One call that is given up after some tokens (0: before the first); whether that came before its end."""
    stream = client.transduce(model, source, beam_size=beam, num_best=1)
    for _ in range(after_tokens):
        if await anext(stream, None) is None:
            return False
    if after_tokens == 0:
        await asyncio.sleep(0)  # lets the call be sent
    stream.cancel()
    try:
        await stream.finish()
    except (Cancelled, asyncio.CancelledError):
        return True
    except CarryoverError:  # it had ended, and what it had said is gone
        return False
    return False


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
    """One round over the sources; see the module docstring.

    Raises:
        SystemExit: An answer differs, or something is not free afterwards.
    """
    beams = [rng.choice(BEAMS) for _ in sources]
    pairs = list(zip(sources, beams, strict=True))
    alone = [await answer(client, model, source, beam) for source, beam in pairs]
    chosen = set(rng.sample(range(len(sources)), len(sources) // 3))
    calls = [
        give_up(client, model, source, beam, rng.randrange(4)) if i in chosen else answer(client, model, source, beam)
        for i, (source, beam) in enumerate(pairs)
    ]
    together = await asyncio.gather(*calls)
    for i, (source, got) in enumerate(zip(sources, together, strict=True)):
        if i not in chosen and got != alone[i]:
            raise SystemExit(f"company: {source!r}, beam {beams[i]}: alone {alone[i]}, in company {got}")
    await settled(client, model)
    return Outcome(len(sources) - len(chosen), len(chosen), sum(together[i] is True for i in chosen))


@contextlib.asynccontextmanager
async def _client(options: argparse.Namespace) -> AsyncIterator[AsyncClient]:
    with contextlib.ExitStack() as stack:
        address = options.server
        if address is None:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carryover-bench-"))) / "server.log"
            address = stack.enter_context(serving(options.repository, os.cpu_count() or 1, log))
        async with AsyncClient(address) as client:
            yield client


def draw_sources(rng: random.Random, calls: int, known: list[str]) -> list[str]:
    """So many of the known sources, or as many made-up words where none are known."""
    if known:
        return rng.sample(known, calls)
    return ["".join(rng.choices("abcdefghijklmnoprstuvwy", k=rng.randint(1, 14))) for _ in range(calls)]


async def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run the rounds, print."""
    parser = argparse.ArgumentParser(
        prog="bench.company", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an encoder-decoder of the repository")
    parser.add_argument("--repository", type=Path, default=Path("repository"), help="serve this repository for the run")
    parser.add_argument("--server", help="use this running server instead, host:port")
    parser.add_argument("--calls", type=int, default=64, help="concurrent calls")
    parser.add_argument("--rounds", type=int, default=3, help="how often, each with other cancellations")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next")
    parser.add_argument("--sources", type=Path, help="one source text a line; default: made-up words")
    options = parser.parse_args(arguments)
    known = options.sources.read_text(encoding="utf-8").splitlines() if options.sources else []
    if options.sources and len(known) < options.calls:
        parser.error(f"--sources: expected at least {options.calls} lines, one a call, got {len(known)}")
    async with _client(options) as client:
        for seed in range(options.seed, options.seed + options.rounds):
            rng = random.Random(seed)
            outcome = await compare(client, options.model, draw_sources(rng, options.calls, known), rng)
            Console().print(
                f"seed {seed}: {outcome.finished} answers equal to those alone, bit for bit; {outcome.cancelled} of "
                f"{outcome.given_up} given up before their end; every slot and row free",
                soft_wrap=True,
            )


if __name__ == "__main__":
    uvloop.run(main())
