"""Guesses of where the rows are: the likeliest first, and never against what is known."""

import onnx

from importing.analysis.rows import fixed_axes, guesses
from importing.signature import Signature, read_signature
from tests.importing import recurrent_models as models

NOWHERE: models.Shape = []


def signature(**shapes: models.Shape) -> Signature:
    """Inputs of these shapes; "?" is a free size without a name."""
    inputs = []
    for name, shape in shapes.items():
        info = models.value(name, shape)
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param == "?":
                dim.ClearField("dim_param")
        inputs.append(info)
    graph = onnx.helper.make_graph(
        [models.node("Neg", [next(iter(shapes))], ["y"])], "g", inputs, [models.value("y", [])]
    )
    return read_signature(onnx.helper.make_model(graph))


def first(found: Signature, *states: str) -> dict[str, int | None]:
    return dict(guesses(found, dict.fromkeys(states))[0].axes)


def test_a_name_that_rows_have_is_believed_wherever_it_is() -> None:
    found = signature(x=["time", "batch", 3], h=[1, "batch", 4], pos=["batch"], sr=NOWHERE)
    assert first(found, "h", "pos") == {"x": 1, "h": 1, "pos": 0, "sr": None}


def test_nameless_rows_are_first_and_second_in_recurrent_states() -> None:
    found = signature(x=["?", "?"], h=[2, "?", 4], flat=["?", 4], sr=NOWHERE)
    assert first(found, "h", "flat") == {"x": 0, "h": 1, "flat": 0, "sr": None}


def test_inputs_alike_are_decided_alike() -> None:
    found = signature(x=["?", 3], a=["?", "?", 4], b=["?", "?", 4])
    assert all(guess.axes["a"] == guess.axes["b"] for guess in guesses(found, dict.fromkeys(("a", "b"))))


def test_a_size_that_one_input_has_twice_is_not_the_rows() -> None:
    found = signature(x=["n", "n"], h=["n", "b"])
    assert first(found, "h") == {"x": None, "h": 1}


def test_what_its_owner_says_is_never_contradicted() -> None:
    found = signature(x=["?", "?"], h=["?", "?", 4])
    for axis in (0, 1):
        assert {guess.axes["h"] for guess in guesses(found, {"h": axis})} == {axis}


def test_states_without_rows_come_last() -> None:
    found = signature(x=["batch", 3], step=NOWHERE, h=["batch", 4])
    assert [guess.whole for guess in guesses(found, dict.fromkeys(("step", "h")))] == [False]
    assert guesses(found, {"h": None})[0].whole


def test_nothing_free_is_no_guess() -> None:
    assert guesses(signature(x=[1, 3], h=[1, 1, 4]), {"h": None}) == []


def test_a_fixed_batch_is_at_its_usual_place() -> None:
    found = signature(x=[1, 3], h=[2, 1, 4], flat=[1, 4], wide=[4, 4])
    assert fixed_axes(found, dict.fromkeys(("h", "flat", "wide"))).axes == {"x": 0, "h": 1, "flat": 0, "wide": None}


def test_many_kinds_of_nameless_inputs_are_decided_in_bounded_time() -> None:
    shapes: dict[str, models.Shape] = {f"i{rank}": ["?"] * rank for rank in range(1, 9)}
    assert 0 < len(guesses(signature(**shapes), {})) <= 48
