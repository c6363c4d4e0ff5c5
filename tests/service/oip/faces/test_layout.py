"""What a model takes and what it does not, and the words in which it is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.oip.codec import MAX_TEXTS
from service.oip.errors import OipError
from service.oip.faces.face import Port
from service.oip.faces.layout import Key, Layout, Rules, lay_out
from service.oip.messages import Tensor

STATE = {"h0": Port("h0", "FP32", (2, 4))}
FRAMES = {"x": Port("x", "FP32", (3,)), "y": Port("y", "INT64", ("W", 2)), "rate": Port("rate", "INT64", (), False)}
SEQUENCE = Rules("m", FRAMES, STATE, True, 8)
BATCH = Rules("m", {"a": Port("a", "FP32", ("W",)), "b": Port("b", "FP32", ("W", "V"))}, {}, False, 4)
PADDED = Rules("m", {"x": Port("x", "FP32", ("T", 2)), "n": Port("n", "INT64", ())}, {}, False, 4, "n")


def step(x: tuple[int, ...] = (1, 3), y: tuple[int, ...] = (1, 5, 2), rate: tuple[int, ...] = ()) -> Key:
    return (("x", "FP32", x), ("y", "INT64", y), ("rate", "INT64", rate))


def rejected(rules: Rules, key: Key) -> str:
    with pytest.raises(OipError) as caught:
        lay_out(rules, key)
    assert caught.value.code == "invalid_argument"
    return caught.value.message


def test_a_step_is_one_row() -> None:
    assert lay_out(SEQUENCE, step()) == Layout(1, False, False, {"rate": ()}, {})


def test_a_batch_is_taken_as_it_is() -> None:
    assert lay_out(BATCH, (("a", "FP32", (4, 0)), ("b", "FP32", (4, 0, 7)))) == Layout(4, False, True, {}, {})


def test_steps_lie_along_a_second_dimension() -> None:
    layout = lay_out(SEQUENCE, step((1, 8, 3), (1, 8, 5, 2)))
    assert (layout.num_rows, layout.is_timed) == (8, True)
    arrays = [Tensor("x", "FP32", np.zeros((1, 8, 3))), Tensor("y", "INT64", np.ones((1, 8, 5, 2)))]
    rows, shared, states = layout.split([*arrays, Tensor("rate", "INT64", np.array(16000))])
    assert [rows["x"].shape, rows["y"].shape, shared["rate"].shape, states] == [(8, 3), (8, 5, 2), (), None]


def test_texts_are_few_enough_however_they_came() -> None:
    rules = Rules("m", {"words": Port("words", "BYTES", ("W",))}, {}, False, 4)
    assert lay_out(rules, (("words", "BYTES", (2, MAX_TEXTS // 2)),)).num_rows == 2
    assert rejected(rules, (("words", "BYTES", (3, MAX_TEXTS // 2)),)).endswith(f"expecting at most {MAX_TEXTS}")


@pytest.mark.parametrize("rate", [(), (1,), (1, 1)])
def test_what_all_rows_share_may_look_as_if_it_had_rows(rate: tuple[int, ...]) -> None:
    assert lay_out(SEQUENCE, step(rate=rate)).shared == {"rate": ()}


@pytest.mark.parametrize("shape", [(2, 4), (1, 2, 4), (2, 1, 4), (2, 4, 1)])
def test_a_state_may_have_its_row_where_the_original_has_it(shape: tuple[int, ...]) -> None:
    layout = lay_out(SEQUENCE, (*step(), ("h0", "FP32", shape)))
    values = np.arange(8.0).reshape(shape)
    given = [Tensor(name, "", np.zeros(size)) for name, _, size in step()]
    _, _, states = layout.split([*given, Tensor("h0", "FP32", values)])
    assert states is not None
    assert states["h0"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("shape", [(8,), (4, 2), (2, 2, 4), (1, 1, 2, 4), ()])
def test_a_state_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    message = rejected(SEQUENCE, (*step(), ("h0", "FP32", shape)))
    assert message.startswith("unexpected shape for input 'h0' for model 'm'. Expected [-1,2,4], got [")


@pytest.mark.parametrize(
    ("key", "expected", "got"),
    [
        (step((1, 4)), "[-1,3]", "[1,4]"),
        (step((1, 3, 1)), "[-1,3]", "[1,3,1]"),
        (step((1,)), "[-1,3]", "[1]"),
        (step((1, 2, 3)), "[-1,-1,2]", "[1,5,2]"),  # x has steps, y has none
        (step(rate=(2,)), "[]", "[2]"),
        (step(rate=(1, 1, 1)), "[]", "[1,1,1]"),
    ],
)
def test_a_wrong_shape_is_told_with_the_right_one(key: Key, expected: str, got: str) -> None:
    message = rejected(SEQUENCE, key)
    assert message.startswith("unexpected shape for input '")
    assert f"' for model 'm'. Expected {expected}, got {got}." in message


def test_a_size_that_is_free_is_the_same_throughout_a_request() -> None:
    assert lay_out(BATCH, (("a", "FP32", (1, 6)), ("b", "FP32", (1, 6, 2)))).num_rows == 1
    message = rejected(BATCH, (("a", "FP32", (1, 6)), ("b", "FP32", (1, 5, 2))))
    assert message == "unexpected shape for input 'b' for model 'm'. Expected [-1,6,-1], got [1,5,2]."


@pytest.mark.parametrize(
    ("rules", "key", "message"),
    [
        (
            SEQUENCE,
            step()[:1],
            "expected 3 inputs but got 1 inputs for model 'm'. Got input(s) ['x'], but missing required input(s) "
            "['y','rate']. Please provide all required input(s).",
        ),
        (
            SEQUENCE,
            (*step(), ("z", "FP32", (1,))),
            "expected 3 inputs but got 4 inputs for model 'm'. Got input(s) ['x','y','rate','z'], but missing required "
            "input(s) []. Please provide all required input(s).",
        ),
        (SEQUENCE, (*step()[:2], ("z", "FP32", ())), "unexpected inference input 'z' for model 'm'"),
        (SEQUENCE, (*step(), step()[0]), "input 'x' already exists in request for model 'm'"),
        (
            SEQUENCE,
            (("x", "FP64", (1, 3)), *step()[1:]),
            "inference input 'x' data-type is 'FP64', but model 'm' expects 'FP32'",
        ),
        (
            SEQUENCE,
            step((2, 3), (2, 5, 2)),
            "inference request to model 'm' must specify batch-size 1 due to requirements of sequence batcher",
        ),
        (SEQUENCE, step((1, 2, 3), (1, 3, 5, 2)), "input 'y' steps along time do not match other inputs for 'm'"),
        (SEQUENCE, step(()), "input 'x' has no shape but model requires batch dimension for 'm'"),
        (BATCH, (("a", "FP32", (1, 3)), ("b", "FP32", (2, 3, 3))), "input 'b' batch size does not match other inputs "
         "for 'm'"),
        (BATCH, (("a", "FP32", (5, 3)), ("b", "FP32", (5, 3, 3))), "inference request batch-size must be <= 4 for 'm'"),
        (BATCH, (("a", "FP32", (0, 3)), ("b", "FP32", (0, 3, 3))), "inference request batch-size must be >= 1 for 'm'"),
        (
            SEQUENCE,
            step((1, 9, 3), (1, 9, 5, 2)),
            "inference request must have 1 to 8 steps along time for 'm', got 9",
        ),
        (
            SEQUENCE,
            step((1, 0, 3), (1, 0, 5, 2)),
            "inference request must have 1 to 8 steps along time for 'm', got 0",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_words_of_the_reference_server(rules: Rules, key: Key, message: str) -> None:
    assert rejected(rules, key) == message


SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
INPUTS = st.tuples(st.sampled_from(["x", "y", "rate", "h0", "z"]), st.sampled_from(["FP32", "INT64"]), SHAPES)


@given(st.lists(INPUTS, max_size=5))
def test_whatever_comes_is_refused_or_becomes_rows(inputs: list[tuple[str, str, tuple[int, ...]]]) -> None:
    check_rows(SEQUENCE, tuple(inputs))


@given(SHAPES, SHAPES, SHAPES, SHAPES)
def test_whatever_the_shapes_rows_are_of_the_right_ones(
    x: tuple[int, ...], y: tuple[int, ...], rate: tuple[int, ...], state: tuple[int, ...]
) -> None:
    check_rows(SEQUENCE, (*step((1, *x), (1, *y), rate), ("h0", "FP32", state)))


def check_rows(rules: Rules, key: Key) -> None:
    try:
        layout = lay_out(rules, key)
    except OipError as error:
        assert error.code == "invalid_argument"
        return
    rows, shared, states = layout.split([Tensor(name, kind, np.zeros(shape)) for name, kind, shape in key])
    assert 1 <= layout.num_rows <= rules.max_rows
    assert rows["x"].shape == (layout.num_rows, 3)
    assert rows["y"].shape[::2] == (layout.num_rows, 2) and rows["y"].ndim == 3
    assert shared["rate"].shape == ()
    assert states is None or states["h0"].shape == (2, 4)


def test_lengths_may_be_left_out() -> None:
    assert lay_out(PADDED, (("x", "FP32", (2, 7, 2)),)).longest == 7
    assert lay_out(PADDED, (("x", "FP32", (2, 7, 2)), ("n", "INT64", (2,)))).longest == 7
    assert "missing required input(s) ['x']" in rejected(PADDED, (("n", "INT64", (2,)),))
    assert "unexpected inference input 'z'" in rejected(PADDED, (("x", "FP32", (2, 7, 2)), ("z", "INT64", (2,))))
