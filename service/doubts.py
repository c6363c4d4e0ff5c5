"""What settings say that an operator can hardly have meant: it is served all the same, and said once at start."""

from collections.abc import Iterator

from service.runtime.providers import CUDA, available
from service.settings import CPU_DEVICE, PREFIX, Settings


def doubts(settings: Settings) -> Iterator[str]:
    """Tell what is doubtful, a line each.

    Where CUDA is built in and does not work is not told here: that is a warning of each model.

    Args:
        settings: Of the service, on this machine.
    """
    numbers = [name for name in settings.devices if name != CPU_DEVICE]
    # Where CUDA is insisted on the service does not start.
    if numbers and settings.provider == "auto" and CUDA not in available():
        yield (
            f"{PREFIX}DEVICES: expected an ONNX Runtime with CUDA for GPU {', '.join(numbers)}, got one with "
            f"{', '.join(available())} only: models are served on the CPU; pip install 'carryover[serve-gpu]' brings "
            "it, in a checkout make RUNTIME=serve-gpu"
        )
    if settings.model_control == "explicit" and not settings.load_models and settings.admin_token_file is None:
        yield (
            f"{PREFIX}MODEL_CONTROL=explicit: expected {PREFIX}LOAD_MODELS or {PREFIX}ADMIN_TOKEN_FILE with it, got "
            "neither: no model is loaded, and no call can load one"
        )
