"""The Transduce call."""

from contextlib import aclosing

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import next_id
from service.engine.interface import Decode, Finished, Hypothesis, TokensDecided
from service.models import LiveModel, Models
from service.rpc.boundary import Context, deadline_s
from service.rpc.bounds import priority, real, whole
from service.rpc.detokenize import Detokenizer
from service.rpc.reference import find_model_for, reference
from service.text import encode, num_unknown

MAX_LENGTH_PENALTY = 2.0
FINISH = {"end": pb.FINISH_REASON_END, "length": pb.FINISH_REASON_LENGTH}


async def transduce(models: Models, request: pb.TransduceRequest, context: Context) -> None:
    """Stream the target tokens as they are decided, then the n best."""
    model = find_model_for(models, "encoder_decoder", request.model)
    detokenizer = Detokenizer(model.tokenizers["target"])
    work = decode_request(model, request, deadline_s(context))
    async with aclosing(model.bridge.events(work)) as events:
        async for event in events:
            if isinstance(event, TokensDecided):
                for token in detokenizer.add(event.tokens, event.log_probs):
                    await context.write(pb.TransduceResponse(token=token))
            elif isinstance(event, Finished):
                for token in detokenizer.finish():
                    await context.write(pb.TransduceResponse(token=token))
                assert isinstance(event.value, list)
                result = pb.TransduceResult(
                    model=reference(model),
                    hypotheses=[_hypothesis(model, hypothesis) for hypothesis in event.value],
                    num_unknown_source_tokens=num_unknown(model.tokenizers["source"], work.source),
                )
                await context.write(pb.TransduceResponse(result=result))


def decode_request(model: LiveModel, request: pb.TransduceRequest, deadline: float | None) -> Decode:
    """Check a request and turn it into the engine's.

    Raises:
        InvalidInput: A field is out of bounds.
    """
    defaults, limits = model.manifest.decoding, model.limits
    beam_size = whole("beam_size", request.beam_size, defaults.beam_size, 1, limits.max_beam_size)
    return Decode(
        next_id(),
        source=tuple(encode(model.tokenizers["source"], request.source, "source", limits.max_input_tokens)),
        beam_size=beam_size,
        num_best=whole("num_best", request.num_best, 1, 1, beam_size),
        length_penalty=real(request, "length_penalty", defaults.length_penalty, 0, MAX_LENGTH_PENALTY),
        max_tokens=output_limit(model, request.max_tokens),
        deadline_s=deadline,
        priority=priority("priority", request.priority),
    )


def output_limit(model: LiveModel, max_tokens: int) -> int:
    """Most tokens of an answer; the default is the model's, or the server's limit where that is less.

    Raises:
        InvalidInput: It is out of bounds.
    """
    limit = model.limits.max_output_tokens
    return whole("max_tokens", max_tokens, min(model.manifest.decoding.max_tokens, limit), 1, limit)


def _hypothesis(model: LiveModel, hypothesis: Hypothesis) -> pb.Hypothesis:
    tokenizer = model.tokenizers["target"]
    return pb.Hypothesis(
        tokens=tokenizer.vocabulary.decode(hypothesis.tokens),
        text=tokenizer.decode(hypothesis.tokens),
        log_prob=hypothesis.log_prob,
        score=hypothesis.score,
        finish_reason=FINISH[hypothesis.finish_reason],
    )
