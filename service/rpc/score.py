"""The Score call."""

import math

import numpy as np

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import next_id
from service.engine.interface import RunSequence
from service.models import Models
from service.rpc.boundary import Context, deadline_s
from service.rpc.bounds import priority
from service.rpc.reference import find_model_for, reference
from service.rpc.tag import check_count
from service.text import encode, scored_ids

OUTPUT = "target_log_probs"


async def score(models: Models, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
    """Give the log-probability of every token of each text."""
    model = find_model_for(models, "language_model", request.model)
    check_count("texts", len(request.texts), model.limits.max_sequences)
    tokenizer, deadline = model.tokenizers["tokens"], deadline_s(context)
    first = priority("priority", request.priority)
    runs = []
    for i, text in enumerate(request.texts):
        ids = encode(tokenizer, text, f"texts[{i}]", model.limits.max_input_tokens)
        read, targets = (np.array(side, np.int64) for side in scored_ids(tokenizer, ids))
        inputs = {"tokens": read, "targets": targets}
        runs.append(RunSequence(next_id(), inputs, len(targets), (OUTPUT,), deadline_s=deadline, priority=first))
    answers = await model.bridge.answers(runs)
    scores = []
    for run, answer in zip(runs, answers, strict=True):
        assert isinstance(answer, dict)
        tokens = tokenizer.vocabulary.decode(run.inputs["targets"].tolist())
        scores.append(text_score(tokens, answer[OUTPUT].tolist()))
    return pb.ScoreResponse(model=reference(model), scores=scores)


def text_score(tokens: list[str], log_probs: list[float]) -> pb.TextScore:
    """Sum up the log-probabilities (natural) of the tokens of one text."""
    total = math.fsum(log_probs)
    try:
        perplexity = math.exp(-total / len(log_probs))
    except OverflowError:  # beyond float64, as it is for a token that cannot be
        perplexity = math.inf
    return pb.TextScore(tokens=tokens, log_probs=log_probs, total_log_prob=total, perplexity=perplexity)
