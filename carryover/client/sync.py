"""The blocking client.

with Client("127.0.0.1:8001") as client:
    stream = client.transduce("g2p", "carryover")
    for token in stream:
        print(token.text, end=" ", flush=True)
    print(stream.result.best.score)
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType

import grpc

from carryover.client import messages, types
from carryover.client import session_messages as commands
from carryover.client.channel import (
    CALLER_KEY,
    DEFAULT_ADDRESS,
    DEFAULT_TIMEOUT_S,
    HEALTH_CHECK,
    Tls,
    channel_options,
    checked_caller,
    checked_timeout,
)
from carryover.client.errors import NotFound, SessionNotFound, from_rpc_error
from carryover.client.line import Line
from carryover.client.reconnect import DEFAULT_RECONNECT_S, LOOK_UP_S, checked_reconnect
from carryover.client.session import Session
from carryover.client.session_messages import State
from carryover.client.tag_window import DEFAULT_IN_FLIGHT, TagWindow
from carryover.client.tagging import tag_many
from carryover.client.token_stream import TokenStream
from protos.carryover.client.v1 import health_pb2
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub


class Client:
    """Calls a Carryover server and blocks until it answers. Safe to share among threads.

    Args:
        address: `host:port`.
        timeout_s: Deadline of a call that gives none itself, in seconds. A stream must end within it; a session has
            one for each message.
        tls: How to encrypt; None speaks plain text.
        caller: What the server knows the owner of the sessions by: 16 to 128 printable ASCII characters, as secret as
            the sessions are. Whoever uses the same one later may go on with them. None makes one up.
        reconnect_s: For how long a command of a session looks for a server that is gone, within the command's own
            deadline, in seconds; 0: not at all. A session that gave up can be gone on with by `resume`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: Tls | None = None,
        caller: str | None = None,
        reconnect_s: float = DEFAULT_RECONNECT_S,
    ) -> None:
        self.address = address
        self.caller = checked_caller(caller)
        self.timeout_s = checked_timeout(timeout_s)
        options = channel_options(tls)
        if tls is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options)
        self._stub = CarryoverStub(self._channel)
        self._line = Line(
            partial(self._stub.Session, metadata=((CALLER_KEY, self.caller),)), checked_reconnect(reconnect_s)
        )
        self._check_health = self._channel.unary_unary(
            HEALTH_CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    def tag(
        self,
        model: str,
        sequences: Sequence[Sequence[str]],
        *,
        version: int = 0,
        priority: types.Priority = "normal",
        timeout_s: float | None = None,
    ) -> list[types.TaggedSequence]:
        """Label every word of each sentence, a sentence being a sequence of words.

        Raises:
            CarryoverError: See `carryover.client.errors`; so does every other call.
        """
        request = messages.tag_request(model, version, sequences, priority)
        try:
            return messages.tagged(self._stub.Tag(request, timeout=self._timeout(timeout_s)))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def tag_many(
        self,
        model: str,
        sentences: Iterable[Sequence[str]],
        *,
        version: int = 0,
        priority: types.Priority = "normal",
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        timeout_s: float | None = None,
    ) -> Iterator[types.TaggedSequence]:
        """Label many sentences over one stream, at a higher rate than `tag`, and give them in order as they are ready.

        Sentences are taken from the iterable `max_in_flight` ahead of the answers given; `timeout_s` bounds the whole
        stream, in seconds.

        Raises:
            CarryoverError: Of the first sentence that is refused, when it is its turn; the rest is then stopped.
        """
        window = TagWindow(model, version, sentences, priority, max_in_flight)
        return tag_many(partial(self._stub.TagStream, timeout=self._timeout(timeout_s)), window)

    def score(
        self,
        model: str,
        texts: Sequence[str],
        *,
        version: int = 0,
        priority: types.Priority = "normal",
        timeout_s: float | None = None,
    ) -> list[types.TextScore]:
        """Give the log-probability of every token of each text."""
        request = messages.score_request(model, version, texts, priority)
        try:
            return messages.scores(self._stub.Score(request, timeout=self._timeout(timeout_s)))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def transduce(
        self,
        model: str,
        source: str,
        *,
        version: int = 0,
        beam_size: int = 0,
        num_best: int = 0,
        length_penalty: float | None = None,
        max_tokens: int = 0,
        priority: types.Priority = "normal",
        timeout_s: float | None = None,
    ) -> TokenStream[types.TransduceResult]:
        """Turn a source text into a target text, token by token. 0 and None mean the model's default."""
        request = messages.transduce_request(
            model, version, source, beam_size, num_best, length_penalty, max_tokens, priority
        )
        call = self._stub.Transduce(request, timeout=self._timeout(timeout_s))
        return TokenStream(call, map(messages.transduce_event, call))

    def generate(
        self,
        model: str,
        prompt: str = "",
        *,
        version: int = 0,
        max_tokens: int = 0,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        seed: int | None = None,
        repetition_penalty: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        priority: types.Priority = "normal",
        timeout_s: float | None = None,
    ) -> TokenStream[types.GenerateResult]:
        """Continue a prompt, token by token. 0 and None mean the default; temperature 0 is greedy."""
        request = messages.generate_request(
            model,
            version,
            prompt,
            max_tokens,
            temperature,
            top_k,
            top_p,
            seed,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            priority,
        )
        call = self._stub.Generate(request, timeout=self._timeout(timeout_s))
        return TokenStream(call, map(messages.generate_event, call))

    def session(
        self,
        model: str,
        *,
        version: int = 0,
        session_id: str = "",
        idle_timeout_s: float | None = None,
        state: State | None = None,
        priority: types.Priority = "normal",
        timeout_s: float | None = None,
    ) -> Session:
        """Open a session; it closes at the end of the `with` block.

        Args:
            model: Whose state to carry.
            version: 0 is the newest.
            session_id: Its name, which no other open session of this caller has; empty: one is made up.
            idle_timeout_s: Seconds without a command after which the server ends it; None: as the server does.
            state: Where to start: what `export` gave, or tensors by name, flattened; None: the model's initial state.
            priority: Of its steps.
            timeout_s: Bound of each command, in seconds.
        """
        command = commands.open_command(model, version, session_id, idle_timeout_s, state, priority)
        return Session(self._line, command, self._timeout(timeout_s))

    def resume(self, session_id: str, *, timeout_s: float | None = None) -> Session:
        """Go on with an open session of this caller, whoever opened it, after whatever is still on its way to it.

        Raises:
            SessionNotFound: There is none of that name.
        """
        bound_s = self._timeout(timeout_s)
        for info in self.sessions(timeout_s=bound_s):
            if info.id == session_id:
                opened = pb.SessionOpened(
                    session_id=info.id,
                    model=messages.model_ref(info.model.name, info.model.version),
                    num_steps=info.num_steps,
                )
                return Session(self._line, None, bound_s, opened, resumed=True)
        message = f"session_id: expected an open session of this caller, got {session_id!r}"
        raise SessionNotFound(message, "NOT_FOUND", "SESSION_NOT_FOUND")

    def sessions(self, *, timeout_s: float | None = None) -> list[types.SessionInfo]:
        """List the open sessions of this caller, in the order in which they were opened."""
        found: list[types.SessionInfo] = []
        token, bound_s = "", self._timeout(timeout_s)
        patience_s = min(LOOK_UP_S, self._line.reconnect_s)
        with self._line:
            while True:
                event = self._line.ask(commands.list_command(token), bound_s, again_s=patience_s)
                page = commands.answer(event).listed
                found += commands.infos(page)
                token = page.next_page_token
                if not token:
                    return found

    def models(self, *, timeout_s: float | None = None) -> types.ModelList:
        """List the models that the server serves and the bundles that it refused."""
        try:
            response = self._stub.ListModels(pb.ListModelsRequest(), timeout=self._timeout(timeout_s))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return messages.model_list(response)

    def model(self, name: str, *, version: int = 0, timeout_s: float | None = None) -> types.Model:
        """Describe one model."""
        request = pb.GetModelRequest(model=messages.model_ref(name, version))
        try:
            return messages.model(self._stub.GetModel(request, timeout=self._timeout(timeout_s)))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    def is_serving(self, model: str = "", *, wait: bool = False, timeout_s: float | None = None) -> bool:
        """Ask the server's health check.

        Args:
            model: A model's name; empty asks for the server as a whole.
            wait: Wait for a server that is not there yet, until the timeout.
            timeout_s: Bound, in seconds.

        Raises:
            Unavailable: No server there.
            DeadlineExceeded: None came within the timeout, with `wait`.
        """
        request = health_pb2.HealthCheckRequest(service=model)
        try:
            response: health_pb2.HealthCheckResponse = self._check_health(
                request, timeout=self._timeout(timeout_s), wait_for_ready=wait
            )
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            if isinstance(failure, NotFound):
                return False
            raise failure from None
        return response.status == health_pb2.HealthCheckResponse.SERVING_STATUS_SERVING

    def close(self) -> None:
        """Close the sessions that are still open and the connection; calls in flight are cancelled."""
        self._line.close(commands.close_command)
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _timeout(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else checked_timeout(timeout_s)
