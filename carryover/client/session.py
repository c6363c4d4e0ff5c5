"""A session of the blocking client: open, step, fork, mark, rewind, export, close."""

from collections.abc import Sequence
from types import TracebackType

from carryover.client import session_messages as commands
from carryover.client import types
from carryover.client.channel import checked_timeout
from carryover.client.errors import CarryoverError, DeadlineExceeded
from carryover.client.line import Line
from carryover.client.session_core import SessionCore
from protos.carryover.v1 import carryover_pb2 as pb


class Session(SessionCore):
    """State that the server carries from step to step. Use as a context manager, from one thread at a time.

    Args:
        line: The client's stream.
        opening: The command that opens it; None for a session that is open.
        opened: What is known of one that is open.
        resumed: Whether commands that are not known of here may still be on their way.
        timeout_s: Bound of each command, in seconds. A command that runs into it ends the session, unless it is
            a fork: nobody knows whether the server took it.
    """

    def __init__(
        self,
        line: Line,
        opening: pb.SessionCommand | None,
        timeout_s: float,
        opened: pb.SessionOpened | None = None,
        *,
        resumed: bool = False,
    ) -> None:
        super().__init__()
        self._line = line
        self._timeout_s = timeout_s
        line.__enter__()
        try:
            if opening is not None:
                opened = commands.answer(line.begin(opening, timeout_s)).opened
            assert opened is not None
        except BaseException:
            line.__exit__()
            raise
        self._adopt(opened, resumed=resumed)
        line.watch(self)

    def step(
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
        command = self._step_command(tokens, token_ids, num_top, with_tokens)
        stepped = self._ask(command, timeout_s, again=self._knows_where).stepped
        self._moved(stepped.num_steps)
        return commands.steps(stepped)

    def fork(self, session_id: str = "", *, timeout_s: float | None = None) -> "Session":
        """Start another session where this one is, under a name that is given or made up.

        Whatever becomes of the other one, this one goes on.
        """
        command = commands.fork_command(self._check(), session_id)
        opened = self._answer(self._line.begin(command, self._bound(timeout_s))).opened
        return Session(self._line, None, self._timeout_s, opened)

    def mark(self, mark: int = 0, *, timeout_s: float | None = None) -> int:
        """Remember where the session is; gives the steps behind that."""
        command = commands.mark_command(self._check(), mark)
        return self._ask(command, timeout_s, again=True).marked.num_steps

    def rewind(self, mark: int = 0, *, timeout_s: float | None = None) -> int:
        """Go back to a mark, which stays; gives the steps behind it."""
        command = commands.rewind_command(self._check(), mark)
        return self._moved(self._ask(command, timeout_s, again=True).rewound.num_steps)

    def export(self, *, timeout_s: float | None = None) -> bytes:
        """Take out the state, for `Client.session(model, state=...)` at any server with this version of the model."""
        return self._ask(commands.export_command(self._check()), timeout_s, again=True).exported.state

    def detach(self) -> str:
        """Let go of the session without closing it, and give its name, for `Client.resume`."""
        name = self._check()
        self._release()
        return name

    def close(self) -> int:
        """Close the session and give the number of steps that it took. Closing twice does nothing more."""
        if not self._closed:
            over = self.over
            try:
                if over is None:
                    self.num_steps = self._ask(commands.close_command(self.id), None).closed.num_steps
            finally:
                self._release()
        return self.num_steps

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif not self._closed:  # the error of the block is the one to be seen
            if self.over is None:
                self._line.tell(commands.close_command(self.id))
            self._release()

    def _ask(self, command: pb.SessionCommand, timeout_s: float | None, *, again: bool = False) -> pb.SessionEvent:
        timeout_s = self._bound(timeout_s)
        try:
            event = self._line.ask(command, timeout_s, again_s=self._line.reconnect_s if again else 0.0)
        except DeadlineExceeded as error:
            self._abandon(error)
            raise
        except CarryoverError as error:
            self._doubt(error)
            raise
        except BaseException:  # Ctrl-C
            self._abandon(CarryoverError("session: expected each command to be waited for, got an interrupted one"))
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
