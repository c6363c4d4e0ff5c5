"""What clients are told of loads and unloads."""

import pytest

from service.lifecycle import errors
from service.lifecycle.errors import ChangeError
from service.oip.changes import CODES, change_to_oip
from service.oip.errors import OipError
from service.oip.messages import Parameters
from tests.service.oip.world import World

NOT_ALLOWED = "explicit model load / unload is not allowed"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            errors.NotExplicit("poll"),
            "unavailable",
            f"{NOT_ALLOWED} if polling is enabled: CARRYOVER_MODEL_CONTROL=explicit allows it, got poll",
        ),
        (errors.NoAdminToken(), "permission_denied", f"{NOT_ALLOWED} over the wire: the server has no admin token"),
        (
            errors.WrongToken("none"),
            "permission_denied",
            "model load / unload: expected the admin token as 'authorization: Bearer <token>', got none",
        ),
        (errors.TooManyChanges(2), "unavailable", "expected at most 2 loads and unloads at a time, got one more"),
        (errors.NoSuchModel("m"), "not_found", "failed to load 'm', failed to poll from model repository"),
        (errors.NoVersion("m"), "not_found", "failed to load 'm', no version is available"),
        (
            errors.VersionsRefused("m", {2: "no graph", 3: "no manifest"}),
            "invalid_argument",
            "load failed for model 'm': version 2 is at UNAVAILABLE state: no graph; "
            "version 3 is at UNAVAILABLE state: no manifest",
        ),
        (errors.LoadFailed("m", "the disk is gone"), "unavailable", "failed to load 'm': the disk is gone"),
    ],
)
async def test_a_change_that_fails_is_told_in_the_words_that_clients_know(
    world: World, error: ChangeError, code: str, message: str
) -> None:
    world.control.failure = error
    for change in (world.core.load, world.core.unload):
        with pytest.raises(OipError) as caught:
            await change("m", {}, None)
        assert (caught.value.code, caught.value.message) == (code, message)
    assert world.control.calls == [("load", "m", None), ("unload", "m", None)]


def test_every_failure_of_a_change_has_a_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ChangeError)]
    assert CODES.keys() == set(kinds) - {ChangeError}
    for kind in CODES:
        error = kind.__new__(kind)
        error.__dict__.update(model_control="poll", got="none", name="m", reasons={}, reason="")
        assert change_to_oip(error).code == CODES[kind]


@pytest.mark.parametrize(
    ("call", "parameters", "code", "message"),
    [
        ("load", {"config": "{}"}, "unimplemented", "load parameter 'config' is not supported: a model is its bundle"),
        (
            "load",
            {"file:../../outside": "x"},
            "unimplemented",
            "load parameter 'file:../../outside' is not supported: a model is its bundle",
        ),
        ("load", {"p": 1}, "invalid_argument", "unrecognized load parameter 'p'."),
        ("load", {"unload_dependents": True}, "invalid_argument", "unrecognized load parameter 'unload_dependents'."),
        ("unload", {"unload_dependents": True, "p": 1}, "invalid_argument", "unrecognized unload parameter 'p'."),
        ("unload", {"config": "{}"}, "invalid_argument", "unrecognized unload parameter 'config'."),
    ],
)
async def test_parameters_that_are_not_known_are_refused_to_who_may_know(
    world: World, call: str, parameters: Parameters, code: str, message: str
) -> None:
    world.control.secret = "secret"
    change = getattr(world.core, call)
    with pytest.raises(OipError) as caught:
        await change("m", parameters, "secret")
    assert (caught.value.code, caught.value.message) == (code, message)
    with pytest.raises(OipError, match="expected the admin token") as caught:
        await change("m", parameters, "other")
    assert caught.value.code == "permission_denied" and world.control.calls == []


async def test_loading_is_up_to_who_controls_the_repository(world: World) -> None:
    await world.core.load("a", {}, "secret")
    await world.core.unload("b", {"unload_dependents": True}, None)
    assert world.control.calls == [("load", "a", "secret"), ("unload", "b", None)]
