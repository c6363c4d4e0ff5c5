"""What a session is on the caller's side, whoever waits for its answers: shared by both clients."""

from collections.abc import Sequence

from carryover.client import messages, types
from carryover.client import session_messages as commands
from carryover.client.errors import (
    CarryoverError,
    SessionClosed,
    SessionExpired,
    from_session_error,
)
from protos.carryover.v1 import carryover_pb2 as pb


class SessionCore:
    """One session: its name, how far it is, and why it is over where it is.

    Attributes:
        num_steps: Steps that it has taken in all. Of a resumed session, those when it was resumed, until it is stepped
            or rewound: a step that was on its way then may still be taken.
    """

    def __init__(self) -> None:
        self.num_steps = 0
        self._known: pb.SessionOpened | None = None
        self._failure: CarryoverError | None = None
        self._closed = False
        self._knows_where = True

    @property
    def id(self) -> str:
        """Its name, which this caller may use on any stream.

        Raises:
            CarryoverError: It was not opened.
        """
        return self._opened.session_id

    @property
    def model(self) -> types.ModelRef:
        """Whose state, with the concrete version.

        Raises:
            CarryoverError: It was not opened.
        """
        return messages.ref(self._opened.model)

    @property
    def over(self) -> CarryoverError | None:
        """Why the session cannot be used any more, or None."""
        if self._failure is None and self._closed:
            return SessionClosed("session: expected an open one, got one that was closed", "FAILED_PRECONDITION")
        return self._failure

    @property
    def _opened(self) -> pb.SessionOpened:
        if self._known is None:
            raise CarryoverError("session: expected an open one, got one that was not opened: use `async with`")
        return self._known

    def _adopt(self, opened: pb.SessionOpened, *, resumed: bool = False) -> None:
        self._known = opened
        self.num_steps = opened.num_steps
        # A step of its broken stream may still be on its way through the server.
        self._knows_where = not resumed

    def _moved(self, num_steps: int) -> int:
        """Take note of where an answer says that the session is."""
        self.num_steps = num_steps
        self._knows_where = True
        return num_steps

    def _check(self) -> str:
        """Give the session's name.

        Raises:
            CarryoverError: It is not open.
        """
        name = self.id
        if self.over is not None:
            raise self.over
        return name

    def _step_command(
        self,
        tokens: Sequence[str] | None,
        token_ids: Sequence[int] | None,
        num_top: int,
        with_tokens: bool | None,
    ) -> pb.SessionCommand:
        first_step = self.num_steps if self._knows_where else None
        return commands.step_command(self._check(), first_step, tokens, token_ids, num_top, with_tokens)

    def _answer(self, event: pb.SessionEvent) -> pb.SessionEvent:
        """Pass an answer on.

        Raises:
            CarryoverError: It tells that the command failed.
        """
        error = event.error
        if error.session_ended or error.reason in ("SESSION_EXPIRED", "SESSION_NOT_FOUND"):
            self._failure = from_session_error(error)
        return commands.answer(event)

    def _expired(self, event: pb.SessionExpired) -> None:
        """Take note that the server ended the session because nobody used it."""
        self._failure = commands.expiry(event)

    def _doubt(self, error: CarryoverError) -> None:
        """Take note that nobody here knows whether a command took effect."""
        self._failure = error

    @property
    def expired(self) -> bool:
        """Whether the server is known to have ended the session because nobody used it."""
        return isinstance(self._failure, SessionExpired)
