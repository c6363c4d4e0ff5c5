"""One client process of the stress: many lives at once until time is up or it is killed.

    python -m bench.oip_client --grpc HOST:PORT --http HOST:PORT --first-id N --seed N --seconds S --idle-timeout S

What happened goes to standard output as one line of JSON; so does a fault, as soon as it is seen.
"""

import argparse
import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence

import uvloop

from bench.oip_lives import Fault, Lives

COMMON, RARE = 6, 8  # lives side by side, without and with long pauses
IDS_OF_ONE = 4
COMMON_REST_S, RARE_REST_S = 0.02, 2.0
NUM_IDS = (COMMON + RARE) * IDS_OF_ONE  # that a process takes


async def drive(
    grpc: str, http: str, first_id: int, seed: int, seconds: float, idle_timeout_s: float
) -> tuple[Counter[str], str | None]:
    """Live until time is up; gives what happened, and the first fault."""
    counts: Counter[str] = Counter()
    over = asyncio.Event()
    rng = random.Random(seed)
    fault: str | None = None

    async def one(number: int) -> None:
        nonlocal fault
        ids = range(first_id + number * IDS_OF_ONE, first_id + (number + 1) * IDS_OF_ONE)
        lives = Lives(grpc, http, random.Random(rng.random()), ids, idle_timeout_s, counts)
        watching = asyncio.create_task(lives.pause.watch())
        try:
            await lives.live(over, COMMON_REST_S if number < COMMON else RARE_REST_S)
        except Exception as found:  # whatever it is, it is what the stress is for
            fault = fault or (str(found) if isinstance(found, Fault) else repr(found))
            over.set()
        finally:
            watching.cancel()
            await lives.close()

    async with asyncio.TaskGroup() as group:
        for number in range(COMMON + RARE):
            group.create_task(one(number))
        try:
            async with asyncio.timeout(seconds):
                await over.wait()
        except TimeoutError:
            over.set()
    return counts, fault


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, live, print."""
    parser = argparse.ArgumentParser(prog="bench.oip_client", description=__doc__)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--http", required=True)
    parser.add_argument("--first-id", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--idle-timeout", type=float, required=True)
    chosen = parser.parse_args(arguments)
    counts, fault = uvloop.run(
        drive(chosen.grpc, chosen.http, chosen.first_id, chosen.seed, chosen.seconds, chosen.idle_timeout)
    )
    print(json.dumps({"counts": counts, "fault": fault}), flush=True)


if __name__ == "__main__":
    main()
