"""Sessions that go their random ways through a running service, over streams that break, and remember all they heard.

Three kinds of streams carry them. `steady`: named callers whose streams hold; their sessions are marked, rewound, taken
out and opened again from what was taken out. `breaking`: named callers whose streams are cancelled over and over; a new
stream sends again what was not answered, and `first_step` keeps steps from being taken twice. `anonymous`: streams that
are cancelled once, which ends their sessions wherever they are.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bench.alone import Step
from bench.wire import Broken, Fault, Wire
from protos.carryover.v1 import carryover_pb2 as pb

Kind = Literal["steady", "breaking", "anonymous"]
RESOURCE_EXHAUSTED: Final = 8
MOST_STEPS: Final = 8  # of one message


class Ended(Exception):
    """The stream of an anonymous session was cancelled, and with it the session."""


@dataclass
class Path:
    """One way from the initial state: every input in order, and what was answered to some of them.

    Args:
        name: For messages.
        tokens: The inputs.
        heard: Answers by index of the step.
    """

    name: str
    tokens: list[int] = field(default_factory=list)
    heard: dict[int, Step] = field(default_factory=dict)

    def copy(self, name: str) -> "Path":
        """The same way so far, under another name."""
        return Path(name, list(self.tokens), dict(self.heard))

    def cut(self, num_steps: int) -> "Path":
        """The first steps of it."""
        heard = {step: answer for step, answer in self.heard.items() if step < num_steps}
        return Path(self.name, self.tokens[:num_steps], heard)


class Group:
    """One stream after another, and the sessions on them.

    Args:
        stub: A `CarryoverStub` of an aio channel.
        model: Name of a language model.
        kind: See the module docstring.
        number: Of the group; names its caller and sessions.
        seed: Of everything random in it.
        num_answers: How many answers its sessions will get, about; says when to cancel the stream.
        counts: What was done, for the report.
    """

    def __init__(
        self, stub: Any, model: str, kind: Kind, number: int, seed: int, num_answers: int, counts: Counter[str]
    ) -> None:
        self.stub, self.model, self.kind, self.number, self.counts = stub, model, kind, number, counts
        self.num_answers = num_answers
        self.rng = random.Random(f"{seed}/{number}")
        self.caller = None if kind == "anonymous" else f"identity-caller-{seed:04d}-{number:04d}"
        self.paths: list[Path] = []
        self.wires = [Wire(stub, self.caller)]
        self._until_break = self._draw_break()
        self._num_names = 0

    def _draw_break(self) -> int:
        """Answers until the stream is cancelled."""
        shares = {"steady": (9.0, 9.0), "breaking": (0.1, 0.4), "anonymous": (0.3, 0.9)}
        return max(1, round(self.rng.uniform(*shares[self.kind]) * self.num_answers))

    def new_name(self) -> str:
        self._num_names += 1
        return f"g{self.number}s{self._num_names}"

    async def ask(self, action: str, command: object) -> tuple[pb.SessionEvent, bool]:
        """Send a command until it is answered; also whether it was sent more than once.

        Raises:
            Ended: The stream is gone for good.
            Fault: It was refused for another reason than overload.
        """
        again = False
        while True:
            wire = self.wires[-1]
            try:
                event = await wire.ask(**{action: command})
            except Broken:
                if self.kind == "anonymous":
                    raise Ended from None
                if wire is self.wires[-1]:
                    raise Fault(f"group {self.number}: the server has ended a stream") from None
                again = True
                self.counts["commands sent again"] += 1
                continue
            if event.WhichOneof("event") == "error" and event.error.code == RESOURCE_EXHAUSTED:
                self.counts["refused for overload"] += 1
                await asyncio.sleep(event.error.retry_after_s)
                continue
            self._answered()
            return event, again

    def _answered(self) -> None:
        self._until_break -= 1
        if self._until_break == 0:
            self.counts["streams cancelled"] += 1
            self.wires[-1].break_off()
            if self.kind == "breaking":
                self.wires.append(Wire(self.stub, self.caller))
                self._until_break = self._draw_break()

    async def close(self) -> None:
        """End the streams; what came on them must be answers to what was asked."""
        for wire in self.wires:
            await wire.close()
            if wire.strays or wire.expired:
                raise Fault(f"answers that nobody asked for: {wire.strays} {wire.expired}")


class Walk:
    """One session from its opening to its end.

    Args:
        group: Where its stream is.
        path: The way behind it.
        steps: How long its way shall be.
        vocabulary: Ids to draw inputs from.
        top_k: Most best outputs a step.
    """

    def __init__(self, group: Group, path: Path, steps: int, vocabulary: int, top_k: int) -> None:
        self.group, self.path, self.steps, self.vocabulary, self.top_k = group, path, steps, vocabulary, top_k
        self.marks: dict[int, int] = {}
        self.forks: list[asyncio.Task[None]] = []
        group.paths.append(path)

    async def run(self, is_open: bool = False) -> None:
        """Open, step, fork and all the rest, close; and the same of all that was forked from it."""
        try:
            if not is_open:
                await self._open(pb.OpenSession(model=pb.ModelRef(name=self.group.model)))
            while len(self.path.tokens) < self.steps:
                await self._go_on()
            await self._command("close", pb.CloseSession(session_id=self.path.name), "SESSION_")
            self.group.counts["sessions closed"] += 1
        except Ended:
            self.group.counts["sessions ended with their stream"] += 1
        await asyncio.gather(*self.forks)

    async def _go_on(self) -> None:
        rng, steady = self.group.rng, self.group.kind == "steady"
        dice = rng.random()
        if dice < 0.03 and len(self.path.tokens) > 1:
            await self._fork()
        elif dice < 0.06 and steady:
            await self._mark()
        elif dice < 0.09 and self.marks:
            await self._rewind()
        elif dice < 0.11 and steady:
            await self._move()
        else:
            await self._step()

    async def _command(self, action: str, command: object, done: str = "") -> pb.SessionEvent | None:
        """The answer to a command; None where it had been done when it was sent again, as the reason `done` tells."""
        event, again = await self.group.ask(action, command)
        if event.WhichOneof("event") != "error":
            return event
        if again and done and done in event.error.reason:
            return None
        raise Fault(f"{self.path.name}: {action} was refused: {event.error.reason} {event.error.message}")

    async def _open(self, command: pb.OpenSession) -> None:
        command.session_id = self.path.name
        event = await self._command("open", command, "SESSION_EXISTS")
        if event is not None and event.opened.num_steps != len(self.path.tokens):
            raise Fault(f"{self.path.name}: opened at {event.opened.num_steps}")
        self.group.counts["sessions opened"] += 1

    async def _step(self) -> None:
        rng, first = self.group.rng, len(self.path.tokens)
        count = min(rng.randint(1, MOST_STEPS), self.steps - first)
        tokens = [rng.randrange(4, self.vocabulary) for _ in range(count)]
        num_top = rng.randint(0, self.top_k)
        command = pb.StepSession(session_id=self.path.name, token_ids=tokens, num_top=num_top, first_step=first)
        event = await self._command("step", command)
        assert event is not None
        outputs = event.stepped.outputs
        if event.stepped.num_steps != first + count or len(outputs) != count:
            raise Fault(f"{self.path.name}: {count} steps from {first} were answered by {event.stepped}")
        self.path.tokens += tokens
        for step, output in enumerate(outputs, first):
            if len(output.token_ids) != num_top or len(output.log_probs) != num_top:
                raise Fault(f"{self.path.name}: {num_top} outputs wanted, got {output}")
            self.path.heard[step] = (tuple(output.token_ids), tuple(output.log_probs))
        self.group.counts["steps taken"] += count
        self.group.counts["answers replayed"] += event.stepped.replayed

    async def _fork(self) -> None:
        other = self.path.copy(self.group.new_name())
        command = pb.ForkSession(session_id=self.path.name, new_session_id=other.name)
        await self._command("fork", command, "SESSION_EXISTS")
        self.group.counts["sessions forked"] += 1
        walk = Walk(self.group, other, self.steps, self.vocabulary, self.top_k)
        self.forks.append(asyncio.create_task(walk.run(is_open=True)))

    async def _mark(self) -> None:
        number = self.group.rng.randrange(3)
        await self._command("mark", pb.MarkSession(session_id=self.path.name, mark=number))
        self.marks[number] = len(self.path.tokens)

    async def _rewind(self) -> None:
        number = self.group.rng.choice(sorted(self.marks))
        event = await self._command("rewind", pb.RewindSession(session_id=self.path.name, mark=number))
        if event is None or event.rewound.num_steps != self.marks[number]:
            raise Fault(f"{self.path.name}: rewound to {event}, expected {self.marks[number]}")
        self._turn(self.path.cut(self.marks[number]))
        self.group.counts["sessions rewound"] += 1

    async def _move(self) -> None:
        """Take the state out, end the session, and go on in a new one that starts from it."""
        event = await self._command("export", pb.ExportSession(session_id=self.path.name))
        assert event is not None
        await self._command("close", pb.CloseSession(session_id=self.path.name))
        moved = self.path.copy(self.group.new_name())
        self._turn(moved)
        await self._open(pb.OpenSession(exported_state=event.exported.state))
        self.marks = {}
        self.group.counts["states moved"] += 1

    def _turn(self, path: Path) -> None:
        """Go on along another way; the one until here is kept to be checked."""
        self.path = path
        self.group.paths.append(path)
