"""Answers to steps, packed small: a session keeps its last few for steps that are sent again."""

import struct
from functools import cache
from itertools import chain

from service.engine.interface import StepOutputs

_HEAD = struct.Struct("<QII")  # index of the first step, steps, best outputs a step


@cache
def _one_step(num_top: int) -> struct.Struct:
    """The answer to a single step, the most common one."""
    return struct.Struct(f"<QII{num_top}q{num_top}f")


def pack_answer(first_step: int, outputs: StepOutputs) -> bytes:
    """Pack the answer to the steps from `first_step` on."""
    num_steps = len(outputs.token_ids)
    num_top = len(outputs.token_ids[0])
    if num_steps == 1:
        return _one_step(num_top).pack(first_step, 1, num_top, *outputs.token_ids[0], *outputs.log_probs[0])
    head = _HEAD.pack(first_step, num_steps, num_top)
    count = num_steps * num_top
    flat = chain(chain.from_iterable(outputs.token_ids), chain.from_iterable(outputs.log_probs))
    return head + struct.pack(f"<{count}q{count}f", *flat)


def find_answer(answers: tuple[bytes, ...], first_step: int, num_steps: int) -> StepOutputs | None:
    """The answer that was given to `num_steps` steps from `first_step` on, if it is kept."""
    for packed in answers:
        first, steps, num_top = _HEAD.unpack_from(packed)
        if first == first_step and steps == num_steps:
            count = steps * num_top
            values = struct.unpack_from(f"<{count}q{count}f", packed, _HEAD.size)
            ids = [list(values[i * num_top : (i + 1) * num_top]) for i in range(steps)]
            log_probs = [list(values[count + i * num_top : count + (i + 1) * num_top]) for i in range(steps)]
            return StepOutputs(ids, log_probs, first + steps, replayed=True)
    return None
