"""The outputs of an answer, in the order in which they were asked for."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy.typing as npt

from service.engine.interface import SessionState
from service.oip.faces.classification import check_num_classes, classify
from service.oip.faces.wanted import Selection
from service.oip.messages import Tensor


def make_tensors(
    selection: Selection, made: Mapping[str, npt.NDArray[Any]], state: SessionState | None, num_outer: int
) -> tuple[Tensor, ...]:
    """Put the outputs of an answer together.

    Args:
        selection: Which are wanted.
        made: By name, those of the graph, as they go out.
        state: The states, if any is wanted.
        num_outer: Dimensions of the outputs before those of a row: 2 where there is one for steps.

    Raises:
        OipError: More classes are wanted than can be told.
    """
    answer = []
    for port, state_name, classes in selection.wanted:
        if state_name is None:
            array, outer = made[port.name], num_outer
        else:
            assert state is not None
            array, outer = state.tensors[state_name][None], 1
        if classes:
            check_num_classes(port.name, classes, prod(array.shape[outer:]), prod(array.shape[:outer]))
            answer.append(Tensor(port.name, "BYTES", classify(array, classes, outer)))
        else:
            answer.append(Tensor(port.name, port.datatype, array))
    return tuple(answer)
