"""The Tag call."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import next_id
from service.engine.interface import RunSequence
from service.errors import InvalidInput
from service.models import LiveModel, Models
from service.rpc.boundary import Context, deadline_s
from service.rpc.bounds import priority
from service.rpc.reference import find_model_for
from service.text import tagger_arrays

_OUTPUTS = ("emissions",)


def check_count(field: str, count: int, limit: int) -> None:
    """Refuse a request without sequences, or with too many."""
    if not 1 <= count <= limit:
        raise InvalidInput(field, f"1 to {limit} entries", str(count))


async def tag(models: Models, request: pb.TagRequest, context: Context) -> pb.TagResponse:
    """Label every token of each sequence."""
    model, runs = tag_runs(models, request, deadline_s(context))
    response = pb.TagResponse()
    fill_response(response, model, await model.bridge.answers(runs))
    return response


def tag_runs(models: Models, request: pb.TagRequest, deadline: float | None) -> tuple[LiveModel, list[RunSequence]]:
    """Check a request and say what the engine of its model has to run: a run for each sequence.

    Args:
        models: Those that are served.
        request: What the caller asks.
        deadline: When the caller's time is up, on the engine's clock.

    Raises:
        ServiceError: It cannot be done.
    """
    model = find_model_for(models, "tagger", request.model)
    sequences = request.sequences
    check_count("sequences", len(sequences), model.limits.max_sequences)
    first = priority("priority", request.priority)
    runs = []
    for i, sequence in enumerate(sequences):
        words = list(sequence.tokens)
        arrays = tagger_arrays(model, words, f"sequences[{i}].tokens")
        runs.append(RunSequence(next_id(), arrays, len(words), _OUTPUTS, deadline_s=deadline, priority=first))
    return model, runs


def fill_response(response: pb.TagResponse, model: LiveModel, answers: Sequence[object]) -> None:
    """Say what the runs of a request gave, in order."""
    response.model.name = model.manifest.name
    response.model.version = model.manifest.version
    for answer in answers:
        _fill_sequence(response.sequences.add(), model, answer)


def _fill_sequence(sequence: pb.TaggedSequence, model: LiveModel, answer: object) -> None:
    """Choose a tag for each word.

    The confidence is the emission probability of the tag: softmax over tags, of the word alone even with a CRF.
    """
    assert isinstance(answer, dict)
    emissions: npt.NDArray[np.float32] = answer["emissions"]  # (T, K)
    best = emissions.argmax(axis=1)  # (T,)
    weights = np.exp(emissions - np.maximum.reduce(emissions, axis=1, keepdims=True))
    chosen = 1 / np.add.reduce(weights, axis=1)  # the weight of the best is exp(0)
    if model.decode_tags is not None:
        best = np.asarray(model.decode_tags(emissions), np.int64)
        chosen *= weights[np.arange(len(best)), best]
    sequence.tags.extend(model.output_vocabulary.decode(best.tolist()))
    sequence.confidences.extend(chosen.tolist())
