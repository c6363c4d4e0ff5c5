"""The process in which a model is tried: parse, check, open and run it once, and say how that went.

A line for each stage as it begins, then one for the end, on standard output; see `importing.reading.process`.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

from importing.errors import ImportRefused
from importing.reading.limits import ReadLimits
from importing.reading.words import one_line

if TYPE_CHECKING:
    import onnxruntime as ort

_T = TypeVar("_T")
# Bytes of memory that parsing and opening take, at most, for each byte of an honest model.
_MEMORY_A_BYTE: Final = 8
# How a line of the answer begins.
STAGE: Final = "stage "
REFUSED: Final = "refused "
DONE: Final = "done"


@dataclass(frozen=True)
class Trial:
    """What to try.

    Args:
        folder: Of the model, for external data.
        num_bytes: Of the file, which comes on standard input.
        allow_external: As in `read_model`.
        allow_custom: As in `read_model`.
        limits: What it may cost.
    """

    folder: str
    num_bytes: int
    allow_external: bool
    allow_custom: bool
    limits: ReadLimits


# What ONNX Runtime says when it gets no memory.
_OUT_OF_MEMORY: Final = ("bad_alloc", "failed to allocate", "out of memory", "bad allocation")
# What zeros cannot be made of as NumPy has them.
_NOT_TRIED: Final = ("bfloat16", "string")


def main() -> None:
    """Run in the process apart: standard input is the file, the answer goes to standard output, a line a stage."""
    given = json.loads(sys.argv[2])
    trial = Trial(**{**given, "limits": ReadLimits(**given["limits"])})
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print where they like
    content = sys.stdin.buffer.read()
    try:
        _try_here(content, trial, answer)
    except ImportRefused as refused:
        result = f"{REFUSED}{one_line(str(refused))}"
    except MemoryError:
        result = f"{REFUSED}it needs more memory than {trial.limits.max_memory_bytes} bytes to be read, opened or run"
    else:
        result = DONE
    answer.write(result + "\n")
    answer.flush()
    # What was read may have left libraries in a state that their clean-up does not survive.
    os._exit(0)


def _try_here(content: bytes, trial: Trial, answer: IO[str]) -> None:
    import onnx
    import onnxruntime as ort
    from google.protobuf.message import DecodeError

    from importing.reading.checks import check_model
    from importing.reading.external import load_external

    def stage(what: str) -> None:
        answer.write(f"{STAGE}{what}\n")
        answer.flush()

    _confine(trial)
    stage("parsing")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise ImportRefused(
            "not an ONNX model, or one whose parts lie deeper in each other than 100 messages: its bytes do not parse"
        ) from None
    stage("checking")
    check_model(model, trial.allow_custom, trial.limits)
    load_external(model, Path(trial.folder), trial.allow_external, trial.limits.max_file_bytes - len(content))
    content = model.SerializeToString()
    if len(content) > trial.limits.max_file_bytes:
        raise ImportRefused(f"size: expected at most {trial.limits.max_file_bytes} bytes with its data, got more")
    _attempt("ONNX checker", lambda: onnx.checker.check_model(content), stage, "checking")
    _attempt("shape inference", lambda: onnx.shape_inference.infer_shapes(content), stage, "inferring shapes of")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = _attempt(
        "ONNX Runtime", lambda: ort.InferenceSession(content, options, ["CPUExecutionProvider"]), stage, "opening"
    )
    stage("running")
    _run_once(session)


def _attempt(who: str, what: Callable[[], _T], stage: Callable[[str], None], doing: str) -> _T:
    stage(doing)
    try:
        return what()
    except MemoryError:
        raise
    except Exception as error:  # whatever the library raises is its reason
        raise ImportRefused(f"{who}: {one_line(str(error))}") from None


def _run_once(session: "ort.InferenceSession") -> None:
    """Run a model on zeros, sizes that are free being 1: one that never ends, or takes all memory, does so here.

    That it does not take such inputs says nothing; who imports it finds out which ones it does.
    """
    import numpy as np

    from export.graph.types import RUNTIME_TYPES

    feeds = {}
    for value in session.get_inputs():
        dtype = RUNTIME_TYPES.get(value.type)
        if dtype is None or dtype in _NOT_TRIED:
            return
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
        feeds[value.name] = np.zeros(shape, dtype)
    try:
        session.run(None, feeds)
    except Exception as error:  # its types are many
        if any(word in str(error).lower() for word in _OUT_OF_MEMORY):
            raise MemoryError from None


def _confine(trial: Trial) -> None:
    """Take from this process what no honest model needs."""
    import resource

    limits = trial.limits
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # elsewhere than on Linux
        pages = 0
    memory = pages * resource.getpagesize() + limits.max_memory_bytes + _MEMORY_A_BYTE * trial.num_bytes
    seconds = int(limits.max_seconds) + 1
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),  # should nobody be left to end it
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(what, (most, most))
