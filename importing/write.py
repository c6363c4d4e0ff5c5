"""Write what a bundle of an imported model holds, and describe it in a manifest."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from export.graph.walk import all_nodes
from export.manifest import GraphSpec, ImportedSpec, Manifest, Precision
from importing.checks import Check
from importing.errors import ImportRefused
from importing.layout import Layout
from importing.reading.external import external_files, load_external
from importing.signature import Array
from importing.zero_sizes import takes_zero_sizes

ORIGINAL_FOLDER: Final = "original"
ORIGINAL_FILE: Final = "model.onnx"
INITIAL_STATES_FILE: Final = "initial_states.npz"
REPORT_FILE: Final = "import.json"
MOST_BYTES: Final = 2**31 - 1  # of one protobuf message
_PACKAGES: Final = ("carryover", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")
_QUANTIZED: Final = frozenset(
    {"ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger",
     "MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
)  # fmt: skip


def write_bundle(
    bundle: Path,
    name: str,
    file: Path,
    model: onnx.ModelProto,
    served: onnx.ModelProto,
    primitive: onnx.ModelProto | None,
    graph: GraphSpec,
    layout: Layout,
) -> Manifest:
    """Write the files of a staged bundle, all but the report and the manifest itself.

    Args:
        bundle: An empty folder.
        name: Of the model in the repository.
        file: The original.
        model: The original, read.
        served: The rewritten model.
        primitive: The same without recurrent nodes that CUDA does not run; None where it has none.
        graph: What both take and give.
        layout: Of the original.

    Returns:
        The manifest; `export.publish` fills in the version and the file table.

    Raises:
        ImportRefused: The rewritten model is larger than a file may be.
    """
    _copy_original(bundle / ORIGINAL_FOLDER, file, model)
    if served.ByteSize() > MOST_BYTES:
        raise ImportRefused(f"size: expected at most {MOST_BYTES} bytes with all weights, got {served.ByteSize()}")
    (bundle / graph.file).write_bytes(served.SerializeToString())
    files = [bundle / graph.file]
    if primitive is not None and primitive.ByteSize() <= MOST_BYTES:
        files.append(files[0].with_suffix(".primitive.onnx"))
        files[1].write_bytes(primitive.SerializeToString())
        graph = graph.model_copy(update={"variants": {"primitive": files[1].name}})
    initial = {state.name: state.initial for state in layout.states if state.initial is not None}
    if initial:
        _write_arrays(bundle / INITIAL_STATES_FILE, initial)
    public = {size for tensor in layout.inputs for size in tensor.shape}
    examples = {size: number for size, number in layout.sizes.items() if size in public}
    shared = {key: array.flat[0].item() for key, array in layout.shared.items() if array.size}
    return Manifest(
        name=name,
        version=1,
        task="tensors",
        precision=_precision(model.graph),
        graphs={"step" if layout.states else "run": graph},
        states=tuple(state.spec() for state in layout.states),
        tokenizers={},
        initial_states_file=INITIAL_STATES_FILE if initial else None,
        imported=ImportedSpec(
            original=f"{ORIGINAL_FOLDER}/{ORIGINAL_FILE}",
            max_rows=layout.max_rows,
            lengths_input=layout.lengths,
            zero_sizes=all(takes_zero_sizes(path, graph, examples, shared) for path in files),
            examples=examples,
            shared_examples=shared,
        ),
        data={
            "file": file.name,
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "ir_version": model.ir_version,
            "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        },
        tool_versions=_tool_versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files={},
    )


def write_report(bundle: Path, layout: Layout, checks: Sequence[Check]) -> None:
    """Write what was concluded and measured."""
    report = {
        "states": [
            {"input": s.input, "output": s.output, "batch_axis": s.axis, "shape": s.shape, "found": s.found}
            for s in layout.states
        ],
        "notes": layout.notes,
        "checks": [check.model_dump(mode="json") for check in checks],
    }
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False)
    (bundle / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


def _copy_original(folder: Path, file: Path, model: onnx.ModelProto) -> None:
    """Copy the file, byte for byte, and the files that it keeps weights in; check that this is what was read."""
    folder.mkdir()
    shutil.copyfile(file, folder / ORIGINAL_FILE)
    try:
        copy = onnx.ModelProto.FromString((folder / ORIGINAL_FILE).read_bytes())
        for name in external_files(copy):
            target = folder / name
            if target.exists():
                raise ImportRefused(f"external data: expected another name than {ORIGINAL_FILE}, got {name!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.resolve().parent / name, target)
        load_external(copy, folder, True, MOST_BYTES)
    except (DecodeError, OSError) as error:
        raise ImportRefused(f"{file}: expected the file that was read before, got another: {error}") from None
    if copy != model:
        raise ImportRefused(f"{file}: expected the file that was read before, got another: it changed meanwhile")


def _write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    # Names of states may be any that a keyword cannot be.
    np.savez(path, allow_pickle=False, **arrays)


def _precision(graph: onnx.GraphProto) -> Precision:
    return "int8" if any(node.op_type in _QUANTIZED for node in all_nodes(graph)) else "fp32"


def _tool_versions() -> dict[str, str]:
    """Versions of what made the bundle, of those packages that are installed."""
    installed = {str(found.metadata["Name"]).lower(): found.version for found in metadata.distributions()}
    return {package: installed[package] for package in _PACKAGES if package in installed}
