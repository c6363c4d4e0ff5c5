"""Requests to messages, messages to results: pure functions that the blocking and the asyncio client share."""

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from carryover.client import types
from carryover.client.errors import CarryoverError, InvalidArgument, from_session_error
from protos.carryover.v1 import carryover_pb2 as pb

_FINISH: dict[int, types.FinishReason] = {pb.FINISH_REASON_END: "end", pb.FINISH_REASON_LENGTH: "length"}
_TASK: dict[int, types.Task] = {
    pb.TASK_TAGGER: "tagger",
    pb.TASK_ENCODER_DECODER: "encoder_decoder",
    pb.TASK_LANGUAGE_MODEL: "language_model",
}
_PRECISION: dict[int, types.Precision] = {pb.PRECISION_FP32: "fp32", pb.PRECISION_INT8: "int8"}
_REFUSAL: dict[int, types.RefusalReason] = {pb.REFUSAL_REASON_BUNDLE: "bundle", pb.REFUSAL_REASON_GRAPHS: "graphs"}


_P = ParamSpec("_P")
_M = TypeVar("_M")

# ------------------------------------------------------------------------------------------------------------ requests


def _checked(build: Callable[_P, _M]) -> Callable[_P, _M]:
    """Turn what protobuf refuses (text that is not Unicode, a wrong type) into an InvalidArgument."""

    @functools.wraps(build)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> _M:
        try:
            return build(*args, **kwargs)
        except UnicodeEncodeError as error:
            got = f"a lone surrogate at position {error.start}"
            raise InvalidArgument(f"text: expected valid Unicode, got {got}", "INVALID_ARGUMENT") from None
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"request: {error}", "INVALID_ARGUMENT") from None

    return checked


def model_ref(name: str, version: int) -> pb.ModelRef:
    """Name a model; version 0 is the newest."""
    _range("version", version, 0, 2**63 - 1)
    return pb.ModelRef(name=name, version=version)


@_checked
def tag_request(model: str, version: int, sequences: Sequence[Sequence[str]]) -> pb.TagRequest:
    """Build a Tag request; a bare string among the sequences is an error, not a list of characters."""
    for i, sequence in enumerate(sequences):
        if isinstance(sequence, str):
            raise InvalidArgument(
                f"sequences[{i}].tokens: expected a sequence of words, got the string {sequence!r}", "INVALID_ARGUMENT"
            )
    return pb.TagRequest(model=model_ref(model, version), sequences=[pb.TokenSequence(tokens=s) for s in sequences])


@_checked
def transduce_request(
    model: str,
    version: int,
    source: str,
    beam_size: int,
    num_best: int,
    length_penalty: float | None,
    max_tokens: int,
) -> pb.TransduceRequest:
    """Build a Transduce request; None is left out."""
    for name, value in (("beam_size", beam_size), ("num_best", num_best), ("max_tokens", max_tokens)):
        _range(name, value, 0, 2**31 - 1)
    return pb.TransduceRequest(
        model=model_ref(model, version),
        source=source,
        beam_size=beam_size,
        num_best=num_best,
        length_penalty=length_penalty,
        max_tokens=max_tokens,
    )


@_checked
def generate_request(
    model: str,
    version: int,
    prompt: str,
    max_tokens: int,
    temperature: float | None,
    top_k: int,
    top_p: float | None,
    seed: int | None,
) -> pb.GenerateRequest:
    """Build a Generate request; None is left out."""
    for name, value in (("max_tokens", max_tokens), ("top_k", top_k)):
        _range(name, value, 0, 2**31 - 1)
    if seed is not None:
        _range("seed", seed, 0, 2**64 - 1)
    return pb.GenerateRequest(
        model=model_ref(model, version),
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )


@_checked
def score_request(model: str, version: int, texts: Sequence[str]) -> pb.ScoreRequest:
    """Build a Score request; a bare string is an error, not a list of characters."""
    if isinstance(texts, str):
        raise InvalidArgument(f"texts: expected a sequence of texts, got the string {texts!r}", "INVALID_ARGUMENT")
    return pb.ScoreRequest(model=model_ref(model, version), texts=texts)


@_checked
def open_request(request_id: int, model: str, version: int) -> pb.SessionRequest:
    """Build the message that opens a session."""
    return pb.SessionRequest(request_id=request_id, open=pb.OpenSession(model=model_ref(model, version)))


@_checked
def step_request(
    request_id: int,
    session_id: str,
    first_step: int,
    tokens: Sequence[str] | None,
    token_ids: Sequence[int] | None,
    num_top: int,
    with_tokens: bool | None,
) -> pb.SessionRequest:
    """Build the message that steps a session; exactly one of tokens and token_ids is given."""
    if isinstance(tokens, str):
        raise InvalidArgument(f"tokens: expected a sequence of tokens, got the string {tokens!r}", "INVALID_ARGUMENT")
    if (tokens is None) == (token_ids is None):
        got = "neither" if tokens is None else "both"
        raise InvalidArgument(f"tokens, token_ids: expected exactly one of them, got {got}", "INVALID_ARGUMENT")
    _range("num_top", num_top, 0, 2**31 - 1)
    for i, token_id in enumerate(token_ids or ()):
        _range(f"token_ids[{i}]", token_id, 0, 2**63 - 1)
    step = pb.StepSession(
        session_id=session_id,
        tokens=tokens or (),
        token_ids=token_ids or (),
        num_top=num_top,
        first_step=first_step,
        with_tokens=tokens is not None if with_tokens is None else with_tokens,
    )
    return pb.SessionRequest(request_id=request_id, step=step)


@_checked
def close_request(request_id: int, session_id: str) -> pb.SessionRequest:
    """Build the message that closes a session."""
    return pb.SessionRequest(request_id=request_id, close=pb.CloseSession(session_id=session_id))


def _range(name: str, value: int, low: int, high: int) -> None:
    """Refuse what protobuf itself would refuse with a ValueError that names no field."""
    if not low <= value <= high:
        raise InvalidArgument(f"{name}: expected {low} to {high}, got {value}", "INVALID_ARGUMENT")


# ----------------------------------------------------------------------------------------------------------- responses


def ref(message: pb.ModelRef) -> types.ModelRef:
    """Read a model's name and version."""
    return types.ModelRef(message.name, message.version)


def tagged(response: pb.TagResponse) -> list[types.TaggedSequence]:
    """Read a Tag response."""
    return [types.TaggedSequence(tuple(s.tags), tuple(s.confidences)) for s in response.sequences]


def scores(response: pb.ScoreResponse) -> list[types.TextScore]:
    """Read a Score response."""
    return [
        types.TextScore(tuple(s.tokens), tuple(s.log_probs), s.total_log_prob, s.perplexity) for s in response.scores
    ]


def transduce_event(response: pb.TransduceResponse) -> types.Token | types.TransduceResult:
    """Read one message of a Transduce stream."""
    if response.WhichOneof("event") == "token":
        return token(response.token)
    hypotheses = tuple(
        types.Hypothesis(tuple(h.tokens), h.text, h.log_prob, h.score, _FINISH.get(h.finish_reason, "unknown"))
        for h in response.result.hypotheses
    )
    return types.TransduceResult(ref(response.result.model), hypotheses)


def generate_event(response: pb.GenerateResponse) -> types.Token | types.GenerateResult:
    """Read one message of a Generate stream."""
    if response.WhichOneof("event") == "token":
        return token(response.token)
    got = response.result
    return types.GenerateResult(
        ref(got.model),
        got.text,
        _FINISH.get(got.finish_reason, "unknown"),
        got.seed,
        got.num_prompt_tokens,
        got.num_tokens,
    )


def token(message: pb.Token) -> types.Token:
    """Read a token."""
    return types.Token(message.token, message.text, message.log_prob)


def steps(response: pb.SessionStepped) -> list[types.StepOutput]:
    """Read the outputs of a step message."""
    return [types.StepOutput(tuple(o.token_ids), tuple(o.log_probs), tuple(o.tokens)) for o in response.outputs]


def session_end(response: pb.SessionResponse) -> CarryoverError | None:
    """Give the error with which a session ended, or None where it goes on."""
    return from_session_error(response.error) if response.error.session_ended else None


def session_answer(response: pb.SessionResponse, request_id: int) -> pb.SessionResponse:
    """Check that a session message answers a request.

    Raises:
        CarryoverError: It is an error, or the answer to something else.
    """
    if response.request_id != request_id:
        raise CarryoverError(f"session: expected the answer to request {request_id}, got {response.request_id}")
    if response.WhichOneof("event") == "error":
        raise from_session_error(response.error)
    return response


def model(message: pb.Model) -> types.Model:
    """Read a model."""
    limits, load = message.limits, message.load
    return types.Model(
        ref(message.ref),
        _TASK.get(message.task, "unknown"),
        message.supports_sessions,
        _PRECISION.get(message.precision, "unknown"),
        message.provider,
        dict(message.vocabulary_sizes),
        dict(message.metrics),
        types.ModelLimits(
            limits.max_input_tokens,
            limits.max_output_tokens,
            limits.max_beam_size,
            limits.top_k,
            limits.max_sequences,
            limits.max_sessions,
            limits.max_word_characters,
            limits.max_sentence_characters,
            limits.max_message_bytes,
            limits.max_requests_in_flight_per_stream,
            limits.session_idle_timeout_s,
        ),
        message.state_bytes,
        tuple(message.warnings),
        types.ModelLoad(
            load.waiting,
            load.running,
            load.sessions,
            load.num_slots,
            load.free_slots,
            load.num_memory_rows,
            load.free_memory_rows,
        ),
    )


def model_list(response: pb.ListModelsResponse) -> types.ModelList:
    """Read what a server has."""
    refused = tuple(types.RefusedModel(ref(r.model), _REFUSAL.get(r.reason, "unknown")) for r in response.refused)
    return types.ModelList(tuple(map(model, response.models)), refused)
