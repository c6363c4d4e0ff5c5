"""A session of the asyncio client: open, step, fork, mark, rewind, export, close."""

import asyncio
from collections.abc import Sequence
from types import TracebackType

from carryover.client import session_messages as commands
from carryover.client import types
from carryover.client.aio_line import AsyncLine
from carryover.client.channel import checked_timeout
from carryover.client.errors import CarryoverError, DeadlineExceeded
from carryover.client.session_core import SessionCore
from protos.carryover.v1 import carryover_pb2 as pb


class AsyncSession(SessionCore):
    """State that the server carries from step to step. Use with `async with`; commands wait for each other.

    Args:
        line: The client's stream.
        opening: The command that opens it; None for a session that is open.
        timeout_s: Bound of each command, in seconds. A command that runs into it ends the session, unless it is
            a fork: nobody knows whether the server took it.
        opened: What is known of one that is open.
        resumed: Whether commands that are not known of here may still be on their way.
    """

    def __init__(
        self,
        line: AsyncLine,
        opening: pb.SessionCommand | None,
        timeout_s: float,
        opened: pb.SessionOpened | None = None,
        *,
        resumed: bool = False,
    ) -> None:
        super().__init__()
        self._line = line
        self._opening = opening
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()  # the index of a step is known once the step before it is answered
        if opened is not None:
            self._adopt(opened, resumed=resumed)
            line.__enter__()
            line.watch(self)

    async def open(self) -> None:
        """Open the session; `async with` does, and so does whoever gives one that is open.

        Raises:
            CarryoverError: It could not be opened, or was before.
        """
        opening, self._opening = self._opening, None
        if opening is None:
            raise CarryoverError("session: expected to be opened once, got a second time")
        self._line.__enter__()
        try:
            self._adopt(commands.answer(await self._line.begin(opening, self._timeout_s)).opened)
        except BaseException:
            self._line.__exit__()
            raise
        self._line.watch(self)

    async def step(
        self,
        tokens: Sequence[str] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        num_top: int = 1,
        with_tokens: bool | None = None,
        timeout_s: float | None = None,
    ) -> list[types.StepOutput]:
        """Feed inputs in order, advancing the state once for each.

        Where the connection breaks, the step is sent again on a new one, for as long as the client reconnects; the
        server takes it once. The first step of a resumed session is not sent again, as its place is not known yet.

        Args:
            tokens: As text, one vocabulary entry each; or
            token_ids: as vocabulary ids.
            num_top: Outputs to return for each step, best first; 0 only advances.
            with_tokens: Whether outputs come as text too; None: where `tokens` were given.
            timeout_s: Bound of this command, in seconds.

        Raises:
            CarryoverError: The step was refused; the session stays as it was and goes on. After DeadlineExceeded and
                InternalError it is over.
        """
        async with self._turn:
            command = self._step_command(tokens, token_ids, num_top, with_tokens)
            stepped = (await self._ask(command, timeout_s, again=self._knows_where)).stepped
            self._moved(stepped.num_steps)
            return commands.steps(stepped)

    async def fork(self, session_id: str = "", *, timeout_s: float | None = None) -> "AsyncSession":
        """Start another session where this one is, under a name that is given or made up.

        Whatever becomes of the other one, this one goes on.
        """
        async with self._turn:
            command = commands.fork_command(self._check(), session_id)
            opened = self._answer(await self._line.begin(command, self._bound(timeout_s))).opened
        return AsyncSession(self._line, None, self._timeout_s, opened)

    async def mark(self, mark: int = 0, *, timeout_s: float | None = None) -> int:
        """Remember where the session is; gives the steps behind that."""
        async with self._turn:
            command = commands.mark_command(self._check(), mark)
            return (await self._ask(command, timeout_s, again=True)).marked.num_steps

    async def rewind(self, mark: int = 0, *, timeout_s: float | None = None) -> int:
        """Go back to a mark, which stays; gives the steps behind it."""
        async with self._turn:
            command = commands.rewind_command(self._check(), mark)
            return self._moved((await self._ask(command, timeout_s, again=True)).rewound.num_steps)

    async def export(self, *, timeout_s: float | None = None) -> bytes:
        """Take out the state, for `Client.session(model, state=...)` at any server with this version of the model."""
        async with self._turn:
            return (await self._ask(commands.export_command(self._check()), timeout_s, again=True)).exported.state

    def detach(self) -> str:
        """Let go of the session without closing it, and give its name, for `Client.resume`."""
        name = self._check()
        self._release()
        return name

    async def close(self) -> int:
        """Close the session and give the number of steps that it took. Closing twice does nothing more."""
        async with self._turn:
            if not self._closed and self._opened:
                over = self.over
                try:
                    if over is None:
                        self.num_steps = (await self._ask(commands.close_command(self.id), None)).closed.num_steps
                finally:
                    self._release()
            return self.num_steps

    async def __aenter__(self) -> "AsyncSession":
        if self._known is None or self._closed:
            await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.close()
        elif not self._closed:  # the error of the block is the one to be seen
            if self.over is None:
                self._line.tell(commands.close_command(self.id))
            self._release()

    async def _ask(
        self, command: pb.SessionCommand, timeout_s: float | None, *, again: bool = False
    ) -> pb.SessionEvent:
        timeout_s = self._bound(timeout_s)
        try:
            event = await self._line.ask(command, timeout_s, again_s=self._line.reconnect_s if again else 0.0)
        except DeadlineExceeded as error:
            self._abandon(error)
            raise
        except CarryoverError as error:
            self._doubt(error)
            raise
        except asyncio.CancelledError:
            self._abandon(CarryoverError("session: expected each command to be waited for, got a cancelled one"))
            raise
        return self._answer(event)

    def _bound(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else checked_timeout(timeout_s)

    def _abandon(self, error: CarryoverError) -> None:
        self._doubt(error)
        self._line.tell(commands.close_command(self.id))

    def _release(self) -> None:
        self._closed = True
        self._line.unwatch(self)
        self._line.__exit__()
