"""States that nobody has named: found where the graph or the names tell, refused with the candidates where not."""

import numpy as np
import onnx
import pytest

from importing.errors import AmbiguousStates
from importing.signature import read_signature
from importing.states.finding import check_rest, find_pairs
from importing.states.pairs import Pair
from tests.importing import recurrent_models as models


def found(model: onnx.ModelProto) -> dict[str, str]:
    return {pair.input: pair.output for pair in find_pairs(model, read_signature(model))}


def named(*states: tuple[str, str], shape: tuple[int | str, ...] = ("B", 4)) -> onnx.ModelProto:
    """A model of x and some states whose names alone tell what they are."""
    nodes = [models.node("Neg", ["x"], ["y"])]
    nodes += [models.node("Neg", [given], [returned]) for given, returned in states]
    return models.build(
        [models.value("x", ["B", 3]), *[models.value(given, shape) for given, _ in states]],
        [models.value("y", ["B", 3]), *[models.value(returned, shape) for _, returned in states]],
        nodes,
    )


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        ("h", "hn"),
        ("h0", "hn"),
        ("h_0", "h_n"),
        ("c_in", "c_out"),
        ("state", "stateN"),
        ("state", "state_out"),
        ("prev_state", "next_state"),
        ("initial_h", "Y_h"),
        ("past_key", "present_key"),
        ("cache", "new_cache"),
        ("conv_cache", "conv_cache_out"),
        ("cached_len_0", "new_cached_len_0"),
        ("lstmStateIn", "lstmStateOut"),
        ("serving_default_state:0", "serving_default_state_out:0"),
        ("h_enc_in", "h_enc_out"),
        ("total", "total_out"),
        ("processed_lens", "new_processed_lens"),
        ("att_cache", "r_att_cache"),
        ("cache_last_channel", "cache_last_channel_next"),
        ("rnn_in", "rnn_out"),
    ],
)
def test_names_that_tell(given: str, returned: str) -> None:
    assert found(named((given, returned))) == {given: returned}


def test_names_tell_states_of_one_shape_apart() -> None:
    states = [("h0_in", "h0_out"), ("h1_in", "h1_out"), ("c0_in", "c0_out"), ("c1_in", "c1_out")]
    assert found(named(*states)) == dict(states)


def test_hidden_and_cell_are_told_apart_by_the_recurrent_operator() -> None:
    model = models.lstm()
    for each in (*model.graph.input, *model.graph.output):
        each.name = {"h": "a", "c": "b", "hn": "p", "cn": "q"}.get(each.name, each.name)
    for node in model.graph.node:
        node.input[:] = [{"h": "a", "c": "b"}.get(name, name) for name in node.input]
        node.output[:] = [{"hn": "p", "cn": "q"}.get(name, name) for name in node.output]
    assert found(model) == {"a": "p", "b": "q"}


def test_the_graph_is_believed_where_names_say_otherwise() -> None:
    model = models.lstm()
    for each in model.graph.output:
        each.name = {"hn": "cn", "cn": "hn"}.get(each.name, each.name)
    for node in model.graph.node:
        node.output[:] = [{"hn": "cn", "cn": "hn"}.get(name, name) for name in node.output]
    assert found(model) == {"h": "cn", "c": "hn"}


def test_states_of_layers_are_followed_through_concatenation() -> None:
    """As PyTorch exports two layers: one input, cut in two; two last states, joined."""
    shape: models.Shape = [2, "B", 4]
    weights = [models.weight(name, 1, 12, 4) for name in ("W0", "R0", "W1", "R1")]
    weights += [models.constant("one", [1], np.int64)]
    nodes = [
        models.node("Split", ["initial"], ["first", "second"], axis=0),
        models.node("GRU", ["x", "W0", "R0", "", "", "first"], ["Y0", "last0"], hidden_size=4),
        models.node("Squeeze", ["Y0", "one"], ["between"]),
        models.node("GRU", ["between", "W1", "R1", "", "", "second"], ["Y1", "last1"], hidden_size=4),
        models.node("Squeeze", ["Y1", "one"], ["y"]),
        models.node("Concat", ["last0", "last1"], ["12"], axis=0),
    ]
    model = models.build(
        [models.value("x", ["T", "B", 4]), models.value("initial", shape)],
        [models.value("y", ["T", "B", 4]), models.value("12", shape)],
        nodes,
        weights,
    )
    assert found(model) == {"initial": "12"}


@pytest.mark.parametrize("name", ["h", "c"])
def test_a_recurrent_operator_whose_state_does_not_come_back_is_refused(name: str) -> None:
    model = models.lstm()
    kept = [each for each in model.graph.output if each.name != f"{name}n"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    with pytest.raises(AmbiguousStates, match=rf"input {name} may be a state: it starts the (hidden|cell) state"):
        found(model)


def test_names_that_do_not_tell_are_refused_with_the_candidates() -> None:
    with pytest.raises(AmbiguousStates, match=r"input a may be a state: .* --state a=p or --state a=q, or --stateless"):
        found(named(("a", "p"), ("b", "q")))


def check_given(model: onnx.ModelProto, *given: str, inputs: tuple[str, ...] = ()) -> None:
    pairs = [Pair(*text.partition("=")[::2], "given") for text in given]
    check_rest(model, read_signature(model), pairs, inputs)


@pytest.mark.parametrize(("given", "other"), [("h=hn", "c=cn"), ("c=cn", "h=hn")])
def test_a_state_that_is_left_out_where_others_are_given_is_refused(given: str, other: str) -> None:
    name = other[0]
    expected = (
        rf"input {name} may be a state: it starts the \w+ state of a recurrent operator \(Y\); .* give every state, "
        rf"as --state {other} or --state {name}=y, or --input {name} if it is no state$"
    )
    with pytest.raises(AmbiguousStates, match=expected):
        check_given(models.lstm(), given)


def test_what_is_given_whole_or_said_to_be_an_input_is_believed() -> None:
    check_given(models.lstm(), "h=hn", "c=cn")
    check_given(models.lstm(), "h=hn", inputs=("c",))


def test_names_of_states_beside_those_that_are_given_are_refused() -> None:
    model = named(("state", "state_out"), ("cache", "new_cache"), ("gain", "level"))
    with pytest.raises(AmbiguousStates, match="input cache may be a state: an output is called like it"):
        check_given(model, "state=state_out")
    check_given(model, "state=state_out", "cache=new_cache")  # that gain and level are of one shape says little


def test_what_is_said_to_be_an_input_is_no_state() -> None:
    model = named(("state", "state_out"), ("cache", "new_cache"))
    pairs = find_pairs(model, read_signature(model), ("cache",))
    assert [(pair.input, pair.output) for pair in pairs] == [("state", "state_out")]


def test_two_outputs_called_after_one_input_are_refused() -> None:
    model = named(("state", "state_out"))
    model.graph.node.append(models.node("Abs", ["state"], ["new_state"]))
    model.graph.output.append(models.value("new_state", ["B", 4]))
    with pytest.raises(AmbiguousStates, match="--state state=state_out or --state state=new_state"):
        found(model)


def test_other_types_and_shapes_are_no_candidates() -> None:
    model = named(("state", "state_out"))
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 5
    assert found(model) == {}


def test_a_model_of_one_input_is_not_taken_for_a_state() -> None:
    shape: models.Shape = ["B", 3]
    model = models.build(
        [models.value("audio_in", shape)],
        [models.value("audio_out", shape)],
        [models.node("Neg", ["audio_in"], ["audio_out"])],
    )
    assert found(model) == {}


def test_weights_that_are_listed_as_inputs_are_none() -> None:
    model = models.lstm(opset=9, ir_version=3)
    signature = read_signature(model, [info.name for info in model.graph.input])
    assert [pair.input for pair in find_pairs(model, signature)] == ["h", "c"]


def test_branches_of_control_flow_are_looked_into() -> None:
    weights = [models.weight("W", 1, 4, 3), models.weight("R", 1, 4, 4)]

    def branch(name: str) -> onnx.GraphProto:
        cell = models.node("RNN", ["x", "W", "R", "", "", "before"], [f"Y_{name}", f"last_{name}"], hidden_size=4)
        outputs = [models.value(f"Y_{name}", ["T", 1, "B", 4]), models.value(f"last_{name}", [1, "B", 4])]
        return onnx.helper.make_graph([cell], name, [], outputs)

    model = models.build(
        [models.value("x", ["T", "B", 3]), models.value("before", [1, "B", 4]), models.value("loud", [], models.BOOL)],
        [models.value("y", ["T", 1, "B", 4]), models.value("37", [1, "B", 4])],
        [models.node("If", ["loud"], ["y", "37"], then_branch=branch("a"), else_branch=branch("b"))],
        weights,
    )
    assert found(model) == {"before": "37"}
