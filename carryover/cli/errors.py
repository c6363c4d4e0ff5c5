"""Which errors are the user's to mend, and the one line that says so.

A name in the table stands for the class and everything derived from it. Names, not classes: importing them would load
torch and gRPC for `--help`. A test proves that each name exists.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

USER_ERRORS = frozenset(
    {
        "carryover.cli.errors.CommandError",
        "carryover.client.errors.CarryoverError",
        "export.bundle.BundleError",
        "export.emit.builder.EmitError",
        "export.report.ParityError",
        "export.triton.errors.TritonError",
        "importing.errors.ImportRefused",
        "models.data.errors.DataError",
        "models.training.errors.ConfigError",
        "models.training.errors.DivergenceError",
        "models.training.errors.Interrupted",
        "models.training.errors.RunError",
        "service.runtime.errors.RunnerError",
        "service.settings.SettingsError",
    }
)
# What each extra brings that a command may find missing.
EXTRAS = {
    "train": {"gruut_lang_en", "lightning", "onnx", "rapidfuzz", "sacrebleu", "safetensors", "tensorboard", "torch"},
    "serve": {"google.rpc", "grpc_health", "grpc_reflection", "onnxruntime", "pydantic_settings", "uvloop"},
}
EXTRAS["train"] |= {"numpy", "pydantic", "tokenizers", "yaml"}
# Of a command that says so: elsewhere these are missing because something else is.
IMPORT = frozenset({"numpy", "onnx", "onnxruntime", "tokenizers"})
DEBUG = "CARRYOVER_DEBUG"
INTERRUPTED = 130


class CommandError(Exception):
    """The command cannot do what was asked; the message says expected and got."""


@contextmanager
def needing_import() -> Iterator[None]:
    """Say of what is missing inside that the extra `import` brings it.

    Raises:
        CommandError: Something is missing that the extra has.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in IMPORT:
            raise
        # The extra brings an ONNX Runtime for the CPU, whose files would take the place of those of the one for GPUs.
        only_onnx = error.name.split(".")[0] == "onnx" and _is_installed("onnxruntime-gpu")
        raise CommandError(_missing(error.name, "onnx" if only_onnx else "carryover[import]")) from None


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _missing(module: str, wanted: str) -> str:
    return f"this needs {module}, which is not installed: pip install '{wanted}'"


def explain(error: Exception) -> str | None:
    """Say in one line what the user can do about it; None where it is our own fault."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    if names & USER_ERRORS:
        return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, ModuleNotFoundError) and error.name:
        for extra, modules in EXTRAS.items():
            if error.name in modules or error.name.split(".")[0] in modules:
                return _missing(error.name, f"carryover[{extra}]")
    return None


def report(error: Exception) -> int:
    """Print one line on standard error, and the traceback before it where CARRYOVER_DEBUG is set; return the status."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exception(error)
    message = explain(error)
    if message is None:
        message = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
        if DEBUG not in os.environ:
            message += f" (run with {DEBUG}=1 for the traceback)"
    print(f"carryover: {message}", file=sys.stderr)
    return INTERRUPTED if type(error).__name__ == "Interrupted" else 1
