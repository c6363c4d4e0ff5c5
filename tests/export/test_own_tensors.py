"""What an imported model takes and gives, apart from what the engine adds."""

from export.manifest import GraphSpec, ImportedSpec, Manifest, StateSpec, TensorSpec, own_tensors


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def manifest(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], *states: StateSpec) -> Manifest:
    return Manifest(
        name="other",
        version=1,
        task="tensors",
        precision="fp32",
        graphs={"step" if states else "run": GraphSpec(file="graph.onnx", inputs=inputs, outputs=outputs)},
        states=states,
        tokenizers={},
        imported=ImportedSpec(original="original.onnx"),
        created="2026-01-01T00:00:00Z",
        files={},
    )


def test_slots_and_pools_are_nobodys() -> None:
    state = StateSpec(name="h", dtype="float32", shape=(4,), pool_input="h_pool", pool_output="h_pool_out")
    inputs = (spec("rate"), spec("x", "B", "W"), spec("read_slots", "B"), spec("h_pool", "N", 4), spec("window", "W"),
              spec("write_slots", "B"), spec("mask", "B"))  # fmt: skip
    own = own_tensors(manifest(inputs, (spec("h_pool_out", "N", 4), spec("y", "B", 2)), state))
    assert list(own.inputs) == ["x", "mask"] and list(own.shared) == ["rate", "window"]
    assert list(own.outputs) == ["y"] and own.unsized == frozenset()
    assert own.inputs["x"] is inputs[1] and own.shared["window"] is inputs[4]


def test_sizes_that_no_input_with_rows_has_are_told_by_a_run() -> None:
    inputs = (spec("x", "B", "W"), spec("window", "V"))
    outputs = (spec("same", "B", "W", 3), spec("found", "B", "K"), spec("seen", "B", "W", "V"), spec("whole", "B"))
    assert own_tensors(manifest(inputs, outputs)).unsized == {"found", "seen"}


def test_rows_of_a_model_that_has_only_shared_inputs_are_no_size_of_a_request() -> None:
    assert own_tensors(manifest((spec("rate"),), (spec("y", "B", 2),))).unsized == frozenset()
