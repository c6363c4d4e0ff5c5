"""The blocking client's one Session stream: the commands of all its sessions go out on it, from any thread.

It is there while a session is open. A broken connection is made anew, and a command that may be sent twice is: the
caller's name makes the server find its sessions again, and the index of a step keeps it from being taken twice.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from carryover.client import session_messages as commands
from carryover.client.errors import CarryoverError, DeadlineExceeded, from_rpc_error
from carryover.client.message_room import MessageRoom
from carryover.client.reconnect import Reconnect
from carryover.client.session_core import SessionCore
from protos.carryover.v1 import carryover_pb2 as pb

FAREWELL_S = 1.0  # for the last commands, where nobody waits for their answers

_Answer = pb.SessionEvent | CarryoverError


class _Connection:
    """One stream, until it breaks.

    Args:
        method: The stub's Session method, with the caller's name.
        expired: Told of sessions that the server has ended.
    """

    def __init__(self, method: Callable[..., Any], expired: Callable[[pb.SessionExpired], None]) -> None:
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[pb.SessionCommand | None] = queue.SimpleQueue()
        self._waiting: dict[int, queue.SimpleQueue[_Answer]] = {}
        self._last_id = 0
        self._expired = expired
        self._end: CarryoverError | None = None
        self._call: Any = method(self._messages())
        # The stream has no deadline of its own (a session may live for hours), so somebody else must wait for answers.
        self._reader = threading.Thread(target=self._read, name="carryover-sessions", daemon=True)
        self._reader.start()

    def send(self, command: pb.SessionCommand) -> "queue.SimpleQueue[_Answer]":
        """Send a command; its answer, or why there is none, comes in the queue."""
        answer: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        with self._lock:
            if self._end is not None:
                answer.put(self._end)
                return answer
            self._last_id += 1
            command.request_id = self._last_id
            self._waiting[self._last_id] = answer
            self._outgoing.put(command)
        return answer

    def finish(self) -> None:
        """Half-close the stream, which also ends grpcio's sending thread; what was sent is still answered."""
        self._outgoing.put(None)

    def wait(self, timeout_s: float) -> None:
        """Wait until the stream has ended, or end it."""
        self._reader.join(timeout_s)
        self._call.cancel()

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent on it any more."""
        return self._end is not None

    def _messages(self) -> Iterator[pb.SessionRequest]:
        """Give messages of whatever is ready together."""
        following = self._outgoing.get()
        while following is not None:
            ready: list[pb.SessionCommand] = []
            room, empty = MessageRoom(), False
            while following is not None and not empty and room.takes(following):
                ready.append(following)
                try:
                    following = self._outgoing.get_nowait()
                except queue.Empty:
                    empty = True
            yield pb.SessionRequest(commands=ready)
            if empty:
                following = self._outgoing.get()

    def _read(self) -> None:
        end = CarryoverError("session: expected an answer, got the end of the stream")
        try:
            for response in self._call:
                for event in response.events:
                    if event.WhichOneof("event") == "expired":
                        self._expired(event.expired)
                        continue
                    with self._lock:
                        answer = self._waiting.pop(event.request_id, None)
                    if answer is not None:
                        answer.put(event)
        except grpc.RpcError as error:
            end = from_rpc_error(error)
        with self._lock:
            self._end = end
            waiting, self._waiting = list(self._waiting.values()), {}
        for answer in waiting:
            answer.put(end)
        self.finish()


class Line:
    """See the module docstring.

    Args:
        method: The stub's Session method, with the caller's name.
        reconnect_s: For how long the commands of sessions are sent again where the connection is lost, in seconds.
    """

    def __init__(self, method: Callable[..., Any], reconnect_s: float) -> None:
        self.reconnect_s = reconnect_s
        self._method = method
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._leaving: _Connection | None = None  # the last one that was finished: it may have more to send
        self._sessions: dict[str, SessionCore] = {}
        self._users = 0

    def __enter__(self) -> "Line":
        """Keep the stream open until `__exit__`, which the last one closes it at."""
        with self._lock:
            self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            connection = self._connection if not self._users else None
            if connection is not None:
                self._connection, self._leaving = None, connection
        if connection is not None:
            connection.finish()

    def watch(self, session: SessionCore) -> None:
        """Have a session told of its end, and closed with the line."""
        self._sessions[session.id] = session

    def unwatch(self, session: SessionCore) -> None:
        """Stop that, unless another object has taken the session over."""
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    def ask(self, command: pb.SessionCommand, timeout_s: float, *, again_s: float = 0.0) -> pb.SessionEvent:
        """Send a command and wait for its answer.

        Args:
            command: Without a number.
            timeout_s: For the answer.
            again_s: For how long it is sent again after a lost connection, in seconds; 0 where it could be done twice.

        Raises:
            DeadlineExceeded: None came.
            CarryoverError: The stream ended, and no other could be had in time.
        """
        deadline_s = time.monotonic() + timeout_s
        reconnect = Reconnect(again_s, deadline_s)
        while True:
            try:
                got = self._current().send(command).get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise DeadlineExceeded(
                    f"session: expected an answer within {timeout_s:g} s, got none",
                    "DEADLINE_EXCEEDED",
                    "DEADLINE_EXCEEDED",
                ) from None
            if isinstance(got, pb.SessionEvent):
                return got
            time.sleep(reconnect.pause_s(got))

    def begin(self, command: pb.SessionCommand, timeout_s: float) -> pb.SessionEvent:
        """Send a command that starts a session, under a name made up here where it has none, and wait for its answer.

        A session of such a name is closed again where its answer is not waited for to the end. One that the caller
        named is not, as it may be an older one of that name.
        """
        name = commands.made_up_name(command)
        try:
            return self.ask(command, timeout_s)
        except BaseException as error:
            if name and (isinstance(error, DeadlineExceeded) or not isinstance(error, CarryoverError)):
                self.tell(commands.close_command(name))
            raise

    def tell(self, command: pb.SessionCommand) -> None:
        """Send a command whose answer nobody waits for, if there is a stream."""
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.send(command)

    def close(self, farewell: Callable[[str], pb.SessionCommand]) -> None:
        """End the stream, and the sessions on it that are still open, given the command that ends one."""
        with self._lock:
            connection, self._connection = self._connection, None
        sessions, self._sessions = list(self._sessions.values()), {}
        if connection is not None:
            for session in sessions:
                connection.send(farewell(session.id))
            connection.finish()
            connection.wait(FAREWELL_S)
        if self._leaving is not None:
            self._leaving.wait(FAREWELL_S)

    def _current(self) -> _Connection:
        with self._lock:
            if self._connection is None or self._connection.broken:
                self._connection = _Connection(self._method, self._expired)
            return self._connection

    def _expired(self, event: pb.SessionExpired) -> None:
        session = self._sessions.pop(event.session_id, None)
        if session is not None:
            session._expired(event)
