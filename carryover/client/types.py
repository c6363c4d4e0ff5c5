"""What the client gives back: frozen values, no protobuf."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["end", "length", "unknown"]  # unknown: a newer server knows more
Task = Literal["tagger", "encoder_decoder", "language_model", "tensors", "unknown"]
Precision = Literal["fp32", "fp16", "int8", "unknown"]
Priority = Literal["low", "normal", "high"]
RefusalReason = Literal["bundle", "graphs", "unknown"]


@dataclass(frozen=True)
class ModelRef:
    """A model and its concrete version."""

    name: str
    version: int


@dataclass(frozen=True)
class Token:
    """One token of an answer as it is decided.

    Args:
        token: As it stands in the vocabulary.
        text: What it adds to the text; joining all of them gives the text.
        log_prob: Natural-log probability given all before it.
    """

    token: str
    text: str
    log_prob: float


@dataclass(frozen=True)
class Hypothesis:
    """One whole answer of a search.

    Args:
        tokens: Without the end symbol.
        text: The tokens joined.
        log_prob: Sum of natural-log probabilities, the end symbol's included.
        score: log_prob over the length penalty; the order is by this.
        finish_reason: `end`: the model ended it; `length`: max_tokens was reached.
    """

    tokens: tuple[str, ...]
    text: str
    log_prob: float
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True)
class TransduceResult:
    """The n best answers, best first.

    Args:
        model: Who answered.
        hypotheses: The answers.
        num_unknown_source_tokens: Tokens of the source that the model does not know: it read `<unk>` for each.
    """

    model: ModelRef
    hypotheses: tuple[Hypothesis, ...]
    num_unknown_source_tokens: int = 0

    @property
    def best(self) -> Hypothesis:
        """The first hypothesis."""
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The text of the first hypothesis."""
        return self.best.text


@dataclass(frozen=True)
class GenerateResult:
    """A whole continuation.

    Args:
        model: Who answered.
        text: The continuation, without the prompt.
        finish_reason: `end`: the model ended it; `length`: max_tokens was reached.
        seed: The seed that was used; the same one gives the same text.
        num_prompt_tokens: Tokens of the prompt, as the model counts them.
        num_tokens: Tokens produced, the end symbol not counted.
        num_unknown_prompt_tokens: Tokens of the prompt that the model does not know: it read `<unk>` for each.
    """

    model: ModelRef
    text: str
    finish_reason: FinishReason
    seed: int
    num_prompt_tokens: int
    num_tokens: int
    num_unknown_prompt_tokens: int = 0


@dataclass(frozen=True)
class TaggedSequence:
    """One tag a token, and the emission probability of each, in [0, 1]."""

    tags: tuple[str, ...]
    confidences: tuple[float, ...]


@dataclass(frozen=True)
class TextScore:
    """How probable a language model finds a text.

    Args:
        tokens: The end symbol last where the model has one.
        log_probs: Natural-log probability of each token given all before it.
        total_log_prob: Their sum.
        perplexity: exp(-total_log_prob / number of tokens).
    """

    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]
    total_log_prob: float
    perplexity: float


@dataclass(frozen=True)
class StepOutput:
    """The most probable outputs after one step of a session, best first.

    Args:
        token_ids: Vocabulary ids (tag ids for a tagger).
        log_probs: Natural-log probability of each.
        tokens: The entries as text, where they were asked for; else empty.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class SessionInfo:
    """An open session of this caller.

    Args:
        id: Its name.
        model: Whose state.
        age_s: Seconds since it was opened.
        idle_s: Seconds since its last command.
        num_steps: Steps that it has taken in all.
        state_bytes: Bytes of its state.
        marks: Its marks.
    """

    id: str
    model: ModelRef
    age_s: float
    idle_s: float
    num_steps: int
    state_bytes: int
    marks: tuple[int, ...]


@dataclass(frozen=True)
class StateInfo:
    """One tensor of a session's state."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelLimits:
    """Limits that requests are held to; 0 where one does not apply.

    Args:
        max_input_tokens: Of one sequence, source or prompt.
        max_output_tokens: Of one answer.
        max_beam_size: Largest beam.
        top_k: Most outputs that a step returns.
        max_sequences: Of one Tag or Score request.
        max_sessions: That the server keeps for the model.
        max_word_characters: Of one word of a tagger.
        max_sentence_characters: Of one sentence of a tagger, each word counted as long as the longest.
        max_message_bytes: Of one request message.
        max_requests_in_flight_per_stream: Unanswered requests of one Session stream, above which it is not read.
        session_idle_timeout_s: Seconds without a command after which a session ends.
        kept_answers: Answers of a session that are kept for steps that are sent again.
        max_marks: Of one session.
    """

    max_input_tokens: int
    max_output_tokens: int
    max_beam_size: int
    top_k: int
    max_sequences: int
    max_sessions: int
    max_word_characters: int
    max_sentence_characters: int
    max_message_bytes: int
    max_requests_in_flight_per_stream: int
    session_idle_timeout_s: float
    kept_answers: int
    max_marks: int


@dataclass(frozen=True)
class ModelLoad:
    """What a model was doing at its engine's last turn.

    Args:
        waiting: Requests admitted that have not begun.
        running: Requests that have begun and not ended; open sessions are not requests.
        sessions: Open sessions.
        num_slots: State rows that sessions and decodes can have.
        free_slots: State rows that nobody has.
        num_memory_rows: Attention-memory rows (source positions) that decodes can have; 0 without attention.
        free_memory_rows: Attention-memory rows that nobody has.
        host_state_bytes: Bytes of sessions and marks that are kept outside the state rows.
        max_host_state_bytes: Most of them.
        sessions_expired: Sessions that ended because nobody used them, since the start.
        requests_refused: Requests refused because the model was at its limit, since the start.
    """

    waiting: int
    running: int
    sessions: int
    num_slots: int
    free_slots: int
    num_memory_rows: int
    free_memory_rows: int
    host_state_bytes: int
    max_host_state_bytes: int
    sessions_expired: int
    requests_refused: int


@dataclass(frozen=True)
class Model:
    """A served model.

    Args:
        ref: Name and version.
        task: What it does.
        supports_sessions: Whether it can be stepped.
        precision: Arithmetic of its weights.
        provider: ONNX Runtime's execution provider.
        vocabulary_sizes: Entries by role.
        metrics: Quality measured after training, by name.
        limits: What requests are held to.
        state_bytes: Bytes of state that a session keeps.
        warnings: For the operator; empty is good.
        load: What it is doing now.
        batch_invariant: Whether answers were seen to be the same alone and in any company, bit for bit.
        states: What the state of a session is made of.
        max_batch_rows: Most rows of one run of the step graph.
    """

    ref: ModelRef
    task: Task
    supports_sessions: bool
    precision: Precision
    provider: str
    vocabulary_sizes: Mapping[str, int]
    metrics: Mapping[str, float]
    limits: ModelLimits
    state_bytes: int
    warnings: tuple[str, ...]
    load: ModelLoad
    batch_invariant: bool
    states: tuple[StateInfo, ...]
    max_batch_rows: int


@dataclass(frozen=True)
class RefusedModel:
    """A bundle that the server found and does not serve.

    Args:
        ref: Its name and version.
        reason: `bundle`: its files are missing, were changed or do not fit together; `graphs`: its graphs do not run
            there as they must. The server's log says more.
    """

    ref: ModelRef
    reason: RefusalReason


@dataclass(frozen=True)
class ModelList:
    """What a server has."""

    models: tuple[Model, ...]
    refused: tuple[RefusedModel, ...]
