"""One inference through each of tritonclient's clients, in the same words, so that a test can ask all of them."""

import asyncio
import queue
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as aio_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ANSWER_TIMEOUT_S = 60.0

Arrays = Mapping[str, npt.NDArray[Any]]
# tritonclient has no types: what it takes and gives is Any here.
Client = Any


class Refusal(Exception):
    """An error as tritonclient gave it.

    Args:
        message: In the server's words.
        status: Of gRPC or HTTP as the client writes it; None in a stream, which has none for single answers.
    """

    def __init__(self, message: str, status: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


@contextmanager
def refusals() -> Iterator[None]:
    """Turn tritonclient's errors into ours."""
    try:
        yield
    except InferenceServerException as error:
        raise Refusal(error.message(), error.status()) from None


@dataclass(frozen=True)
class Answer:
    """An answer, whichever way it came."""

    outputs: dict[str, npt.NDArray[Any]]
    id: str
    model_name: str
    model_version: str
    parameters: dict[str, Any]


def inputs_of(library: Any, arrays: Arrays) -> list[Any]:
    """Put arrays into the input objects of one of tritonclient's packages.

    Args:
        library: `tritonclient.grpc` or `tritonclient.http`.
        arrays: By name.
    """
    inputs = []
    for name, array in arrays.items():
        tensor = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def outputs_of(library: Any, names: Sequence[str]) -> list[Any] | None:
    """Ask for outputs by name; None, which is all of them, where there are no names."""
    return [library.InferRequestedOutput(name) for name in names] or None


def _parameter(message: Any) -> Any:
    return getattr(message, message.WhichOneof("parameter_choice"))


def answer_of(result: Any) -> Answer:
    """Read a result of any of the clients."""
    response = result.get_response()
    if isinstance(response, dict):  # of the HTTP client
        arrays = {tensor["name"]: result.as_numpy(tensor["name"]) for tensor in response["outputs"]}
        parameters = dict(response.get("parameters", {}))
        id, name, version = response.get("id", ""), response["model_name"], response["model_version"]
    else:
        arrays = {tensor.name: result.as_numpy(tensor.name) for tensor in response.outputs}
        parameters = {key: _parameter(value) for key, value in response.parameters.items()}
        id, name, version = response.id, response.model_name, response.model_version
    return Answer(arrays, id, name, version, parameters)


class Door(Protocol):
    """A client that asks one thing at a time."""

    client: Client

    def infer(self, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> Answer:
        """Infer.

        Args:
            model: Its name.
            arrays: The inputs.
            outputs: Names of those wanted; none: all.
            options: As tritonclient calls them.

        Raises:
            Refusal: As the client gives it.
        """

    def close(self) -> None:
        """Hang up."""


class GrpcDoor:
    """A unary call."""

    def __init__(self, address: str) -> None:
        self.client: Client = grpc_client.InferenceServerClient(address)

    def infer(self, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> Answer:
        options.setdefault("client_timeout", ANSWER_TIMEOUT_S)
        asked = outputs_of(grpc_client, outputs)
        with refusals():
            return answer_of(self.client.infer(model, inputs_of(grpc_client, arrays), outputs=asked, **options))

    def close(self) -> None:
        self.client.close()


@dataclass(frozen=True)
class Pending:
    """A unary call under way.

    Args:
        future: Of its answer, or `Refusal`.
        call: As tritonclient gives it.
    """

    future: Future[Answer]
    call: Any

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Wait for the answer.

        Raises:
            Refusal: It is one.
        """
        return self.future.result(timeout_s)

    def outcome(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer | Refusal:
        """Wait for the answer, whatever it is."""
        error = self.future.exception(timeout_s)
        if error is None:
            return self.future.result()
        if isinstance(error, Refusal):
            return error
        raise error

    def cancel(self) -> None:
        """Give the call up."""
        self.call.cancel()


def begin(client: Client, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> Pending:
    """Send a unary call of the gRPC client and do not wait for its answer."""
    future: Future[Answer] = Future()

    def told(result: Any, error: Any) -> None:
        if error is not None:
            future.set_exception(Refusal(error.message(), error.status()))
        else:
            future.set_result(answer_of(result))

    options.setdefault("client_timeout", ANSWER_TIMEOUT_S)
    asked = outputs_of(grpc_client, outputs)
    return Pending(future, client.async_infer(model, inputs_of(grpc_client, arrays), told, outputs=asked, **options))


class AioDoor:
    """A unary call of the asyncio client, in a loop of its own."""

    def __init__(self, address: str) -> None:
        self._runner = asyncio.Runner()
        self.client: Client = self._runner.run(self._open(address))

    async def _open(self, address: str) -> Client:
        return aio_client.InferenceServerClient(address)

    def infer(self, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> Answer:
        options.setdefault("client_timeout", ANSWER_TIMEOUT_S)
        asked = outputs_of(grpc_client, outputs)
        call = self.client.infer(model, inputs_of(grpc_client, arrays), outputs=asked, **options)
        with refusals():
            return answer_of(self._runner.run(call))

    def close(self) -> None:
        self._runner.run(self.client.close())
        self._runner.close()


class HttpDoor:
    """A POST."""

    def __init__(self, address: str) -> None:
        self.client: Client = http_client.InferenceServerClient(address, network_timeout=ANSWER_TIMEOUT_S)

    def infer(self, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> Answer:
        asked = outputs_of(http_client, outputs)
        if "headers" in options:  # to which the client adds its own
            options["headers"] = dict(options["headers"])
        with refusals():
            return answer_of(self.client.infer(model, inputs_of(http_client, arrays), outputs=asked, **options))

    def close(self) -> None:
        self.client.close()


class Stream:
    """A stream on which many requests may be under way; answers come out in the order in which they came in.

    Args:
        address: Of the gRPC door.
        headers: Metadata of the call.
    """

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        self.client: Client = grpc_client.InferenceServerClient(address)
        self._answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.client.start_stream(
            lambda result, error: self._answers.put((result, error)), headers=dict(headers) if headers else None
        )

    def send(self, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> None:
        """Send a request and wait for nothing."""
        asked = outputs_of(grpc_client, outputs)
        self.client.async_stream_infer(model, inputs_of(grpc_client, arrays), outputs=asked, **options)

    def receive(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """Wait for the next answer.

        Raises:
            Refusal: It is one.
            queue.Empty: There was none.
        """
        result, error = self._answers.get(timeout=timeout_s)
        if error is not None:
            raise Refusal(error.message(), error.status())
        return answer_of(result)

    def outcome(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer | Refusal:
        """Wait for the next answer, whatever it is."""
        try:
            return self.receive(timeout_s)
        except Refusal as refusal:
            return refusal

    def half_close(self) -> None:
        """Send nothing more and wait until everything is answered."""
        self.client.stop_stream()

    def cancel(self) -> None:
        """Break the stream off."""
        self.client.stop_stream(cancel_requests=True)

    def close(self) -> None:
        self.cancel()
        self.client.close()


class StreamDoor:
    """One request at a time on a stream that stays open."""

    def __init__(self, address: str) -> None:
        self._stream = Stream(address)
        self.client = self._stream.client

    def infer(self, model: str, arrays: Arrays, outputs: Sequence[str] = (), **options: Any) -> Answer:
        self._stream.send(model, arrays, outputs, **options)
        return self._stream.receive()

    def close(self) -> None:
        self._stream.close()


def whole(value: int | Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """One step's value as (1, 1), or what is given."""
    return np.array([[value]] if isinstance(value, int) else value, np.int64)


def numbers(value: int, work: float | None = None) -> dict[str, npt.NDArray[Any]]:
    """Inputs of one step of an accumulator, and of a slow one where work is given."""
    arrays: dict[str, npt.NDArray[Any]] = {"INPUT": whole(value)}
    if work is not None:
        arrays["WORK"] = np.array([[work]], np.float32)
    return arrays


def counted(answer: Answer) -> tuple[int, int]:
    """Read one step's answer of an accumulator."""
    (total,), (index,) = answer.outputs["OUTPUT"], answer.outputs["INDEX"]
    return int(total[0]), int(index[0])


def step(
    door: Door, model: str, value: int, sequence: int | str, start: bool = False, end: bool = False, **options: Any
) -> tuple[int, int]:
    """Send one number to a sequence of an accumulator and give (sum, number of steps)."""
    options |= {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
    return counted(door.infer(model, numbers(value), **options))
