"""Find the states of a model that nobody has named.

Believed is a pair of one type and shape that either the graph or the names make one: the input starts just those
recurrent operators whose end the output gives, or both are called after the same thing and that is what states are
called. Each must be the other's only such partner. What looks like a state and has no such partner is for its owner to
decide, since a state that is taken for an input is wrong in silence. That holds as well where some states were named:
what else looks like one is either named too, or said to be an input.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from importing.errors import AmbiguousStates
from importing.signature import Signature, Value, same_sizes
from importing.states.flows import Flows
from importing.states.pairs import Pair
from importing.states.words import looks_like_state, says_state, share_stem

GRAPH, NAMES = "recurrent operators", "names"
_MOST_LISTED: Final = 6
_OR_STATELESS: Final = "or --stateless if the model has none, "


# How much speaks for a pair, the weakest first; what is at least NAMED is believed.
_SHAPE, _ALIKE, _NAMED, _FLOWS, _FLOWS_AND_NAMED = range(5)


@dataclass(frozen=True)
class _Candidate:
    """A pair of one type and shape, and how much speaks for it."""

    input: Value
    output: Value
    strength: int

    def __str__(self) -> str:
        return f"{self.input.name}={self.output.name}"


def find_pairs(model: onnx.ModelProto, signature: Signature, inputs: Collection[str] = ()) -> tuple[Pair, ...]:
    """Find states.

    Args:
        model: The model.
        signature: Of it, inputs that have a value in the file included.
        inputs: What its owner says is no state.

    Raises:
        AmbiguousStates: Something looks like a state, and which output is its next value cannot be told.
    """
    flows = Flows(model.graph)
    candidates = _candidates(flows, signature, inputs)
    believed = [each for each in candidates if each.strength >= _NAMED and _is_only(each, candidates)]
    pairs = tuple(
        Pair(each.input.name, each.output.name, NAMES if each.strength == _NAMED else GRAPH) for each in believed
    )
    _check_rest(flows, signature, candidates, pairs, inputs, _OR_STATELESS)
    return pairs


def check_rest(
    model: onnx.ModelProto, signature: Signature, pairs: Sequence[Pair], inputs: Collection[str] = ()
) -> None:
    """Check that nothing beside the states that were named looks like another.

    Args:
        model: The model.
        signature: Of it, the states that were named included.
        pairs: These.
        inputs: What its owner says is no state.

    Raises:
        AmbiguousStates: Something does.
    """
    flows = Flows(model.graph)
    _check_rest(flows, signature, _candidates(flows, signature, inputs), pairs, inputs, "")


def _candidates(flows: Flows, signature: Signature, inputs: Collection[str]) -> list[_Candidate]:
    return [
        _Candidate(given, returned, _strength(flows, given, returned))
        for given in signature.inputs
        for returned in signature.outputs
        if given.name not in inputs
        and given.name != returned.name  # it is the input as it came
        and given.dtype == returned.dtype != "string"
        and same_sizes(given.shape, returned.dims)
    ]


def _check_rest(
    flows: Flows,
    signature: Signature,
    candidates: Sequence[_Candidate],
    pairs: Sequence[Pair],
    inputs: Collection[str],
    otherwise: str,
) -> None:
    """Refuse what is in no pair, has to be given, and may be a state after all."""
    given, returned = {pair.input for pair in pairs}, {pair.output for pair in pairs}
    left = [each for each in candidates if each.input.name not in given and each.output.name not in returned]
    first = next((value for value in signature.inputs if value.name not in signature.defaults), None)
    for value in signature.inputs:
        if value.name not in {*given, *signature.defaults, *inputs}:
            _check_left(value, flows, left, bool(pairs), value == first, otherwise)


def _strength(flows: Flows, given: Value, returned: Value) -> int:
    started, ended = flows.started(given.name), flows.ended(returned.name)
    named = share_stem(given.name, returned.name)
    if started and started == ended:
        return _FLOWS_AND_NAMED if named else _FLOWS
    # The name of one operator's state on the end of another's says nothing.
    if not named or (started and ended and not started & ended):
        return _SHAPE
    return _NAMED if says_state(given.name, returned.name) else _ALIKE


def _is_only(one: _Candidate, candidates: Sequence[_Candidate]) -> bool:
    """Whether for neither side anything else speaks as much."""
    rivals = [each for each in candidates if each != one and each.strength >= one.strength]
    return all(each.input != one.input and each.output != one.output for each in rivals)


def _check_left(
    value: Value, flows: Flows, left: Sequence[_Candidate], found: bool, first: bool, otherwise: str
) -> None:
    """Refuse an input that may be a state after all.

    Args:
        value: The input.
        flows: Of the graph.
        left: Pairs of what is in no pair that is believed.
        found: Whether the model has other states; if so, those that are not called so are hardly states.
        first: Whether it is the first input, which is what a model works on.
        otherwise: What else its owner can say.
    """
    own = sorted((each for each in left if each.input == value), key=lambda each: -each.strength)
    if started := flows.started(value.name):
        part, node = sorted((cell.part, cell.node) for cell in started)[0]
        reason = f"it starts the {part} state of a recurrent operator ({node})"
    elif own and not (first and not found) and max(each.strength for each in own) >= _ALIKE:
        reason = "an output is called like it"
    elif own and looks_like_state(value.name):
        reason = "it is called what states are called"
    elif own and not found and not first and len(value.shape) > 1:
        reason = "an output has its type and shape"
    else:
        return
    options = " or ".join(f"--state {each}" for each in own[:_MOST_LISTED])
    more = f" (or {len(own) - _MOST_LISTED} more)" if len(own) > _MOST_LISTED else ""
    raise AmbiguousStates(
        f"input {value.name} may be a state: {reason}; "
        + (
            f"expected its next value to be certain: give every state, as {options}{more}, "
            if own
            else "expected an output that gives its next value, got none of its type and shape: "
        )
        + f"{otherwise}or --input {value.name} if it is no state"
    )
