from pathlib import Path

from export.manifest import DType
from export.triton.config import TYPES, Config, State, Tensor
from tests.export.triton.reference_rules import parse


def test_every_type_and_odd_names_come_through_the_protocols_own_parser(tmp_path: Path) -> None:
    names: dict[str, DType] = {f'a "{dtype}"\\ \t{dtype} é': dtype for dtype in TYPES}
    tensors = tuple(Tensor(name, dtype, (-1, 3)) for name, dtype in names.items())
    state = State("s", "s'", "int64", (2, 3), initial_file="odd name")
    config = Config("name", 8, tensors, (Tensor("out", "float32", (-1,)),), (state,))
    path = tmp_path / "config.pbtxt"
    path.write_text(config.text(), encoding="ascii")
    parsed = parse(path)
    assert [(tensor["name"], tensor["data_type"]) for tensor in parsed["input"]] == [
        (name, TYPES[dtype]) for name, dtype in names.items()
    ]
    assert parsed["output"] == [{"name": "out", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}}]
    assert parsed["max_batch_size"] == 8
    (found,) = parsed["sequence_batching"]["state"]
    assert found["output_name"] == "s'"
    assert found["initial_state"] == [
        {"name": "initial s", "data_type": "TYPE_INT64", "dims": ["2", "3"], "data_file": "odd name"}
    ]


def test_a_model_without_state_is_batched_dynamically(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    own = (Tensor("x", "float32", (-1, 3)),)
    path.write_text(Config("n", 4, own, own).text())
    assert parse(path)["dynamic_batching"] == {}
    path.write_text(Config("n", 0, own, own).text())
    parsed = parse(path)
    assert "dynamic_batching" not in parsed
    assert parsed["input"][0]["dims"] == ["-1", "3"]
