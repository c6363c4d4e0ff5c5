"""Answers to steps, packed small: a session keeps its last few for steps that are sent again."""

import struct
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from service.engine.interface import StepOutputs

_HEAD = struct.Struct("<QqII")  # index of the first step, digest of the inputs, steps, best outputs a step
Inputs = Mapping[str, Sequence[Any]]


@cache
def _one_step(num_top: int) -> struct.Struct:
    """The answer to a single step, the most common one."""
    return struct.Struct(f"<QqII{num_top}q{num_top}f")


def digest(inputs: Inputs) -> int:
    """Tell inputs from others, in 64 bits; the same inputs give the same in this process alone."""
    return hash(
        tuple(
            (name, *[value if isinstance(value, int) else tuple(value) for value in values])
            for name, values in inputs.items()
        )
    )


def pack_answer(first_step: int, inputs: Inputs, outputs: StepOutputs) -> bytes:
    """Pack the answer to the steps from `first_step` on, which had these inputs."""
    num_steps = len(outputs.token_ids)
    num_top = len(outputs.token_ids[0])
    if num_steps == 1:
        return _one_step(num_top).pack(
            first_step, digest(inputs), 1, num_top, *outputs.token_ids[0], *outputs.log_probs[0]
        )
    head = _HEAD.pack(first_step, digest(inputs), num_steps, num_top)
    count = num_steps * num_top
    flat = chain(chain.from_iterable(outputs.token_ids), chain.from_iterable(outputs.log_probs))
    return head + struct.pack(f"<{count}q{count}f", *flat)


def find_answer(answers: tuple[bytes, ...], first_step: int, inputs: Inputs, num_steps: int) -> StepOutputs | None:
    """The answer that was given to `num_steps` steps with these inputs from `first_step` on, if it is kept."""
    for packed in answers:
        first, given, steps, num_top = _HEAD.unpack_from(packed)
        if first == first_step and steps == num_steps and given == digest(inputs):
            count = steps * num_top
            values = struct.unpack_from(f"<{count}q{count}f", packed, _HEAD.size)
            ids = [list(values[i * num_top : (i + 1) * num_top]) for i in range(steps)]
            log_probs = [list(values[count + i * num_top : count + (i + 1) * num_top]) for i in range(steps)]
            return StepOutputs(ids, log_probs, first + steps, replayed=True)
    return None
