"""Sequences: what a client names by an id is a session of the engine.

    START           a session begins; one that lives under the id ends, after what it has pending
    anything else   the next step of the session that lives under the id
    END             the session ends after the step
    cancelled       the session ends at once with all that it has pending, and so it does when a request timed out
    refused         the session ends behind what it has pending, if it has: what its caller has sent ahead lacks a step

A sequence stays with the version of the model that it began on, or is carried over to a newer one. Ids of different
callers never meet. Sources: the sequence extension of the protocol and the reference server's sequence batcher.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

from service.bridge import next_id
from service.engine.interface import SessionEnded, SessionId
from service.models import LiveModel
from service.oip.directory import Directory
from service.oip.errors import OipError
from service.oip.inference.answer import Answer
from service.oip.inference.options import SequenceId
from service.oip.served import Served

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """By what a sequence is found."""

    caller: str
    model: str
    sequence_id: SequenceId


class Sequence:
    """One sequence.

    Attributes:
        session: As the engine knows it.
        key: As its caller does.
        served: The version of the model that it began on, or has been carried over to.
        versions: That a request may name: that one, and the one that it began on, of which its caller knows.
        pending: Its unanswered requests, in order.
        is_open: Whether it takes requests.
    """

    __slots__ = ("_before", "_later", "_table", "is_open", "key", "pending", "served", "session", "versions")

    def __init__(self, key: Key, served: Served, table: "Sequences") -> None:
        self.session: SessionId = next_id()
        self.key = key
        self.served = served
        self.versions: tuple[int, ...] = (served.model.manifest.version,)
        self.pending: list[Answer] = []
        self.is_open = True
        self._table = table
        self._before: Sequence | None = None  # of the same id, with answers that come first
        self._later: Sequence | None = None  # whose answers come after

    def follow(self, older: "Sequence") -> None:
        """Give answers when the older sequence of the same id has given all of its."""
        if older.pending or older._before is not None:
            self._before, older._later = older, self

    def close(self) -> None:
        """End it after what it has pending."""
        if self.is_open:
            self._leave()
            self.served.bridge.close_session(self.session)

    def lost(self) -> None:
        """Note that the engine has no such session."""
        if self.is_open:
            self._leave()
            self.served.bridge.unwatch_session(self.session)

    def ended(self, event: SessionEnded) -> None:
        """Take note that the engine has ended the session; see `SessionSink`."""
        if self.is_open:
            log.debug("sequence %r ended after %d steps", self.key.sequence_id, event.num_steps)
            self._leave()

    def moved(self, model: LiveModel) -> None:
        """Go on with another version of the model, whose engine has the session now."""
        self.served = self._table.directory.of(model)
        self.versions = (self.versions[0], model.manifest.version)
        for answer in self.pending:
            answer.served = self.served

    def abort(self, error: OipError, but: Answer | None = None) -> None:
        """End it now; its pending requests fail, but for one that has its own answer and stays."""
        pending, self.pending = self.pending, [] if but is None else [but]
        for answer in pending:
            if answer is not but:
                answer.abandon(error)
        self.close()
        self._drain()

    def break_off(self, after: Answer, error: OipError) -> None:
        """End it behind a request that was refused, in part or as a whole, after it was taken; what follows it fails.

        Where its step was refused there is a gap; where its step ran and its states were not told, the caller must not
        take it for one that can be sent again.
        """
        if not self.is_open or after not in self.pending:
            return
        at = self.pending.index(after) + 1
        self.pending, behind = self.pending[:at], self.pending[at:]
        for answer in behind:
            answer.abandon(error)
        self.close()

    def settle(self, answer: Answer) -> None:
        """Let an answer go whose outcome is known, if its turn has come."""
        if self._before is None:
            answer.deliver()
            self.pending.remove(answer)  # the first one, but for those that were refused before they got far
            if not self.pending:
                self._drain()

    def _leave(self) -> None:
        self.is_open = False
        if not self.pending and self._before is None:
            self._table.forget(self)

    def _drain(self) -> None:
        """Let later sequences of the id answer, if this one has given all its answers."""
        sequence = self
        while not sequence.pending and sequence._before is None:
            if not sequence.is_open:
                self._table.forget(sequence)
            later, sequence._later = sequence._later, None
            if later is None:
                return
            later._before = None
            known = [answer for answer in later.pending if answer.is_known]
            later.pending = [answer for answer in later.pending if not answer.is_known]
            for answer in known:
                answer.deliver()
            sequence = later


class Sequences:
    """The sequences of all callers, by their ids. Those of a model are as many as its sessions, or fewer.

    Args:
        directory: Of the models that they are of.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._by_key: dict[Key, Sequence] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(list(self._by_key.values()))

    def find(self, key: Key) -> Sequence | None:
        """The newest sequence of an id; it may have ended and still have answers to give."""
        return self._by_key.get(key)

    def put(self, sequence: Sequence) -> None:
        """Take a sequence, in place of the one of that id."""
        self._by_key[sequence.key] = sequence

    def forget(self, sequence: Sequence) -> None:
        """Drop a sequence that has ended, unless its id stands for another one by now."""
        if self._by_key.get(sequence.key) is sequence:
            del self._by_key[sequence.key]
