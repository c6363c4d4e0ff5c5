"""`config.pbtxt`: what the reference server has to know of a model, in protobuf's text format.

Source: triton-inference-server/common:protobuf/model_config.proto, message ModelConfig; what its values must be,
triton-inference-server/core:src/model_config_utils.cc (ValidateModelConfig, ValidateIOShape) and
src/sequence_batch_scheduler/sequence_batch_scheduler.cc (GenerateInitialStateData).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from export.manifest import DType

TYPES: Final[dict[DType, str]] = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bfloat16": "TYPE_BF16",
    "string": "TYPE_STRING",
}
# The server ends a sequence that nobody has continued for so long; its own default of a second is short for a speaker.
IDLE_S: Final = 60
# Sequences that live at a time; further ones wait.
MAX_SEQUENCES: Final = 1024


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Args:
        name: In the graph.
        dtype: Of its elements.
        shape: As the graph has it, -1 where a size is free; with the rows first where the model is batched.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class State:
    """One implicit state.

    Args:
        input: Name in the graph of the state before a step.
        output: Name of the state after it.
        dtype: Of its elements.
        dims: As the server counts them: without the rows where the model is batched.
        initial_file: In the folder `initial_state`, raw little-endian values in C order; None: it starts as zeros.
    """

    input: str
    output: str
    dtype: DType
    dims: tuple[int, ...]
    initial_file: str | None = None


@dataclass(frozen=True)
class Config:
    """One model.

    Args:
        name: Of the model, and of its folder.
        max_batch_size: Rows of a run; 0: the model is not batched, and shapes are whole.
        inputs: Without states.
        outputs: Without states, which a client gets no more than it sends.
        states: If it has any, it is served by sequences.
    """

    name: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[State, ...] = ()

    def text(self) -> str:
        """The file."""
        lines = [f"name: {_quote(self.name)}", 'backend: "onnxruntime"', f"max_batch_size: {self.max_batch_size}"]
        for field, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                lines += _message(field, self._tensor(tensor))
        if self.states:
            lines += _message("sequence_batching", self._sequences())
        elif self.max_batch_size > 1:
            lines += ["dynamic_batching { }"]
        return "\n".join(lines) + "\n"

    def _tensor(self, tensor: Tensor) -> Iterator[str]:
        yield f"name: {_quote(tensor.name)}"
        yield f"data_type: {TYPES[tensor.dtype]}"
        dims = tensor.shape[1:] if self.max_batch_size else tensor.shape
        if dims:
            yield f"dims: {_list(dims)}"
            return
        # The server has no tensors without sizes: on the wire it is one number a row.
        yield "dims: [ 1 ]"
        if self.max_batch_size:
            yield "reshape { shape: [ ] }"

    def _sequences(self) -> Iterator[str]:
        yield f"max_sequence_idle_microseconds: {IDLE_S * 1_000_000}"
        yield f"oldest {{ max_candidate_sequences: {MAX_SEQUENCES} }}"
        for state in self.states:
            yield from _message("state", _state(state))


def _state(state: State) -> Iterator[str]:
    yield f"input_name: {_quote(state.input)}"
    yield f"output_name: {_quote(state.output)}"
    yield f"data_type: {TYPES[state.dtype]}"
    yield f"dims: {_list(state.dims)}"
    data = "zero_data: true" if state.initial_file is None else f"data_file: {_quote(state.initial_file)}"
    yield from _message(
        "initial_state",
        (
            f"name: {_quote('initial ' + state.input)}",
            f"data_type: {TYPES[state.dtype]}",
            f"dims: {_list(state.dims)}",
            data,
        ),
    )


def _message(field: str, lines: Iterator[str] | Sequence[str]) -> list[str]:
    return [f"{field} {{", *(f"  {line}" for line in lines), "}"]


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def _quote(text: str) -> str:
    """A string of the text format: bytes outside of printable ASCII in octal."""
    letters = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(letters)}"'
