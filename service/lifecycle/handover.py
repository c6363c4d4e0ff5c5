"""Sessions that go on with a newer version of their model: their state is carried over behind what is pending.

Only where the newer bundle says that it may be (`carry_sessions`) and takes the same: states, inputs, vocabularies. One
session at a time is between two engines for a few turns of them: what is asked of it meanwhile waits, in order, and
goes to whichever engine has it then. A session that cannot be moved stays where it is, with all that was asked of it.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

from export.manifest import GraphSpec, Manifest, TensorSpec
from service.bridge import Bridge, SessionSink, Sink, next_id
from service.engine.interface import (
    AnyRequest,
    DescribeSessions,
    ExportSession,
    Failed,
    ForkSession,
    OpenSession,
    RequestId,
    SessionDescription,
    SessionEnded,
    SessionId,
    SessionState,
)
from service.errors import ServiceError
from service.models import LiveModel
from service.on_the_way import Held

log = logging.getLogger(__name__)

MOVE_S: Final = 5.0  # that one session may be on its way
MOST_WAITING: Final = 4096  # requests of one session meanwhile
AT_A_TIME: Final = 32  # sessions on their way


@runtime_checkable
class Moving(Protocol):
    """A sink of a session that wants to know where it goes on."""

    def moved(self, model: LiveModel) -> None:
        """Take note of the model that the session goes on with."""


def may_carry(old: Manifest, new: Manifest) -> bool:
    """Whether sessions of one version can go on with another, and may."""
    if not new.carry_sessions or "step" not in old.graphs or "step" not in new.graphs:
        return False
    return _interface(old) == _interface(new)


def _interface(manifest: Manifest) -> object:
    """What must be the same for a session not to notice the change, but in the values that it is given."""
    states = {(state.name, state.dtype, state.shape, state.batch_axis) for state in manifest.states}
    files = (file for spec in manifest.tokenizers.values() for file in (spec.vocabulary, spec.file) if file is not None)
    hashes = {file: manifest.files[file].sha256 for file in files}
    return manifest.task, states, _signature(manifest.graphs["step"]), manifest.tokenizers, hashes


def _signature(graph: GraphSpec) -> tuple[frozenset[TensorSpec], frozenset[TensorSpec]]:
    return frozenset(graph.inputs), frozenset(graph.outputs)


class Handover:
    """Carries the sessions of a version over to the one that has taken its place.

    Args:
        old: Has the sessions.
        new: Is to have them; see `may_carry`.
    """

    def __init__(self, old: LiveModel, new: LiveModel) -> None:
        self._old, self._new = old, new
        self._stay: set[SessionId] = set()  # they have marks, which stay with the engine
        self._explained: set[SessionId] = set()  # of these it was said why they stay

    async def round(self) -> int:
        """Move every session that can be moved now.

        Returns:
            How many went.
        """
        num_moved, tried = 0, set(self._stay)
        while sessions := [session for session in self._old.bridge.watched if session not in tried][:AT_A_TIME]:
            tried.update(sessions)  # those that are forked meanwhile are found in the next batch
            num_moved += sum(await asyncio.gather(*map(self._move, sessions)))
        return num_moved

    async def _move(self, session: SessionId) -> bool:
        old, new, deadline_s = self._old.bridge, self._new.bridge, time.monotonic() + MOVE_S
        sink = old.session_sink(session)
        if sink is None:
            return False
        arrived = False
        try:
            # Behind all that was asked so far, and ahead of all that waits from now on: no turn of the loop between.
            exported = old.ask(ExportSession(next_id(), session, deadline_s=deadline_s))
        except ServiceError as error:
            self._explain(session, error)
            return False
        move = _Move(session, old, sink)
        try:
            state = await exported
            assert isinstance(state, SessionState)
            told = await old.ask(DescribeSessions(next_id(), (session,), deadline_s=deadline_s))
            assert isinstance(told, Sequence)
            if told and not told[0].marks and move.end is None:
                await new.ask(_opening(session, state, told[0], deadline_s))
                arrived = move.end is None
            elif told and told[0].marks:
                self._stay.add(session)
        except ServiceError as error:
            self._explain(session, error)
        finally:  # also where the service is stopped meanwhile
            if arrived:
                move.arrive(self._new)
            else:
                new.close_session(session)
                move.turn_back()
        return arrived

    def _explain(self, session: SessionId, error: ServiceError) -> None:
        """Log why a session stays, once: it is tried again several times a second."""
        name, version = self._old.manifest.name, self._old.manifest.version
        level = logging.DEBUG if session in self._explained else logging.INFO
        self._explained.add(session)
        log.log(level, "a session of model %s stays with version %d for now: %s", name, version, error)


def _opening(session: SessionId, state: SessionState, told: SessionDescription, deadline_s: float) -> OpenSession:
    return OpenSession(
        next_id(),
        session,
        state.tensors,
        state.num_steps,
        told.idle_timeout_s,
        priority=told.priority,
        deadline_s=deadline_s,
    )


class _Move:
    """A session on its way, the sink of its end meanwhile, and the place of what is asked of it until it has arrived.

    Attributes:
        end: How it ended on the way, if it did.
    """

    def __init__(self, session: SessionId, old: Bridge, sink: SessionSink) -> None:
        self.end: SessionEnded | None = None
        self._old = old
        self._session, self._sink = session, sink
        self._sessions = [session]  # and those that are forked from it meanwhile
        self._held: Held[Sink] = Held(MOST_WAITING, MOVE_S)
        self._new: Bridge | None = None
        old.watch_session(session, self)
        old.diversions[session] = self

    def ended(self, event: SessionEnded) -> None:
        """See `SessionSink`."""
        self.end = event

    def submit(self, request: AnyRequest, sink: Sink) -> None:
        """See `Diversion`."""
        if self._new is not None:
            self._new.submit(request, sink)
            return
        self._held.require_place()
        if isinstance(request, ForkSession):
            self._sessions.append(request.session)
            self._old.diversions[request.session] = self
        self._held.add(request, sink)

    def cancel(self, request: RequestId) -> None:
        """See `Diversion`."""
        self._held.drop(request)
        if self._new is not None:
            self._new.cancel(request)

    def has_begun(self, request: RequestId) -> bool:
        """See `Diversion`."""
        if request in self._held:
            return False
        return self._new is None or self._new.has_begun(request)

    def arrive(self, model: LiveModel) -> None:
        """The session is with the new engine: what waits goes there, and so does what is still asked of the old one."""
        old, new = self._old, model.bridge
        sinks = {session: self._watching(session) for session in self._sessions}
        self._undivert()
        old.close_session(self._session)
        self._new = new
        for session, sink in sinks.items():
            old.unwatch_session(session)
            old.diversions[session] = self
            if sink is not None:
                new.watch_session(session, sink)
                if isinstance(sink, Moving):
                    sink.moved(model)
        self._go_on(new)

    def turn_back(self) -> None:
        """The session is where it was, or has ended there."""
        self._undivert()
        if self.end is not None:
            self._sink.ended(self.end)
        elif self._watching(self._session) is not None:
            self._old.watch_session(self._session, self._sink)
        self._go_on(self._old)

    def _watching(self, session: SessionId) -> SessionSink | None:
        """Who is to be told of a session's end; nobody where it was given up on the way."""
        sink = self._old.session_sink(session)
        return self._sink if sink is self else sink

    def _undivert(self) -> None:
        for session in self._sessions:
            del self._old.diversions[session]

    def _go_on(self, bridge: Bridge) -> None:
        self._held.release(bridge.submit, lambda request, sink, error: sink.take(Failed(request.id, error)))
