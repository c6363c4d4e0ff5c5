"""What names say: which input and which output are called after the same thing, and whether that may be a state."""

import re
from typing import Final

# What is said of a value as it comes in, and as it goes out.
_IN: Final = frozenset(["in", "input", "inputs", "prev", "previous", "past", "old", "last", "initial", "init", "start"])
_OUT: Final = frozenset(
    [
        "out",
        "output",
        "outputs",
        "next",
        "new",
        "present",
        "updated",
        "update",
        "current",
        "final",
        "n",
        "y",
        "r",
        "end",
    ]
)
# Of these, those that only a state is called.
_TEMPORAL: Final = frozenset(["prev", "previous", "past", "initial", "init", "next", "new", "present", "updated"])
_STATES: Final = frozenset(
    ["state", "states", "hidden", "cell", "h", "c", "hx", "cx", "hc", "lstm", "gru", "rnn", "cache", "caches", "cached",
     "memory", "mem", "memories", "carry", "buffer", "buf", "context", "ctx", "history", "total", "sum", "count",
     "counter", "steps", "position", "pos", "offset", "accumulator", "acc", "kv", "key", "value"]
)  # fmt: skip
_SPLIT: Final = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")


def tokens(name: str) -> tuple[str, ...]:
    """Words of a name, in lower case: `stateN_out.0` is state, n, out, 0."""
    return tuple(word.lower() for word in _SPLIT.split(name) if word)


def share_stem(given: str, returned: str) -> bool:
    """Whether two names differ only in what says that one comes in and the other goes out."""
    return bool(_input_stems(given) & _output_stems(returned))


def says_state(given: str, returned: str) -> bool:
    """Whether one of two names is what states are called."""
    words = {*tokens(given), *tokens(returned)}
    return bool(words & (_STATES | _TEMPORAL)) or looks_like_state(given)


def looks_like_state(name: str) -> bool:
    """Whether an input is called what states are called."""
    words = tokens(name)
    return bool({*words, *(word.rstrip("s") for word in words)} & (_STATES | {"past", "prev", "previous"}))


def _input_stems(name: str) -> set[tuple[str, ...]]:
    whole = tokens(name)  # cache_last_channel keeps its last, if that is what comes back
    words = tuple(word for word in whole if word not in _IN)
    # h0, the state at time 0, and state_0, the first of several
    return {words, tuple(word for word in words if word != "0"), whole if words else ()} - {()}


def _output_stems(name: str) -> set[tuple[str, ...]]:
    words = tuple(word for word in tokens(name) if word not in _OUT)
    stems = {words}
    for index, word in enumerate(words):
        if len(word) == 2 and word.endswith("n"):  # hn, cn: the state at time n
            stems.add((*words[:index], word[0], *words[index + 1 :]))
    return stems - {()}
