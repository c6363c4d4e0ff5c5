"""The Tag call."""

import numpy as np
import numpy.typing as npt

from protos.carryover.v1 import carryover_pb2 as pb
from service.engine.interface import RunSequence
from service.errors import InvalidInput
from service.rpc.boundary import Context, deadline_s
from service.rpc.bounds import priority
from service.rpc.bridge import next_id
from service.rpc.models import LiveModel, Models
from service.rpc.text import tagger_arrays


def check_count(field: str, count: int, limit: int) -> None:
    """Refuse a request without sequences, or with too many."""
    if not 1 <= count <= limit:
        raise InvalidInput(field, f"1 to {limit} entries", str(count))


async def tag(models: Models, request: pb.TagRequest, context: Context) -> pb.TagResponse:
    """Label every token of each sequence."""
    model = models.find_for("tagger", request.model)
    check_count("sequences", len(request.sequences), model.limits.max_sequences)
    deadline, first = deadline_s(context), priority("priority", request.priority)
    runs = []
    for i, sequence in enumerate(request.sequences):
        arrays = tagger_arrays(model, sequence.tokens, f"sequences[{i}].tokens")
        runs.append(
            RunSequence(next_id(), arrays, len(sequence.tokens), ("emissions",), deadline_s=deadline, priority=first)
        )
    answers = await model.bridge.answers(runs)
    return pb.TagResponse(model=model.ref, sequences=[_tagged(model, answer) for answer in answers])


def _tagged(model: LiveModel, answer: object) -> pb.TaggedSequence:
    """Choose a tag for each word.

    The confidence is the emission probability of the tag: softmax over tags, of the word alone even with a CRF.
    """
    assert isinstance(answer, dict)
    emissions: npt.NDArray[np.float32] = answer["emissions"]  # (T, K)
    best = model.decode_tags(emissions) if model.decode_tags is not None else emissions.argmax(axis=1)
    tags = np.asarray(best, np.int64)  # (T,)
    weights = np.exp(emissions - emissions.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(weights, tags[:, None], axis=1)[:, 0] / weights.sum(axis=1)
    return pb.TaggedSequence(
        tags=model.tokenizers["tags"].vocabulary.decode(tags.tolist()), confidences=chosen.tolist()
    )
