"""The inputs of a step command: checked, and turned into the plain lists that the engine takes."""

from collections.abc import Mapping, Sequence

from protos.carryover.v1 import carryover_pb2 as pb
from service.errors import InvalidInput
from service.models import LiveModel
from service.text import step_ids, tagger_arrays

StepInputs = Mapping[str, Sequence[int] | Sequence[Sequence[int]]]


def step_inputs(model: LiveModel, request: pb.StepSession, num_top: int) -> tuple[StepInputs, int]:
    """Check a step command and give the step graph's inputs and the number of steps n.

    Args:
        model: Whose step graph.
        request: The command.
        num_top: Its `num_top`, which the caller has at hand: reading a field of a message takes as long as a call.

    Returns:
        Language model: tokens, n ids. Tagger: words, n ids; characters, n lists of ids, all as long as the longest and
        padded with 0; word_lengths, n.

    Raises:
        InvalidInput: No inputs, too many, both kinds, or one that is not in the vocabulary.
    """
    limits, size = model.limits, model.num_step_ids
    if not 0 <= num_top <= limits.top_k:
        raise InvalidInput("step.num_top", f"0 to {limits.top_k}", str(num_top))
    ids = request.token_ids[:]
    num_ids = len(ids)
    # The usual case first: a few ids and no text.
    if 0 < num_ids <= limits.max_input_tokens and size and not request.tokens and min(ids) >= 0 and max(ids) < size:
        return {"tokens": ids}, num_ids
    num_tokens = len(request.tokens)
    if bool(num_tokens) == bool(num_ids):
        got = f"{num_tokens} tokens and {num_ids} token_ids"
        raise InvalidInput("step.tokens", "either tokens or token_ids, at least one", got)
    num_steps = num_tokens or num_ids
    if num_steps > limits.max_input_tokens:
        raise InvalidInput("step.tokens", f"at most {limits.max_input_tokens} inputs", str(num_steps))
    if not size:
        if num_ids:
            raise InvalidInput("step.token_ids", "words as tokens: a tagger also reads their characters", "token_ids")
        arrays = tagger_arrays(model, request.tokens, "step.tokens")
        return {name: array.tolist() for name, array in arrays.items()}, num_steps
    for i, token_id in enumerate(ids):
        if not 0 <= token_id < size:
            raise InvalidInput(f"step.token_ids[{i}]", f"0 to {size - 1}", str(token_id))
    return {"tokens": step_ids(model.tokenizers["tokens"], request.tokens, "step.tokens")}, num_steps
