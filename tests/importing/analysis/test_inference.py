"""What follows from the graph need not be declared."""

from importing.analysis.inference import refine
from importing.signature import read_signature
from importing.states.pairs import Pair
from tests.importing import recurrent_models as models


def test_a_state_has_the_sizes_of_its_next_value() -> None:
    model = models.cell()
    for info in (model.graph.input[1], model.graph.output[0], model.graph.output[1]):
        info.type.tensor_type.shape.dim[1].dim_param = "hidden"
    signature = read_signature(model)
    assert signature.input("state").shape == ("B", "hidden")
    refined = refine(signature, model, [Pair("state", "state_out", "given")])
    assert refined.input("state").shape == ("B", models.HIDDEN)
    assert refined.input("state").named == {0}
    assert refined.output("y").shape == ("B", models.HIDDEN)
    assert refined.input("x").shape == ("B", models.INPUT)


def test_an_output_of_which_nothing_is_declared_stays_unknown_where_nothing_follows() -> None:
    model = models.cell()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert refine(read_signature(model), model, []).output("y").dims is None
