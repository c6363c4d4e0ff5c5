"""What clients of the Open Inference Protocol do to a server, well or badly, with sums that prove every answer.

Each life is a few requests of one sequence: as it should be, twice with one id, not ended, not started, left alone
until it expires, given up, out of time. A refusal is a fault unless that kind of life has to expect it; a wrong number
always is one.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

MODELS = ("accumulator", "accumulator-slow")
MOST_STEPS = 10
MOST_WORK = 3.0  # milliseconds or so, of a step of the slow model
NO_START = "must specify the START flag"
TIMED_OUT = ("Request timeout expired", "timeout of the corresponding sequence has been expired", NO_START)
ANSWER_TIMEOUT_S = 120.0

Counts = list[tuple[int, int]]  # (sum, index) of each step of a request


class Fault(Exception):
    """The server has done what it must not."""


class Refused(Exception):
    """The server has refused a request."""


@dataclass
class Books:
    """What a sequence must have come to."""

    total: int = 0
    steps: int = 0

    def advance(self, values: Sequence[int]) -> Counts:
        """Take steps and give what each must be answered."""
        told = []
        for value in values:
            self.total += value
            self.steps += 1
            told.append((self.total, self.steps))
        return told


@dataclass(frozen=True)
class Request:
    """One request of a sequence.

    Args:
        model: Whom it asks.
        sequence: Correlation id.
        arrays: Its inputs.
        start: Whether it begins the sequence.
        end: Whether it ends it.
        timeout: Microseconds that it may wait; None: as long as it takes.
    """

    model: str
    sequence: int
    arrays: dict[str, npt.NDArray[Any]]
    start: bool
    end: bool
    timeout: int | None = None

    def arguments(self, library: Any) -> dict[str, Any]:
        """What `infer` of one of tritonclient's packages takes."""
        inputs = []
        for name, array in self.arrays.items():
            datatype = "INT64" if array.dtype == np.int64 else "FP32"
            inputs.append(library.InferInput(name, list(array.shape), datatype))
            inputs[-1].set_data_from_numpy(array)
        return {
            "model_name": self.model,
            "inputs": inputs,
            "sequence_id": self.sequence,
            "sequence_start": self.start,
            "sequence_end": self.end,
            "timeout": self.timeout,
        }


@dataclass
class Pause:
    """When this process last stood still for long: sequences may have expired then through no fault of the server."""

    limit_s: float
    last: float = field(default_factory=lambda: -1.0)

    async def watch(self) -> None:
        """Look at the clock for ever."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if now - before > self.limit_s:
                self.last = now
            before = now

    async def was_after(self, moment: float) -> bool:
        """Whether it stood still since a moment; what has just been going on is noticed first."""
        await asyncio.sleep(0.2)
        return self.last > moment


class Lives:
    """One client process's dealings with a server.

    Args:
        grpc: Address of the gRPC door.
        http: Address of the HTTP door.
        rng: Where chance comes from.
        ids: Correlation ids that nobody else uses at the same time.
        idle_timeout_s: Of the server's sequences.
        counts: What happened.
    """

    def __init__(
        self, grpc: str, http: str, rng: random.Random, ids: Sequence[int], idle_timeout_s: float, counts: Counter[str]
    ) -> None:
        self._grpc = grpc_aio.InferenceServerClient(grpc)
        self._http = http_aio.InferenceServerClient(http, conn_limit=64)
        self._rng = rng
        self._free = list(ids)
        self._idle_timeout_s = idle_timeout_s
        self._counts = counts
        self.pause = Pause(idle_timeout_s / 2)
        self._kinds: dict[str, tuple[int, Callable[[str, int], Awaitable[None]]]] = {
            "valid": (12, self._valid),
            "twice": (4, self._twice),
            "not ended": (3, self._not_ended),
            "not started": (2, self._not_started),
            "left alone": (1, self._left_alone),
            "cancelled stream": (3, self._cancelled_stream),
            "cancelled call": (3, self._cancelled_call),
            "timed out": (3, self._timed_out),
            "deadline": (2, self._deadline),
        }

    async def close(self) -> None:
        """Hang up."""
        await self._grpc.close()
        await self._http.close()

    async def live(self, over: asyncio.Event, rest_s: float) -> None:
        """Live one life after the other.

        Args:
            over: When to stop.
            rest_s: Longest pause between two lives, in seconds.

        Raises:
            Fault: The server has done what it must not.
        """
        names = list(self._kinds)
        weights = [weight for weight, _ in self._kinds.values()]
        while not over.is_set():
            (kind,) = self._rng.choices(names, weights)
            sequence = self._free.pop(self._rng.randrange(len(self._free)))
            began = time.monotonic()
            try:
                await self._kinds[kind][1](self._rng.choice(MODELS), sequence)
                self._counts[kind] += 1
            except Refused as refused:
                took_s = time.monotonic() - began
                if NO_START not in str(refused) or not await self.pause.was_after(began):
                    raise Fault(f"{kind}, sequence {sequence}, after {took_s:.2f} s: refused: {refused}") from None
                self._counts["disturbed"] += 1
            except (Fault, TimeoutError) as fault:
                raise Fault(f"{kind}, sequence {sequence}: {fault!r}") from None
            finally:
                self._free.append(sequence)
            await asyncio.sleep(self._rng.random() * rest_s)

    # The kinds of life.

    async def _valid(self, model: str, sequence: int) -> None:
        await self._whole(model, sequence, end=True)

    async def _twice(self, model: str, sequence: int) -> None:
        """Two sequences of one id without waiting in between; the first may lack its end."""
        requests: list[Request] = []
        expected: list[Counts] = []
        for end in (self._rng.random() < 0.5, True):
            books, values = Books(), self._values()
            for i, value in enumerate(values):
                requests.append(self._request(model, sequence, [value], i == 0, end and i == len(values) - 1))
                expected.append(books.advance([value]))
        answers = await self._stream(requests)
        self._check(answers, expected)

    async def _not_ended(self, model: str, sequence: int) -> None:
        await self._whole(model, sequence, end=False)
        await self._whole(model, sequence, end=True)

    async def _not_started(self, model: str, sequence: int) -> None:
        request = self._request(model, sequence, [1], False, self._rng.random() < 0.5)
        try:
            await self._ask(request)
        except Refused as refused:
            if NO_START not in str(refused):
                raise
            self._counts["refused"] += 1
        else:  # only a sequence that an earlier life of this id left behind may answer; it is over with the next START
            self._counts["taken over"] += 1
            await self._whole(model, sequence, end=True)

    async def _left_alone(self, model: str, sequence: int) -> None:
        books = await self._whole(model, sequence, end=False)
        began = time.monotonic()
        await asyncio.sleep(self._rng.choice((0.3, 0.9, 1.1, 1.6)) * self._idle_timeout_s)
        try:
            answer = await self._ask(self._request(model, sequence, [5], False, True))
        except Refused as refused:
            if NO_START not in str(refused):
                raise
            took_s = time.monotonic() - began
            if took_s < 0.9 * self._idle_timeout_s and not await self.pause.was_after(began):
                raise Fault(f"expired too early, after {took_s:.2f} s") from None
            self._counts["expired"] += 1
        else:
            self._check([answer], [books.advance([5])])

    async def _cancelled_stream(self, model: str, sequence: int) -> None:
        """Give a stream up with requests under way, and begin anew at once on another one."""
        books, values = Books(), self._values()
        requests = [self._request(model, sequence, [value], i == 0, False) for i, value in enumerate(values)]
        answers = self._grpc.stream_infer(_all(requests, then_wait=True))
        for value in values[: self._rng.randrange(len(values) + 1)]:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response = await anext(answers)
            self._check([_read(response)], [books.advance([value])])
        answers.cancel()
        await self._anew(model, sequence)

    async def _cancelled_call(self, model: str, sequence: int) -> None:
        books, values = Books(), self._values()
        for i, value in enumerate(values):
            request = self._request(model, sequence, [value], i == 0, False)
            call = asyncio.ensure_future(self._ask(request))
            if i == len(values) - 1:
                await asyncio.wait([call], timeout=self._rng.random() * 0.004)
                call.cancel()
            with suppress(asyncio.CancelledError):
                self._check([await call], [books.advance([value])])
        await self._anew(model, sequence)

    async def _timed_out(self, model: str, sequence: int) -> None:
        """Requests that may hardly wait: each is answered or refused, and after a refusal all of the rest are."""
        values, books = self._values(), Books()
        requests = [
            self._request(model, sequence, [value], i == 0, False, timeout=self._rng.randrange(1, 4000))
            for i, value in enumerate(values)
        ]
        refused = False
        for value, outcome in zip(values, await self._outcomes(requests), strict=True):
            if isinstance(outcome, Refused):
                if not any(text in str(outcome) for text in TIMED_OUT):
                    raise outcome
                refused = True
            elif refused:
                raise Fault("an answer behind a request that timed out")
            else:
                self._check([outcome], [books.advance([value])])
        self._counts["timed out in time" if not refused else "timed out really"] += 1
        await self._whole(model, sequence, end=True)

    async def _deadline(self, model: str, sequence: int) -> None:
        books = Books()
        for i, value in enumerate(self._values()):
            request = self._request(model, sequence, [value], i == 0, False)
            arguments = request.arguments(grpc_client)
            try:
                answer = _count(await self._grpc.infer(**arguments, client_timeout=self._rng.uniform(0.0005, 0.02)))
            except InferenceServerException as error:
                if error.status() != "StatusCode.DEADLINE_EXCEEDED":
                    raise Refused(f"{error.status()}: {error.message()}") from None
                self._counts["deadlines met"] += 1
                break
            self._check([answer], [books.advance([value])])
        await self._anew(model, sequence)

    # What they are made of.

    def _values(self) -> list[int]:
        return [self._rng.randrange(-(10**6), 10**6) for _ in range(self._rng.randrange(1, MOST_STEPS))]

    def _request(
        self, model: str, sequence: int, values: Sequence[int], start: bool, end: bool, timeout: int | None = None
    ) -> Request:
        shape = (1, 1) if len(values) == 1 else (1, len(values), 1)
        arrays: dict[str, npt.NDArray[Any]] = {"INPUT": np.array(values, np.int64).reshape(shape)}
        if model == "accumulator-slow":
            arrays["WORK"] = np.full(shape, self._rng.random() * MOST_WORK, np.float32)
        return Request(model, sequence, arrays, start, end, timeout)

    async def _anew(self, model: str, sequence: int) -> None:
        """A sequence of an id whose last request was given up without waiting for what became of it.

        It goes the same way: on another connection it could overtake what was given up.
        """
        await self._whole(model, sequence, end=True, ways=("calls", "stream", "at once"))

    async def _whole(
        self,
        model: str,
        sequence: int,
        end: bool,
        ways: Sequence[str] = ("calls", "calls", "http", "stream", "stream", "at once"),
    ) -> Books:
        """A sequence as it should be, in one of the ways in which it can be sent; gives what it came to."""
        books, values = Books(), self._values()
        way = self._rng.choice(ways)
        if way == "at once":
            answer = await self._ask(self._request(model, sequence, values, True, end))
            self._check([answer], [books.advance(values)])
            return books
        requests = [
            self._request(model, sequence, [value], i == 0, end and i == len(values) - 1)
            for i, value in enumerate(values)
        ]
        expected = [books.advance([value]) for value in values]
        if way == "stream":
            self._check(await self._stream(requests), expected)
            return books
        for request, told in zip(requests, expected, strict=True):
            answer = await (self._post(request) if way == "http" else self._ask(request))
            self._check([answer], [told])
        return books

    async def _ask(self, request: Request) -> Counts:
        try:
            return _count(await self._grpc.infer(**request.arguments(grpc_client), client_timeout=ANSWER_TIMEOUT_S))
        except InferenceServerException as error:
            raise Refused(f"{error.status()}: {error.message()}") from None

    async def _post(self, request: Request) -> Counts:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return _count(await self._http.infer(**request.arguments(http_client)))
        except InferenceServerException as error:
            raise Refused(f"{error.status()}: {error.message()}") from None

    async def _outcomes(self, requests: Sequence[Request]) -> list[Counts | Refused]:
        """Send all without waiting; give every answer or refusal, in order."""
        outcomes: list[Counts | Refused] = []
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            async for response in self._grpc.stream_infer(_all(requests)):
                try:
                    outcomes.append(_read(response))
                except Refused as refused:
                    outcomes.append(refused)
        if len(outcomes) != len(requests):
            raise Fault(f"{len(requests)} requests of a stream got {len(outcomes)} answers")
        return outcomes

    async def _stream(self, requests: Sequence[Request]) -> list[Counts]:
        answers = []
        for outcome in await self._outcomes(requests):
            if isinstance(outcome, Refused):
                raise outcome
            answers.append(outcome)
        return answers

    def _check(self, answers: Sequence[Counts], expected: Sequence[Counts]) -> None:
        if list(answers) != list(expected):
            raise Fault(f"expected {list(expected)}, got {list(answers)}")
        self._counts["answers"] += len(expected)


async def _all(requests: Sequence[Request], then_wait: bool = False) -> AsyncIterator[dict[str, Any]]:
    for request in requests:
        yield request.arguments(grpc_client)
    if then_wait:  # the stream is not half-closed: whoever reads it gives it up
        await asyncio.Event().wait()


def _read(response: tuple[Any, Any]) -> Counts:
    result, error = response
    if error is not None:
        raise Refused(error.message())
    return _count(result)


def _count(result: Any) -> Counts:
    """(sum, index) of each step of an answer."""
    totals, indices = result.as_numpy("OUTPUT"), result.as_numpy("INDEX")
    return list(zip(totals.reshape(-1).tolist(), indices.reshape(-1).tolist(), strict=True))
