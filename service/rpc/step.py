"""One step message of a session: the caller's inputs to arrays, the engine's outputs to a message."""

import numpy as np

from models.tokenizer import Tokenizer
from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import StepOutputs
from service.errors import InvalidInput
from service.rpc.models import LiveModel
from service.rpc.session_table import LiveSession
from service.rpc.text import Arrays, step_ids, tagger_arrays


def step_inputs(model: LiveModel, request: pb.StepSession) -> tuple[Arrays, int]:
    """Check a step message and give the step graph's inputs and the number of steps n.

    Returns:
        Language model: tokens (n,). Tagger: words (n,), characters (n, C), word_lengths (n,).

    Raises:
        InvalidInput: No inputs, too many, both kinds, or one that is not in the vocabulary.
    """
    if not 0 <= request.num_top <= model.limits.top_k:
        raise InvalidInput("step.num_top", f"0 to {model.limits.top_k}", str(request.num_top))
    num_tokens, num_ids = len(request.tokens), len(request.token_ids)
    if bool(num_tokens) == bool(num_ids):
        got = f"{num_tokens} tokens and {num_ids} token_ids"
        raise InvalidInput("step.tokens", "either tokens or token_ids, at least one", got)
    num_steps = num_tokens or num_ids
    if num_steps > model.limits.max_input_tokens:
        raise InvalidInput("step.tokens", f"at most {model.limits.max_input_tokens} inputs", str(num_steps))
    if model.manifest.task == "tagger":
        if num_ids:
            raise InvalidInput("step.token_ids", "words as tokens: a tagger also reads their characters", "token_ids")
        return tagger_arrays(model, request.tokens, "step.tokens"), num_steps
    tokenizer = model.tokenizers["tokens"]
    if num_tokens:
        return {"tokens": np.array(step_ids(tokenizer, request.tokens, "step.tokens"), np.int64)}, num_steps
    size = len(tokenizer.vocabulary)
    for i, token_id in enumerate(request.token_ids):
        if not 0 <= token_id < size:
            raise InvalidInput(f"step.token_ids[{i}]", f"0 to {size - 1}", str(token_id))
    return {"tokens": np.array(request.token_ids, np.int64)}, num_steps


def answer_step(live: LiveSession, outputs: StepOutputs, with_tokens: bool) -> pb.SessionStepped:
    """Make the answer to a step message; the entries as text only where they were asked for."""
    output_tokenizer = _output_tokenizer(live.model)
    rows = []
    for ids, log_probs in zip(outputs.token_ids.tolist(), outputs.log_probs.tolist(), strict=True):
        tokens = output_tokenizer.vocabulary.decode(ids) if with_tokens else None
        rows.append(pb.StepOutput(token_ids=ids, log_probs=log_probs, tokens=tokens))
    return pb.SessionStepped(session_id=live.name, outputs=rows, num_steps=outputs.num_steps)


def _output_tokenizer(model: LiveModel) -> Tokenizer:
    return model.tokenizers["tags" if model.manifest.task == "tagger" else "tokens"]
