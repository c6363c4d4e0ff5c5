"""Requests to messages, messages to results: pure functions that the blocking and the asyncio client share."""

from collections.abc import Sequence

from carryover.client import types
from carryover.client.checks import checked, in_range
from carryover.client.errors import InvalidArgument
from protos.carryover.v1 import carryover_pb2 as pb

_FINISH: dict[int, types.FinishReason] = {pb.FINISH_REASON_END: "end", pb.FINISH_REASON_LENGTH: "length"}
_TASK: dict[int, types.Task] = {
    pb.TASK_TAGGER: "tagger",
    pb.TASK_ENCODER_DECODER: "encoder_decoder",
    pb.TASK_LANGUAGE_MODEL: "language_model",
    pb.TASK_TENSORS: "tensors",
}
_PRECISION: dict[int, types.Precision] = {
    pb.PRECISION_FP32: "fp32",
    pb.PRECISION_FP16: "fp16",
    pb.PRECISION_INT8: "int8",
}
_REFUSAL: dict[int, types.RefusalReason] = {pb.REFUSAL_REASON_BUNDLE: "bundle", pb.REFUSAL_REASON_GRAPHS: "graphs"}


_PRIORITY: dict[str, pb.Priority.ValueType] = {
    "low": pb.PRIORITY_LOW,
    "normal": pb.PRIORITY_UNSPECIFIED,  # the default is left out
    "high": pb.PRIORITY_HIGH,
}

# ------------------------------------------------------------------------------------------------------------ requests


def model_ref(name: str, version: int) -> pb.ModelRef:
    """Name a model; version 0 is the newest."""
    in_range("version", version, 0, 2**63 - 1)
    return pb.ModelRef(name=name, version=version)


@checked
def tag_request(model: str, version: int, sequences: Sequence[Sequence[str]], rank: types.Priority) -> pb.TagRequest:
    """Build a Tag request; a bare string among the sequences is an error, not a list of characters."""
    for i, sequence in enumerate(sequences):
        if isinstance(sequence, str):
            raise InvalidArgument(
                f"sequences[{i}].tokens: expected a sequence of words, got the string {sequence!r}", "INVALID_ARGUMENT"
            )
    tokens = [pb.TokenSequence(tokens=sequence) for sequence in sequences]
    return pb.TagRequest(model=model_ref(model, version), sequences=tokens, priority=priority(rank))


@checked
def transduce_request(
    model: str,
    version: int,
    source: str,
    beam_size: int,
    num_best: int,
    length_penalty: float | None,
    max_tokens: int,
    rank: types.Priority,
) -> pb.TransduceRequest:
    """Build a Transduce request; None is left out."""
    for name, value in (("beam_size", beam_size), ("num_best", num_best), ("max_tokens", max_tokens)):
        in_range(name, value, 0, 2**31 - 1)
    return pb.TransduceRequest(
        model=model_ref(model, version),
        source=source,
        beam_size=beam_size,
        num_best=num_best,
        length_penalty=length_penalty,
        max_tokens=max_tokens,
        priority=priority(rank),
    )


@checked
def generate_request(
    model: str,
    version: int,
    prompt: str,
    max_tokens: int,
    temperature: float | None,
    top_k: int,
    top_p: float | None,
    seed: int | None,
    repetition_penalty: float | None,
    frequency_penalty: float | None,
    presence_penalty: float | None,
    rank: types.Priority,
) -> pb.GenerateRequest:
    """Build a Generate request; None is left out."""
    for name, value in (("max_tokens", max_tokens), ("top_k", top_k)):
        in_range(name, value, 0, 2**31 - 1)
    if seed is not None:
        in_range("seed", seed, 0, 2**64 - 1)
    return pb.GenerateRequest(
        model=model_ref(model, version),
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        priority=priority(rank),
    )


@checked
def score_request(model: str, version: int, texts: Sequence[str], rank: types.Priority) -> pb.ScoreRequest:
    """Build a Score request; a bare string is an error, not a list of characters."""
    if isinstance(texts, str):
        raise InvalidArgument(f"texts: expected a sequence of texts, got the string {texts!r}", "INVALID_ARGUMENT")
    return pb.ScoreRequest(model=model_ref(model, version), texts=texts, priority=priority(rank))


def priority(rank: types.Priority) -> pb.Priority.ValueType:
    """Give the contract's word for a priority.

    Raises:
        InvalidArgument: It is none.
    """
    known = _PRIORITY.get(rank)
    if known is None:
        raise InvalidArgument(f"priority: expected one of {', '.join(_PRIORITY)}, got {rank!r}", "INVALID_ARGUMENT")
    return known


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
    return types.TransduceResult(ref(response.result.model), hypotheses, response.result.num_unknown_source_tokens)


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
        got.num_unknown_prompt_tokens,
    )


def token(message: pb.Token) -> types.Token:
    """Read a token."""
    return types.Token(message.token, message.text, message.log_prob)


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
            limits.kept_answers,
            limits.max_marks,
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
            load.host_state_bytes,
            load.max_host_state_bytes,
            load.sessions_expired,
            load.requests_refused,
        ),
        message.batch_invariant,
        tuple(types.StateInfo(state.name, tuple(state.shape)) for state in message.states),
        message.max_batch_rows,
    )


def model_list(response: pb.ListModelsResponse) -> types.ModelList:
    """Read what a server has."""
    refused = tuple(types.RefusedModel(ref(r.model), _REFUSAL.get(r.reason, "unknown")) for r in response.refused)
    return types.ModelList(tuple(map(model, response.models)), refused)
