"""The Generate call."""

import secrets
from contextlib import aclosing

from protos.carryover.v1 import carryover_pb2 as pb
from service.bridge import next_id
from service.engine.interface import Finished, Generate, Sampling, TokensDecided
from service.models import LiveModel, Models
from service.rpc.boundary import Context, deadline_s
from service.rpc.bounds import priority, real, whole
from service.rpc.detokenize import Detokenizer
from service.rpc.reference import find_model_for, reference
from service.rpc.transduce import FINISH, output_limit
from service.text import begin_id, encode, num_unknown

MAX_TEMPERATURE = 10.0
MAX_REPETITION_PENALTY = 10.0
MAX_PENALTY = 2.0  # of frequency and presence, either way


async def generate(models: Models, request: pb.GenerateRequest, context: Context) -> None:
    """Stream the continuation of a prompt, token by token, then its end."""
    model = find_model_for(models, "language_model", request.model)
    work = sampling_request(model, request, deadline_s(context))
    detokenizer = Detokenizer(model.tokenizers["tokens"], after=work.prompt)
    async with aclosing(model.bridge.events(work)) as events:
        async for event in events:
            if isinstance(event, TokensDecided):
                for token in detokenizer.add(event.tokens, event.log_probs):
                    await context.write(pb.GenerateResponse(token=token))
            elif isinstance(event, Finished):
                for token in detokenizer.finish():
                    await context.write(pb.GenerateResponse(token=token))
                result = pb.GenerateResult(
                    model=reference(model),
                    text=detokenizer.text,
                    finish_reason=FINISH[str(event.value)],
                    seed=work.sampling.seed,
                    num_prompt_tokens=len(work.prompt) - 1,  # the begin symbol is ours
                    num_tokens=detokenizer.num_tokens,
                    num_unknown_prompt_tokens=num_unknown(model.tokenizers["tokens"], work.prompt),
                )
                await context.write(pb.GenerateResponse(result=result))


def sampling_request(model: LiveModel, request: pb.GenerateRequest, deadline: float | None) -> Generate:
    """Check a request and turn it into the engine's.

    Raises:
        InvalidInput: A field is out of bounds.
    """
    tokenizer, limits = model.tokenizers["tokens"], model.limits
    prompt = encode(tokenizer, request.prompt, "prompt", limits.max_input_tokens) if request.prompt else []
    sampling = Sampling(
        temperature=real(request, "temperature", 1.0, 0, MAX_TEMPERATURE),
        top_k=whole("top_k", request.top_k, 0, 1, len(tokenizer.vocabulary)),
        top_p=real(request, "top_p", 1.0, 0, 1, above=True),
        seed=request.seed if request.HasField("seed") else secrets.randbits(64),
        repetition_penalty=real(request, "repetition_penalty", 1.0, 1, MAX_REPETITION_PENALTY),
        frequency_penalty=real(request, "frequency_penalty", 0.0, -MAX_PENALTY, MAX_PENALTY),
        presence_penalty=real(request, "presence_penalty", 0.0, -MAX_PENALTY, MAX_PENALTY),
    )
    return Generate(
        next_id(),
        prompt=(begin_id(tokenizer), *prompt),
        sampling=sampling,
        max_tokens=output_limit(model, request.max_tokens),
        deadline_s=deadline,
        priority=priority("priority", request.priority),
    )
