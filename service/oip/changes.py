"""Loads and unloads that clients ask for: what may come with them, and what is told of those that fail."""

from collections.abc import Awaitable, Callable, Mapping

from service.lifecycle import errors
from service.oip.errors import Code, OipError
from service.oip.messages import Parameters

Change = Callable[[str, Parameters, str | None], Awaitable[None]]  # of a model, with parameters, by who has a token

CODES: Mapping[type[errors.ChangeError], Code] = {
    errors.NotExplicit: "unavailable",
    errors.NoAdminToken: "permission_denied",
    errors.WrongToken: "permission_denied",
    errors.TooManyChanges: "unavailable",
    errors.NoSuchModel: "not_found",
    errors.NoVersion: "not_found",
    errors.VersionsRefused: "invalid_argument",
    errors.LoadFailed: "unavailable",
}
_NOT_ALLOWED = "explicit model load / unload is not allowed"


def change_to_oip(error: errors.ChangeError) -> OipError:
    """Say what a client is told about a load or unload that was refused or failed."""
    return OipError(CODES[type(error)], _message(error))


def _message(error: errors.ChangeError) -> str:
    """The reference server's words, where it has some."""
    match error:
        case errors.NotExplicit():
            allows = f"CARRYOVER_MODEL_CONTROL=explicit allows it, got {error.model_control}"
            return f"{_NOT_ALLOWED} if polling is enabled: {allows}"
        case errors.NoAdminToken():
            return f"{_NOT_ALLOWED} over the wire: the server has no admin token"
        case errors.WrongToken():
            expected = "expected the admin token as 'authorization: Bearer <token>'"
            return f"model load / unload: {expected}, got {error.got}"
        case errors.NoSuchModel():
            return f"failed to load '{error.name}', failed to poll from model repository"
        case errors.NoVersion():
            return f"failed to load '{error.name}', no version is available"
        case errors.VersionsRefused():
            each = (f"version {version} is at UNAVAILABLE state: {why}" for version, why in error.reasons.items())
            return f"load failed for model '{error.name}': {'; '.join(each)}"
        case errors.LoadFailed():
            return f"failed to load '{error.name}': {error.reason}"
        case _:
            return str(error)


def check_load(parameters: Parameters) -> None:
    """Check what comes with a load.

    Raises:
        OipError: Anything does: a model is its bundle, and nothing of it is given by a call.
    """
    for parameter in parameters:
        if parameter == "config" or parameter.startswith("file:"):
            raise OipError("unimplemented", f"load parameter '{parameter}' is not supported: a model is its bundle")
        raise OipError("invalid_argument", f"unrecognized load parameter '{parameter}'.")


def check_unload(parameters: Parameters) -> None:
    """Check what comes with an unload.

    Raises:
        OipError: Anything but `unload_dependents` does, which is of no meaning: no model depends on another one.
    """
    for parameter in parameters:
        if parameter != "unload_dependents":
            raise OipError("invalid_argument", f"unrecognized unload parameter '{parameter}'.")


def other_repository() -> OipError:
    """The answer to a call that names a repository: there is one alone, and it has no name."""
    return OipError("unimplemented", "'repository_name' specification is not supported")
