"""What can be wrong with running a bundle here."""


class RunnerError(Exception):
    """A bundle cannot be run here, or a run was asked for wrongly; says expected and got."""


class ProviderUnavailable(RunnerError):
    """CUDA was insisted on and is not there, whatever the bundle."""


class RunEnded(Exception):
    """A run was ended from outside."""


def first_line(error: BaseException) -> str:
    """What an operator reads of an error of ONNX Runtime, which may run over many lines."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
