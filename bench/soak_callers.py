"""Callers who do at random whatever callers do, for as long as they are told to, and check every answer's books.

A caller has one stream, which it breaks now and then and takes up again, and on it several lives at a time: a life
opens a session, steps it, marks, rewinds, forks, and in the end closes it or walks away, so that it expires.
"""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import grpc
import grpc.aio

from bench.wire import Broken, Fault, Wire
from protos.carryover.v1 import carryover_pb2 as pb

PATIENCE_S: Final = 30
RESOURCE_EXHAUSTED: Final = 8
GONE: Final = ("SESSION_EXPIRED", "SESSION_NOT_FOUND", "SESSION_CLOSED")


class Gone(Exception):
    """The session expired, or ended with its stream."""


class Caller:
    """One caller, its stream and its lives.

    Args:
        stub: A `CarryoverStub` of an aio channel.
        model: Name of a language model.
        vocabulary: Its number of ids.
        name: Of the caller; None: its sessions belong to their stream.
        rng: Decides everything.
        counts: What was done, for the report; shared.
        over: When to come to an end.
    """

    def __init__(
        self,
        stub: Any,
        model: str,
        vocabulary: int,
        name: str | None,
        rng: random.Random,
        counts: Counter[str],
        over: asyncio.Event,
    ) -> None:
        self.stub, self.model, self.vocabulary, self.name = stub, model, vocabulary, name
        self.rng, self.counts, self.over = rng, counts, over
        self._num_sessions = 0
        self._wire = Wire(stub, name)

    async def run(self, num_lives: int) -> None:
        """Live until it is over; then everything that was asked has been answered, or its stream been broken."""
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(self._break()), group.create_task(self._watch())]
            await asyncio.wait([group.create_task(self._live()) for _ in range(num_lives)])
            for other in others:
                other.cancel()
        await self._leave(self._wire)

    async def _break(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 6.0))
            broken, self._wire = self._wire, Wire(self.stub, self.name)
            broken.break_off()
            await self._leave(broken)
            self.counts["streams broken"] += 1

    async def _watch(self) -> None:
        """See that the oldest command is answered in time: in looks, not by the clock, as machines may stand still."""
        wire, oldest, looks = self._wire, self._wire.oldest, 0
        while True:
            await asyncio.sleep(1.0)
            looks += 1
            if (wire, oldest) != (self._wire, self._wire.oldest) or oldest is None:
                wire, oldest, looks = self._wire, self._wire.oldest, 0
            if looks > PATIENCE_S:
                model = await self.stub.GetModel(pb.GetModelRequest(model=pb.ModelRef(name=self.model)))
                raise Fault(f"caller {self.name}: no answer for {looks} s; the model: {model.ref} {model.load}")

    async def _leave(self, wire: Wire) -> None:
        await wire.close()
        self.counts["sessions told to have expired"] += len(wire.expired)
        self.counts["commands answered"] += wire.answered
        self.counts["commands cut off with their stream"] += wire.asked - wire.answered
        self.counts["strays"] += len(wire.strays)

    # ----------------------------------------------------------------------------------------------------------- a life

    async def _live(self) -> None:
        while not self.over.is_set():
            try:
                await self._session()
            except Gone:
                self.counts["sessions gone"] += 1

    async def _session(self) -> None:
        rng = self.rng
        self._num_sessions += 1
        session = f"s{self._num_sessions}"
        opening = pb.OpenSession(model=pb.ModelRef(name=self.model), session_id=session)
        if rng.random() < 0.7:
            opening.idle_timeout_s = rng.uniform(0.2, 3.0)
        await self._ask("open", opening, "SESSION_EXISTS")
        self.counts["sessions opened"] += 1
        steps, marked = 0, -1
        for _ in range(rng.randint(0, 30)):
            dice = rng.random()
            if dice < 0.05:
                marked = steps
                await self._ask("mark", pb.MarkSession(session_id=session, mark=1))
            elif dice < 0.08 and marked >= 0 and self.name is None:  # where it cannot be sent twice
                await self._ask("rewind", pb.RewindSession(session_id=session, mark=1))
                steps = marked
            elif dice < 0.12:
                self._num_sessions += 1
                fork = pb.ForkSession(session_id=session, new_session_id=f"s{self._num_sessions}")
                await self._ask("fork", fork, "SESSION_EXISTS")
                self.counts["sessions forked and left"] += 1
            elif dice < 0.14:
                await self._ask("export", pb.ExportSession(session_id=session))
            elif dice < 0.16:
                await asyncio.sleep(rng.uniform(0.0, 2.0))
            else:
                steps = await self._step(session, steps)
        if rng.random() < 0.5:
            await self._ask("close", pb.CloseSession(session_id=session), *GONE)
            self.counts["sessions closed"] += 1
        else:
            self.counts["sessions left"] += 1

    async def _step(self, session: str, steps: int) -> int:
        count = self.rng.randint(1, 8)
        tokens = [self.rng.randrange(4, self.vocabulary) for _ in range(count)]
        command = pb.StepSession(session_id=session, token_ids=tokens, num_top=self.rng.randint(0, 1), first_step=steps)
        event = await self._ask("step", command)
        if event is None or event.stepped.num_steps != steps + count or len(event.stepped.outputs) != count:
            raise Fault(f"{count} steps from {steps} of {session} were answered by {event}")
        self.counts["steps taken"] += count
        return steps + count

    async def _ask(self, action: str, command: object, *done: str) -> pb.SessionEvent | None:
        """The answer to a command; None where it had been done when it was sent again, as one of `done` tells.

        Raises:
            Gone: The session is.
            Fault: There is no answer, or a refusal that nobody expects.
        """
        again = False
        while True:
            wire = self._wire
            try:
                event = await wire.ask(**{action: command})
            except Broken:
                if self.name is None:
                    raise Gone from None
                if wire is self._wire:
                    raise Fault("the server has ended a stream") from None
                again = True
                continue
            if event.WhichOneof("event") != "error":
                return event
            if event.error.code == RESOURCE_EXHAUSTED:
                self.counts["refused for overload"] += 1
                await asyncio.sleep(event.error.retry_after_s)
                continue
            if again and event.error.reason in done:
                return None
            if event.error.reason in GONE:
                raise Gone
            raise Fault(f"{action} was refused: {event.error.reason} {event.error.message}")


async def generate(stub: Any, model: str, rng: random.Random, counts: Counter[str], over: asyncio.Event) -> None:
    """Generate texts until it is over; some are cancelled, some have too little time."""
    while not over.is_set():
        prompt = " ".join(f"w{rng.randrange(100)}" for _ in range(rng.randint(1, 12)))
        request = pb.GenerateRequest(model=pb.ModelRef(name=model), prompt=prompt, max_tokens=rng.randint(1, 40))
        call = stub.Generate(request, timeout=rng.choice([0.005, 0.05, float(PATIENCE_S)]))
        stop = rng.randrange(20) if rng.random() < 0.3 else -1
        ended = False
        try:
            number = 0
            while (message := await call.read()) is not grpc.aio.EOF:
                if ended:
                    raise Fault(f"a text went on after its end: {message}")
                ended = message.WhichOneof("event") == "result"
                number += 1
                if number == stop:
                    call.cancel()
            counts["texts generated"] += ended
            if not ended:
                raise Fault("a text ended without saying so")
        except asyncio.CancelledError:
            counts["texts cancelled"] += 1
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                counts["texts out of time"] += 1
            elif error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                counts["refused for overload"] += 1
                await asyncio.sleep(0.05)
            else:
                raise Fault(f"a text failed: {error.code()} {error.details()}") from None
