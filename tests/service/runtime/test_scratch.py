"""One arena for the runs of all sessions, and how it gives memory back; in another process, as it is the process's."""

import subprocess
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
SIDE = 4096  # a matrix of 64 MiB between input and output
CODE = """
import sys
from service.runtime import scratch
import numpy as np
import onnxruntime as ort

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:"))

def opened():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if "shared" in sys.argv:
        scratch.share(options)
    return ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

first, second = opened(), opened()
large, small = np.ones((int(sys.argv[2]), 1), np.float32), np.ones((2, 1), np.float32)
first.run(None, {"column": small})  # the first block of an arena stays
sizes = [resident()]
for session, rows, how in (
    (first, large, None),
    (second, large, None),
    (second, small, None),
    (second, small, scratch.shrinking()),
):
    (total,) = session.run(None, {"column": rows}, how)
    assert total == len(rows) ** 2, total
    sizes.append(resident())
print(*sizes)
"""


def sizes(folder: Path, *how: str) -> list[int]:
    """Resident MiB: with two sessions open, behind a large run of each, and behind a small one, plain and shrinking."""
    nodes = [
        helper.make_node("Transpose", ["column"], ["row"], perm=[1, 0]),
        helper.make_node("MatMul", ["column", "row"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["total"], keepdims=0),
    ]
    column = helper.make_tensor_value_info("column", TensorProto.FLOAT, ["N", 1])
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, [])
    model = helper.make_model(
        helper.make_graph(nodes, "product", [column], [total]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, folder / "product.onnx")
    command = [sys.executable, "-c", CODE, str(folder / "product.onnx"), str(SIDE), *how]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    return [int(size) for size in done.stdout.split()]


def test_sessions_run_in_one_arena_which_shrinks_when_told_to(tmp_path: Path) -> None:
    opened, one, both, plain, shrunk = sizes(tmp_path, "shared")
    assert one - opened > 50
    assert both - one < 10
    assert plain - opened > 50
    assert shrunk - opened < 10
    opened, one, both, _, _ = sizes(tmp_path)
    assert both - one > 50  # by itself each has its own
