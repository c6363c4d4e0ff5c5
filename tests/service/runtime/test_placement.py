import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from service.runtime.placement import working_nodes

CPU = "CPUExecutionProvider"


def test_work_on_the_cpu_is_found_and_arithmetic_on_shapes_passed_over() -> None:
    """Of an int8 step, too, which has no LSTM or GRU node to look for."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "B", 2])]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT32, None) for name in ("y", "z")]
    outputs[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    weights = [
        numpy_helper.from_array(np.ones((1, 9, 2), dtype=np.float32), "w"),
        numpy_helper.from_array(np.ones((1, 9, 3), dtype=np.float32), "r"),
        numpy_helper.from_array(np.ones((3, 3), dtype=np.int8), "q"),
        numpy_helper.from_array(np.array(0.1, dtype=np.float32), "scale"),
        numpy_helper.from_array(np.array(0, dtype=np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["h"], "recurrence", hidden_size=3),
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["h8"], "rounding"),
        helper.make_node("MatMulInteger", ["h8", "q"], ["y"], "product"),
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Add", ["shape", "shape"], ["z"], "sum"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
    found = working_nodes(session.get_provider_graph_assignment_info(), CPU)
    assert sorted(found) == ["GRU recurrence", "MatMulInteger product", "QuantizeLinear rounding"]
    assert working_nodes(session.get_provider_graph_assignment_info(), "CUDAExecutionProvider") == []
