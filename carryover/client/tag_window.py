"""Many sentences over one TagStream: what goes out next, and whose turn it is to be given; shared by both clients."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from carryover.client import messages, types
from carryover.client.errors import CarryoverError, InvalidArgument, from_session_error
from carryover.client.message_room import MessageRoom
from protos.carryover.v1 import carryover_pb2 as pb

DEFAULT_IN_FLIGHT = 64  # sentences: enough for full batches
_ONLY: Final = "sequences[0]"  # what the server calls the sentence of a request


class TagWindow:
    """Sentences are sent as far ahead of the answers given as the window is wide.

    Args:
        model: Who labels.
        version: 0 is the newest.
        sentences: Each a sequence of words; taken one by one as there is room.
        rank: Their priority.
        max_in_flight: Sentences sent whose answers were not given yet.

    Raises:
        ValueError: The window is not at least one sentence wide.
    """

    def __init__(
        self, model: str, version: int, sentences: Iterable[Sequence[str]], rank: types.Priority, max_in_flight: int
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight: expected at least 1, got {max_in_flight}")
        self._max_in_flight = max_in_flight
        self._requests = (messages.tag_request(model, version, [one], rank) for one in sentences)
        self._refused: CarryoverError | None = None  # of the sentence behind those sent, which is the last one
        self._next: pb.TagCommand | None = None  # taken, and too much for the message before
        self._answers: dict[int, pb.TagEvent] = {}
        self._num_sent = 0
        self._num_given = 0

    @property
    def in_flight(self) -> int:
        """Sentences sent whose answers were not given yet."""
        return self._num_sent - self._num_given

    def message(self) -> pb.TagStreamRequest | None:
        """The next message; None where there is no room or no sentence is left.

        Raises:
            InvalidArgument: The sentence whose turn it is to be given is not a sequence of words; says which it is.
        """
        ready: list[pb.TagCommand] = []
        room = MessageRoom()
        while self._refused is None and self.in_flight < self._max_in_flight:
            if self._next is None:
                try:
                    request = next(self._requests, None)
                except InvalidArgument as error:
                    self._refused = of_sentence(self._num_sent, error)
                    break
                if request is None:
                    break
                self._next = pb.TagCommand(request_id=self._num_sent + 1, request=request)
            if not room.takes(self._next):
                break
            ready.append(self._next)
            self._next = None
            self._num_sent += 1
        if self._refused is not None and not self.in_flight:
            raise self._refused
        return pb.TagStreamRequest(commands=ready) if ready else None

    def take(self, response: pb.TagStreamResponse) -> None:
        """Keep answers until it is their turn."""
        for event in response.events:
            self._answers[event.request_id] = event

    def given(self) -> Iterator[types.TaggedSequence]:
        """The answers whose turn it is, in the order of the sentences.

        Raises:
            CarryoverError: The sentence whose turn it is was refused; says which it is.
        """
        while (event := self._answers.pop(self._num_given + 1, None)) is not None:
            self._num_given += 1
            if event.WhichOneof("event") == "error":
                raise of_sentence(self._num_given - 1, from_session_error(event.error))
            (tagged,) = messages.tagged(event.response)
            yield tagged


def of_sentence(number: int, error: CarryoverError) -> CarryoverError:
    """Tell an error of a request of one sentence as one of that sentence among all.

    Args:
        number: Of the sentence, from 0.
        error: Its fields are those of the request, where the sentence is the only one.
    """

    def told(field: str) -> str:
        return f"sentences[{number}]{field.removeprefix(_ONLY)}" if field.startswith(_ONLY) else field

    message = told(error.message)
    if message == error.message:
        message = f"sentences[{number}]: {message}"
    metadata = {**error.metadata, "sentence": str(number)}
    if "field" in metadata:
        metadata["field"] = told(metadata["field"])
    violations = tuple(replace(violation, field=told(violation.field)) for violation in error.violations)
    return type(error)(message, error.code, error.reason, metadata, violations, error.retry_after_s)


def ended_early() -> CarryoverError:
    """What to say of a stream that ends before all is answered."""
    return CarryoverError("tag_many: expected an answer, got the end of the stream")
