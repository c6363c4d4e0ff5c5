"""Which outputs a request wants."""

from collections.abc import Mapping
from typing import NamedTuple

from service.oip.errors import OipError
from service.oip.faces.classification import MAX_CLASSES, can_classify
from service.oip.faces.face import Port, Wanted
from service.oip.faces.state_ports import StatePorts
from service.oip.messages import RequestedOutput


class Selection(NamedTuple):
    """The outputs that a request wants.

    Args:
        wanted: In the order asked for, or in the model's.
        graph_outputs: Those that the graph gives.
        needs_state: Whether states are among them.
        has_classes: Whether classes are told of any.
    """

    wanted: tuple[Wanted, ...]
    graph_outputs: tuple[str, ...]
    needs_state: bool
    has_classes: bool


def select(
    model: str,
    asked: tuple[RequestedOutput, ...],
    outputs: Mapping[str, Port],
    states: StatePorts,
) -> Selection:
    """Find the outputs that are asked for: all but states where none is.

    Args:
        model: Its name, for messages.
        asked: As they came.
        outputs: Of the model, by name.
        states: Of the model.

    Raises:
        OipError: There is no such output, or no such classes of it.
    """
    wanted: dict[str, Wanted] = {}
    for output in asked or [RequestedOutput(name) for name in outputs]:
        name, classes = output.name, output.classification
        port = outputs.get(name) or states.told.get(name)
        if port is None:
            raise OipError("invalid_argument", f"unexpected inference output '{name}' for model '{model}'")
        if name in wanted:
            raise OipError("invalid_argument", f"output '{name}' already requested for model '{model}'")
        if not 0 <= classes <= MAX_CLASSES:
            raise OipError(
                "invalid_argument", f"output '{name}' classification must be 1 to {MAX_CLASSES}, got {classes}"
            )
        if classes and not can_classify(port.datatype):
            raise OipError(
                "invalid_argument",
                f"class result not available for output '{name}' due to unsupported type '{port.datatype}'",
            )
        wanted[name] = Wanted(port, None if name in outputs else states.state_of[name], classes)
    chosen = tuple(wanted.values())
    return Selection(
        chosen,
        tuple(one.port.name for one in chosen if one.state is None),
        any(one.state is not None for one in chosen),
        any(one.classification for one in chosen),
    )
