"""What a model takes and gives, checked by request; what was found good is remembered."""

from collections.abc import Mapping
from math import prod
from typing import Any

from service.oip.faces.classification import check_num_classes
from service.oip.faces.face import Port
from service.oip.faces.layout import Layout, Rules, lay_out
from service.oip.faces.state_ports import StatePorts
from service.oip.faces.wanted import Selection, select
from service.oip.messages import InferRequest, RequestedOutput

_MOST_KNOWN = 256  # layouts, and selections, that are remembered


class Intake:
    """See the module docstring.

    Args:
        rules: That inputs are held to.
        outputs: Of the model, by name.
        states: Of the model.
    """

    def __init__(self, rules: Rules, outputs: Mapping[str, Port], states: StatePorts) -> None:
        self._rules = rules
        self._outputs = outputs
        self._states = states
        self._layouts: dict[Any, Layout] = {}
        self._selections: dict[tuple[RequestedOutput, ...], Selection] = {}

    def check(self, request: InferRequest) -> tuple[Layout, Selection]:
        """Check the inputs of a request and the outputs that it asks for.

        Raises:
            OipError: The model does not take or give them.
        """
        key = tuple([(tensor.name, tensor.datatype, tensor.array.shape) for tensor in request.inputs])
        layout = self._layouts.get(key)
        if layout is None:
            layout = lay_out(self._rules, key)
            _remember(self._layouts, key, layout)
        selection = self._selections.get(request.outputs)
        if selection is None:
            selection = select(self._rules.model, request.outputs, self._outputs, self._states)
            _remember(self._selections, request.outputs, selection)
        if selection.has_classes:
            _check_classes(selection, layout.num_rows)
        return layout, selection


def _check_classes(selection: Selection, num_rows: int) -> None:
    """Refuse too many classes before anything has run, where the sizes of the outputs are known as early as that."""
    for port, state, classes in selection.wanted:
        sizes = [size for size in port.dims if isinstance(size, int)]
        if classes and len(sizes) == len(port.dims):
            check_num_classes(port.name, classes, prod(sizes), num_rows if state is None else 1)


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    if len(known) >= _MOST_KNOWN:
        known.clear()
    known[key] = value
