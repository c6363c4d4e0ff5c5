"""Control flow: rows are followed into branches and loops, as far as runs can show what is in there."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from importing.analysis.trace import Joined, Unknown
from tests.importing import recurrent_models as models
from tests.importing.analysis.graphs import SHAPE, Case, build, differ_by_number, ints, others_change, verdict
from tests.importing.recurrent_models import constant, node

YES = constant("yes", True, np.bool_)


def free(name: str, dtype: int = models.FLOAT) -> onnx.ValueInfoProto:
    """A value of any shape."""
    return helper.make_tensor_value_info(name, dtype, None)


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    types: Sequence[int] = (),
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    kinds = types or [models.FLOAT] * len(outputs)
    return helper.make_graph(
        list(nodes), "body", list(inputs), [free(*each) for each in zip(outputs, kinds, strict=True)], list(weights)
    )


KEEP = body([node("Tanh", ["x"], ["kept"])], [], ["kept"])
MIX = body([node("ReduceMax", ["x"], ["top"], keepdims=0), node("Sub", ["x", "top"], ["mixed"])], [], ["mixed"])
ONE, SEVEN = {"mode": np.array(1)}, {"mode": np.array(7)}
COUNT = [models.value("turn", [], models.INT64), models.value("going", [], models.BOOL), free("sum")]
GO_ON = node("Identity", ["going"], ["on"])
TURNS = [constant("turns", 3, np.int64), constant("none", 0, np.int64)]


def looped(inner: Sequence[onnx.NodeProto], turns: str = "turns") -> onnx.NodeProto:
    """`sum` goes from turn to turn, from x on."""
    graph = body([GO_ON, *inner], COUNT, ["on", "sum_out"], [models.BOOL, models.FLOAT])
    return node("Loop", [turns, "", "x"], ["y"], body=graph)


def scanned(inner: Sequence[onnx.NodeProto], axis: int) -> list[onnx.NodeProto]:
    """`sum` goes along an axis of x, from `start` on."""
    graph = body(inner, [free("sum"), free("frame")], ["sum_out", "frame_out"])
    return [node("Scan", ["start", "x"], ["last", "y"], body=graph, num_scan_inputs=1, scan_input_axes=[axis])]


SUM = [node("Add", ["sum", "frame"], ["sum_out"]), node("Identity", ["sum_out"], ["frame_out"])]
APART: dict[str, Case] = {
    "a branch that is always taken": ([node("If", ["yes"], ["y"], then_branch=KEEP, else_branch=MIX)], [YES]),
    "turns that read what is around them": (
        [
            looped(
                [
                    node("Gather", ["x", "turn"], ["one"], axis=1),
                    node("Unsqueeze", ["one", "at"], ["wide"]),
                    node("Add", ["sum", "wide"], ["sum_out"]),
                ]
            )
        ],
        [*TURNS, ints("at", 1)],
    ),
    "a scan over time": (
        [
            node("ReduceSum", ["x", "at"], ["all"], keepdims=0),
            node("Mul", ["all", "nil"], ["start"]),
            *scanned(SUM, 1),
        ],
        [ints("at", 1), constant("nil", 0.0)],
    ),
}
TOGETHER: dict[str, Case] = {
    "a branch that mixes": ([node("If", ["yes"], ["y"], then_branch=MIX, else_branch=KEEP)], [YES]),
    "rows that decide": (
        [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Greater", ["most", "ten"], ["loud"]),
            node("If", ["loud"], ["y"], then_branch=KEEP, else_branch=body([node("Neg", ["x"], ["n"])], [], ["n"])),
        ],
        [constant("ten", 10.0)],
    ),
    "rows that say how many turns": (
        [
            node("ReduceMax", ["x"], ["most"], keepdims=0),
            node("Relu", ["most"], ["positive"]),
            node("Min", ["positive", "ten"], ["bounded"]),
            node("Cast", ["bounded"], ["turns"], to=models.INT64),
            looped([node("Add", ["sum", "x"], ["sum_out"])]),
        ],
        [constant("ten", 10.0)],
    ),
    "rows that end it": (
        [
            node(
                "Loop",
                ["turns", "", "x"],
                ["y"],
                body=body(
                    [
                        node("Add", ["sum", "x"], ["sum_out"]),
                        node("ReduceMax", ["sum_out"], ["most"], keepdims=0),
                        node("Less", ["most", "ten"], ["on"]),
                    ],
                    COUNT,
                    ["on", "sum_out"],
                    [models.BOOL, models.FLOAT],
                ),
            )
        ],
        [*TURNS, constant("ten", 10.0)],
    ),
    "turns that mix": (
        [
            looped(
                [
                    node("ReduceMax", ["sum"], ["most"], axes=[0], keepdims=1),
                    node("Add", ["sum", "most"], ["sum_out"]),
                ]
            )
        ],
        TURNS,
    ),
    "what turns hand on mixes later": (
        [
            node("Identity", ["x"], ["other"]),
            node(
                "Loop",
                ["turns", "", "x", "x"],
                ["y", "z"],
                body=body(
                    [
                        GO_ON,
                        node("Identity", ["b"], ["a_out"]),
                        node("ReduceMax", ["b"], ["most"], axes=[0], keepdims=1),
                        node("Add", ["b", "most"], ["b_out"]),
                    ],
                    [*COUNT[:2], free("a"), free("b")],
                    ["on", "a_out", "b_out"],
                    [models.BOOL, models.FLOAT, models.FLOAT],
                ),
            ),
        ],
        TURNS,
    ),
    "a scan over rows": (scanned(SUM, 0), [constant("start", np.zeros(SHAPE))]),
}


@pytest.mark.parametrize("name", APART)
def test_rows_that_stay_apart(name: str) -> None:
    model = build(APART[name])
    assert not others_change(model)
    assert verdict(model) is None


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_meet(name: str) -> None:
    model = build(TOGETHER[name])
    assert others_change(model)
    assert isinstance(verdict(model), Joined)


def test_as_many_turns_as_rows() -> None:
    shape = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "none"], ["n"])]
    model = build(([*shape, looped([node("Add", ["sum", "x"], ["sum_out"])], "n")], TURNS))
    assert differ_by_number(model)
    assert verdict(model) == Joined("Loop (y) runs as often as there are rows", in_size=True)


LOUDEST = [
    node("ReduceMax", ["x"], ["most"], axes=[0], keepdims=1),
    node("Sub", ["x", "most"], ["mixed"]),
]
ANEW = [node("Identity", ["x"], ["sum_out"])]
NO_TURN = {
    "turns": {"turns": np.array(0), "begin": np.array(True)},
    "begin": {"turns": np.array(3), "begin": np.array(False)},
}


@pytest.mark.parametrize("name", NO_TURN)
def test_a_loop_that_may_not_turn_hands_on_what_it_began_with(name: str) -> None:
    graph = body([GO_ON, *ANEW], COUNT, ["on", "sum_out"], [models.BOOL, models.FLOAT])
    loop = node("Loop", ["turns", "begin", "mixed"], ["y"], body=graph)
    shared = [models.value("turns", [], models.INT64), models.value("begin", [], models.BOOL)]
    model = build(([*LOUDEST, loop], []), shared=shared)
    turns = {"turns": np.array(3), "begin": np.array(True)}
    assert not others_change(model, **turns) and others_change(model, **NO_TURN[name])
    assert verdict(model, shared=[turns]) == Joined("ReduceMax (most) computes over the rows")


def test_a_loop_that_never_turns() -> None:
    graph = body([GO_ON, *ANEW], COUNT, ["on", "sum_out"], [models.BOOL, models.FLOAT])
    model = build(([*LOUDEST, node("Loop", ["none", "", "mixed"], ["y"], body=graph)], TURNS))
    assert others_change(model)
    assert isinstance(verdict(model), Joined)


def test_branches_of_one_name_in_different_bodies_are_told_apart() -> None:
    """Both inner ones are called r; the second's other branch fails under every value that is tried."""
    fails = [node("Gather", ["x", "many"], ["g"], axis=1), *LOUDEST, node("ReduceMax", ["g"], ["h"], keepdims=0)]
    mixes = body([*fails, node("Add", ["mixed", "h"], ["m"])], [], ["m"], weights=[ints("many", 9)])

    def outer(name: str, then: onnx.GraphProto) -> onnx.NodeProto:
        inner = node("If", ["is_seven"], ["r"], then_branch=then, else_branch=KEEP)
        return node("If", ["is_some"], [name], then_branch=body([inner], [], ["r"]), else_branch=KEEP)

    nodes = [
        node("Equal", ["mode", "seven"], ["is_seven"]),
        node("Greater", ["mode", "nought"], ["is_some"]),
        outer("a", KEEP),
        outer("b", mixes),
        node("Add", ["a", "b"], ["y"]),
    ]
    weights = [constant("seven", 7, np.int64), constant("nought", 0, np.int64)]
    model = build((nodes, weights), shared=[models.value("mode", [], models.INT64)])
    assert verdict(model, shared=[ONE]) == Unknown("If (r): nothing that was tried takes its then branch")


def test_branches_of_which_the_rows_choose_may_give_more() -> None:
    def ones(number: int) -> onnx.GraphProto:
        return body([], [], ["ones"], weights=[constant("ones", np.ones(number))])

    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Greater", ["most", "ten"], ["loud"]),
        node("If", ["loud"], ["some"], then_branch=ones(2), else_branch=ones(1)),
        node("Size", ["some"], ["n"]),
        node("Cast", ["n"], ["f"], to=models.FLOAT),
        node("Add", ["x", "f"], ["y"]),
    ]
    model = build((nodes, [constant("ten", 10.0)]))
    assert others_change(model)
    assert isinstance(verdict(model), Joined)


def switch(then: onnx.GraphProto, otherwise: onnx.GraphProto) -> onnx.ModelProto:
    """The branch is what the input `mode` says, which all rows share."""
    nodes = [
        node("Equal", ["mode", "seven"], ["is_seven"]),
        node("If", ["is_seven"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    shared = [models.value("mode", [], models.INT64)]
    return build((nodes, [constant("seven", 7, np.int64)]), shared=shared)


def test_the_other_branch_is_followed_too() -> None:
    model = switch(MIX, KEEP)
    assert not others_change(model, **ONE) and others_change(model, **SEVEN)
    assert verdict(model, shared=[ONE]) == Joined("ReduceMax (top) computes over the rows")
    model = switch(KEEP, KEEP)
    assert not others_change(model, **ONE) and not others_change(model, **SEVEN)
    assert verdict(model, shared=[ONE]) is None


def test_a_branch_that_gives_something_else_must_be_taken_once() -> None:
    """What follows depends on which it was."""
    one = body([node("Reshape", ["x", "shape"], ["one"])], [], ["one"], weights=[ints("shape", 1, -1, 6)])
    model = switch(one, KEEP)
    del model.graph.output[0]
    model.graph.node.append(node("ReduceMax", ["y"], ["most"], axes=[1], keepdims=1))
    model.graph.node.append(node("Sub", ["x", "most"], ["z"]))
    model.graph.output.append(free("z"))
    assert not others_change(model, **ONE) and others_change(model, **SEVEN)
    assert verdict(model, shared=[ONE]) == Unknown("If (y): nothing that was tried takes its then branch")
    assert isinstance(verdict(model, shared=[ONE, SEVEN]), Joined)


def test_a_branch_that_runs_on_other_values_only_must_be_taken_once() -> None:
    """The axis of five is one of six here: the branch fails, and nobody sees what is in it."""
    fails = body([node("Gather", ["x", "many"], ["g"], axis=1)], [], ["g"], weights=[ints("many", 9)])
    assert verdict(switch(fails, KEEP), shared=[ONE]) == Unknown("If (y): nothing that was tried takes its then branch")


def test_a_branch_that_other_sizes_would_take_is_followed() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "second"], ["wide"]),
        node("Greater", ["wide", "much"], ["is_wide"]),
        node("If", ["is_wide"], ["y"], then_branch=MIX, else_branch=KEEP),
    ]
    model = build((nodes, [constant("second", 1, np.int64), constant("much", 100, np.int64)]))
    assert not others_change(model)
    assert verdict(model) == Joined("ReduceMax (top) computes over the rows")


def test_further_values_are_asked_for_only_where_a_branch_is_missing() -> None:
    asked = []

    def values() -> object:
        for each in (ONE, SEVEN):
            asked.append(each)
            yield each

    assert verdict(switch(KEEP, KEEP), shared=values()) is None  # type: ignore[arg-type]
    assert len(asked) <= 2


def test_a_loop_that_changes_what_it_hands_on_is_not_known() -> None:
    grow = looped([node("Concat", ["sum", "x"], ["sum_out"], axis=1)])
    model = build(([grow], TURNS))
    assert not others_change(model)
    assert verdict(model) == Unknown("what Loop (y) does with them is not known")


def test_a_body_that_has_nothing_to_do_with_rows() -> None:
    table = body([node("Neg", ["table"], ["minus"])], [], ["minus"])
    nodes = [node("If", ["yes"], ["t"], then_branch=table, else_branch=table), node("Add", ["x", "t"], ["y"])]
    assert verdict(build((nodes, [YES, models.weight("table", *SHAPE)]))) is None
