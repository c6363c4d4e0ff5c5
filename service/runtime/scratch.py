"""What ONNX Runtime needs besides weights and states while it runs graphs on the CPU: one arena for the whole process.

By itself each session has an arena of its own, which grows to what the largest of its runs needed, and stays. Then
every model keeps what only its measuring at load took, and each version that replaces another grows a little
differently. In one arena the runs of all models use the same memory, as much as those need that go on at a time; it can
be shrunk.
"""

import functools
import os
from typing import Final

from service.runtime.options import run_options

# Before the import, which is when it counts: on by default, telemetry tells the vendor which models run.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

_AS_USUAL: Final = -1  # of what an arena can be told; 0 for its size: as large as needed


def share(options: ort.SessionOptions) -> None:
    """Have a session that is opened with these options on the CPU use the process's arena."""
    _register()
    options.add_session_config_entry("session.use_env_allocators", "1")


def shrinking() -> ort.RunOptions:
    """Make options of runs behind each of which the arena is shrunk to what is in use."""
    options = run_options()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@functools.cache
def _register() -> None:
    """Make the arena, once a process."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, _AS_USUAL, _AS_USUAL, _AS_USUAL))
