"""Find sizes and shared values with which a model runs, since what is free is rarely free altogether.

A frame of audio has its 512 samples, a state its width, a sampling rate its two values; the file does not say so.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from importing.analysis.draws import Draws
from importing.analysis.padding import TIME
from importing.analysis.rows import Guess
from importing.analysis.walk import Conditions, Original, Walk
from importing.errors import ImportRefused
from importing.session import RunFailed
from importing.signature import Array, Value, has_number

# The smallest first: a step of one. The others are what frames, filter banks and hidden layers are like.
_SIZES: Final = (
    1, 2, 3, 4, 5, 8, 10, 16, 20, 24, 32, 40, 48, 64, 80, 96, 100, 128, 160, 192, 200, 256, 257, 320, 384, 400, 480,
    512, 576, 640, 768, 800, 960, 1024, 1280, 1536, 1600, 1920, 2048, 3200, 4000, 4096, 8000, 16000,
)  # fmt: skip
_SHARED: Final[Mapping[str, tuple[float, ...]]] = {"int": (1, 0, 16000, 8000), "float": (1.0, 0.0), "bool": (1, 0)}
_MOST_RUNS: Final = 2000
_MOST_S: Final = 60.0
_MOST_ELEMENTS: Final = 1 << 24
_STEPS: Final = 2
_MOST_SHARED: Final = 8  # values of one shared input that are tried
_MOST_COMBINED: Final = 3  # free sizes whose combinations are tried


class Search:
    """Looks for conditions under which one model runs; bounded in runs and time over all guesses.

    Args:
        original: The model.
        draws: Of inputs.
        sizes: By name of a free size, what the caller says.
        shared: By input that all rows share, what the caller says.
        hints: By input, values that the graph compares it with.
        widths: Sizes that weights have.
        lengths: The input that says how long each row is.
    """

    def __init__(
        self,
        original: Original,
        draws: Draws,
        sizes: Mapping[str, int],
        shared: Mapping[str, float],
        hints: Mapping[str, Sequence[float]],
        widths: Sequence[int] = (),
        lengths: str | None = None,
    ) -> None:
        self._original, self._draws = original, draws
        self._given, self._given_shared, self._hints = sizes, shared, hints
        self._lengths, self._widths = lengths, widths
        self._runs, self._began_s = 0, time.monotonic()
        self.last_failure = "nothing was tried"

    def find(self, guess: Guess, batched: bool) -> Conditions | None:
        """Find conditions under which one row can take steps; None where none of those tried do."""
        shared = [value for value in self._original.own_inputs if is_shared(value, guess, batched)]
        names = self.free_names(guess)
        # A value that the graph itself names matters more than a size that happens to work without.
        for values in itertools.product(*[self._shared_values(value) for value in shared]):
            for sizes in self._sizes(names):
                conditions = Conditions(
                    guess, batched, sizes, {v.name: _fill(v, sizes, x) for v, x in zip(shared, values, strict=True)}
                )
                if self.works(conditions):
                    return conditions
                if self._spent():
                    return None
        return None

    def works(self, conditions: Conditions, rows: int = 1) -> bool:
        """Whether so many rows can take steps."""
        self._runs += 1
        if (large := self._too_large(conditions)) is not None:
            self.last_failure = f"input {large}: expected at most {_MOST_ELEMENTS} elements a row"
            return False
        try:
            walk = Walk(self._original, conditions, rows)
            for _ in range(_STEPS):
                outputs = walk.step(self.draw_step(conditions, rows))
        except (RunFailed, MemoryError) as failed:
            self.last_failure = str(failed)
            return False
        if empty := [name for name, array in outputs.items() if not array.size]:
            self.last_failure = f"output {empty[0]} is empty"
            return False
        return True

    def _too_large(self, conditions: Conditions) -> str | None:
        for value in self._original.signature.inputs:
            if math.prod(conditions.row_shape(value)) > _MOST_ELEMENTS:
                return value.name
        return None

    def another(self, conditions: Conditions, name: str, though_given: bool = False) -> Conditions | None:
        """Conditions with another size of that name; None where no other works or the caller has said which."""
        if name in self._given and not though_given:
            return None
        for size in _SIZES:
            if size != conditions.sizes[name] and not self._spent():
                other = _with_size(conditions, name, size, self._original)
                if self.works(other):
                    return other
        return None

    def sized(self, conditions: Conditions, name: str, size: int) -> Conditions | None:
        """Conditions with that size; None where the caller has said which, or enough was tried."""
        if name in self._given or self._spent():
            return None
        return _with_size(conditions, name, size, self._original)

    def larger(self, conditions: Conditions, name: str) -> Conditions | None:
        """Conditions with a larger size of that name; None where those tried do not work."""
        size = conditions.sizes[name]
        for more in (size + 2, 2 * size + 1, 3 * size):
            if not self._spent() and self.works(other := _with_size(conditions, name, more, self._original)):
                return other
        return None

    def varied(self, conditions: Conditions) -> Iterator[Conditions]:
        """These conditions, then others: each value that a shared input may have, with sizes that work."""
        yield conditions
        for value in self._original.own_inputs:
            if value.name not in conditions.shared or not conditions.shared[value.name].size:
                continue
            for number in self._likely_values(value):
                if number == conditions.shared[value.name].flat[0]:
                    continue
                for sizes in itertools.chain([conditions.sizes], self._sizes(self.free_names(conditions.guess))):
                    shared = {**conditions.shared, value.name: _fill(value, sizes, number)}
                    if self._spent():
                        return
                    if self.works(other := Conditions(conditions.guess, conditions.batched, sizes, shared)):
                        yield other
                        break

    def draw_step(
        self, conditions: Conditions, rows: int, scale: float = 1.0, unusual: bool = False
    ) -> dict[str, Array]:
        """Draw inputs of a step, rows first; floats about as large as `scale`, rows as long as they can be."""
        draw = self._draws.draw_unusual if unusual else self._draws.draw
        step = {
            value.name: draw(value, (rows, *conditions.row_shape(value)), scale)
            for value in self._original.own_inputs
            if value.name not in conditions.shared
        }
        if self._lengths in step:
            step[self._lengths][...] = conditions.sizes[TIME]
        return step

    def free_names(self, guess: Guess) -> list[str]:
        """Names of free sizes that are not the rows."""
        return list(
            dict.fromkeys(
                size
                for value in self._original.signature.inputs
                for axis, size in enumerate(value.shape)
                if isinstance(size, str) and axis != guess.axes[value.name]
            )
        )

    def _sizes(self, names: Sequence[str]) -> Iterator[dict[str, int]]:
        """All alike first, then each on its own while the others are one, then whatever weights have."""
        open_names = [name for name in names if name not in self._given]
        given = {name: self._given[name] for name in names if name in self._given}
        if not open_names:
            yield given
            return
        for size in dict.fromkeys((*_SIZES, *self._widths)):
            yield given | dict.fromkeys(open_names, size)
        if len(open_names) > 1:
            for name in open_names:
                for size in _SIZES[1:]:
                    yield given | dict.fromkeys(open_names, 1) | {name: size}
        if 1 < len(open_names) <= _MOST_COMBINED:
            for sizes in itertools.product((1, *self._widths), repeat=len(open_names)):
                yield given | dict(zip(open_names, sizes, strict=True))

    def _shared_values(self, value: Value) -> list[float]:
        if value.name in self._given_shared:
            return [self._given_shared[value.name]]
        return self._likely_values(value)

    def _likely_values(self, value: Value) -> list[float]:
        kind = "bool" if value.dtype == "bool" else "int" if "int" in value.dtype else "float"
        numbers = dict.fromkeys([*self._hints.get(value.name, ()), *_SHARED[kind]])
        return [number for number in numbers if has_number(value.dtype, number)][:_MOST_SHARED]

    def _spent(self) -> bool:
        return self._runs > _MOST_RUNS or time.monotonic() - self._began_s > _MOST_S


def is_shared(value: Value, guess: Guess, batched: bool) -> bool:
    """Whether all rows share an own input: it has no rows, and no room for them but as a run of its own."""
    return guess.axes[value.name] is None and (batched or not value.shape)


def _fill(value: Value, sizes: Mapping[str, int], content: float) -> Array:
    if value.dtype == "string":
        raise ImportRefused(f"input {value.name}: expected numbers where all rows share an input, got text")
    shape = _shape(value, sizes)
    if value.dtype == "bfloat16":
        bits = np.array(content, np.float32).view(np.uint32) >> 16
        return np.broadcast_to(bits.astype(np.uint16), shape)
    return np.broadcast_to(np.array(content, dtype=value.dtype), shape)  # takes no room, however large it is


def _refill(value: Value, sizes: Mapping[str, int], array: Array) -> Array:
    """The same value in another shape; its bits, where the type is carried as such."""
    return np.broadcast_to(array.flat[0], _shape(value, sizes)) if array.size else _fill(value, sizes, 1)


def _shape(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else sizes[size] for size in value.shape)


def _with_size(conditions: Conditions, name: str, size: int, original: Original) -> Conditions:
    sizes = {**conditions.sizes, name: size}
    shared = {key: _refill(original.signature.input(key), sizes, array) for key, array in conditions.shared.items()}
    return Conditions(conditions.guess, conditions.batched, sizes, shared)
