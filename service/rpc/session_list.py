"""Listing a caller's sessions, a page at a time, by asking the engines how they are doing."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import dropwhile, islice

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import Bridge, next_id
from service.engine.interface import DescribeSessions, Event, Finished, SessionDescription, SessionId
from service.errors import InvalidInput
from service.rpc.bounds import whole
from service.rpc.callers import Caller, LiveSession
from service.rpc.pending import Pending
from service.rpc.reference import reference
from service.rpc.session_answers import respond

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 1000
SESSION_BYTES = 256  # about what the entry of one session takes in an answer


class Page:
    """Some of a caller's sessions, in the order in which they were opened.

    Args:
        caller: Whose.
        request: Which ones.

    Raises:
        InvalidInput: Too many at a time, or a page token that is none.
    """

    def __init__(self, caller: Caller, request: pb.ListSessions) -> None:
        size = whole("list.page_size", request.page_size, DEFAULT_PAGE_SIZE, 1, MAX_PAGE_SIZE)
        token = request.page_token
        if token and not (token.isascii() and token.isdecimal() and len(token) < 20):
            raise InvalidInput("list.page_token", "the next_page_token of the page before", repr(token[:40]))
        after = int(token or 0)
        # Sessions are numbered in the order in which they are opened, and that is the order of the dictionary.
        later = dropwhile(lambda live: live.id <= after, caller.sessions.values())
        found = list(islice(later, size + 1))
        self.sessions = found[:size]
        self.next_token = str(found[size - 1].id) if len(found) > size else ""

    def describe(self, pending: Pending) -> None:
        """Ask the engines; `pending` is answered once all have told.

        Raises:
            Overloaded, ShuttingDown: An engine takes no more.
        """
        by_engine: dict[Bridge, list[SessionId]] = defaultdict(list)
        for live in self.sessions:
            by_engine[live.model.bridge].append(live.id)
        parts = _Parts(pending, len(by_engine))
        try:
            for bridge, ids in by_engine.items():
                bridge.submit(DescribeSessions(next_id(), tuple(ids)), parts)
        except BaseException:
            parts.done = True
            raise
        if not by_engine:
            parts.finish()


class _Parts:
    """Waits for several engines; the sink of each one's answer."""

    def __init__(self, pending: Pending, num_missing: int) -> None:
        self._pending = pending
        self._num_missing = num_missing
        self._told: list[SessionDescription] = []
        self.done = False

    def take(self, event: Event) -> None:
        """Take the answer of one engine; the first failure is that of the whole."""
        if self.done:
            return
        if not isinstance(event, Finished):
            self.done = True
            self._pending.take(event)
            return
        assert isinstance(event.value, Sequence)
        self._told.extend(event.value)
        self._num_missing -= 1
        if not self._num_missing:
            self.finish()

    def finish(self) -> None:
        """Answer."""
        self.done = True
        self._pending.take(Finished(0, self._told))


def listed(pending: Pending, told: object) -> bytes:
    """Answer list."""
    assert isinstance(told, list) and isinstance(pending.extra, Page)
    page = pending.extra
    by_id = {description.session: description for description in told}
    sessions = [_info(live, by_id[live.id]) for live in page.sessions if live.id in by_id]
    return respond(pending, listed=pb.SessionsListed(sessions=sessions, next_page_token=page.next_token))


def _info(live: LiveSession, description: SessionDescription) -> pb.SessionInfo:
    return pb.SessionInfo(
        session_id=live.name,
        model=reference(live.model),
        age_s=description.age_s,
        idle_s=description.idle_s,
        num_steps=description.num_steps,
        state_bytes=live.model.state_bytes,
        marks=description.marks,
    )
