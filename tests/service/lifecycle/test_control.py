"""Who may change what is served, when the repository is looked at, and what is told of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from export.bundle import BundleError
from service.lifecycle.control import Control
from service.lifecycle.errors import (
    ChangeError,
    LoadFailed,
    NoAdminToken,
    NoSuchModel,
    NotExplicit,
    NoVersion,
    TooManyChanges,
    VersionsRefused,
    WrongToken,
)
from service.lifecycle.serving import Serving
from service.settings import Settings
from tests.service.lifecycle.shelf import Shelf
from tests.service.rpc.world import wait_until

E = TypeVar("E", bound=ChangeError)
TOKEN = "0123456789abcdef-admin"


@asynccontextmanager
async def control_of(shelf: Shelf, mode: str = "explicit", **settings: object) -> AsyncIterator[Control]:
    token = shelf.folder.parent / "token"
    token.write_text(TOKEN + "\n")
    chosen: dict[str, object] = {"repository": shelf.folder, "num_slots": 16, "runners": 1, "provider": "cpu"}
    chosen |= {"model_control": mode, "admin_token_file": token, "poll_interval_s": 0.05, **settings}
    made = Settings.model_validate(chosen)
    serving = Serving(made, lambda name: None)
    control = Control(made, serving)
    try:
        await control.start()
        yield control
    finally:
        control.close()
        await serving.close()


def told(control: Control, ready_only: bool = False) -> list[tuple[str, int, str, str]]:
    return [tuple(state) for state in control.index(ready_only)]  # type: ignore[misc]


async def refused(
    control: Control, why: type[E], name: str = "acc", call: str = "load", token: str | None = TOKEN
) -> E:
    with pytest.raises(why) as caught:
        await getattr(control, call)(name, token)
    assert type(caught.value) is why
    return caught.value


async def test_models_are_loaded_and_unloaded_by_name(shelf: Shelf) -> None:
    for name in ("acc", "other", "third"):
        shelf.put(name, 1)
    async with control_of(shelf, load_models=("acc",)) as control:
        assert told(control, ready_only=True) == [("acc", 1, "READY", "")]
        assert told(control) == [
            ("acc", 1, "READY", ""),
            ("other", 0, "UNAVAILABLE", "not loaded"),
            ("third", 0, "UNAVAILABLE", "not loaded"),
        ]
        await control.load("other", TOKEN)
        await control.unload("acc", TOKEN)
        assert told(control, ready_only=True) == [("other", 1, "READY", "")]
        await wait_until(lambda: told(control)[0] == ("acc", 1, "UNAVAILABLE", "unloaded"))
        await control.unload("acc", TOKEN)  # not loaded, and nothing wrong with that
        await control.unload("never-was", TOKEN)
        shelf.put("acc", 2)
        await control.load("acc", TOKEN)
        assert told(control, ready_only=True) == [("acc", 2, "READY", ""), ("other", 1, "READY", "")]


async def test_a_load_that_fails_says_why_names_no_path_and_leaves_the_old_serving(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with control_of(shelf, load_models=("*",)) as control:
        shelf.put_broken("acc", 2)
        why = "acc/2/step.onnx: size: expected 778 bytes, got 9"
        assert (await refused(control, VersionsRefused)).reasons == {2: why}
        assert told(control) == [("acc", 1, "READY", ""), ("acc", 2, "UNAVAILABLE", why)]
        folder = shelf.put("acc", 2)
        (folder / "step.onnx").unlink()
        (folder / "step.onnx").symlink_to("/etc/hostname")
        reasons = (await refused(control, VersionsRefused)).reasons
        assert reasons[2].endswith(
            "acc/2/step.onnx: expected a file inside the bundle, got a link out of it to (a path)"
        )
        shelf.put("acc", 2)
        await control.load("acc", TOKEN)
        assert told(control, ready_only=True) == [("acc", 2, "READY", "")]


@pytest.mark.parametrize(
    "name",
    ["nope", "", "..", ".", "../outside", "/etc", "acc/1", "acc/../acc", "ACC", "acc\0", "acc\n", ".spare", "a" * 65],
)
async def test_what_is_no_model_of_the_repository_cannot_be_loaded(shelf: Shelf, name: str) -> None:
    shelf.put("acc", 1)
    outside = Shelf(shelf.folder.parent)
    outside.put("outside", 1)
    async with control_of(shelf) as control:
        assert (await refused(control, NoSuchModel, name)).name == name
        await control.unload(name, TOKEN)
        assert shelf.opened == []
        assert told(control) == [("acc", 0, "UNAVAILABLE", "not loaded")]


async def test_a_policy_that_no_version_meets_is_a_load_that_failed(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with control_of(shelf, version_policy="specific 2") as control:
        assert (await refused(control, NoVersion)).name == "acc"


@pytest.mark.parametrize("call", ["load", "unload"])
async def test_only_who_has_the_token_may_and_only_where_it_is_allowed_at_all(shelf: Shelf, call: str) -> None:
    shelf.put("acc", 1)
    async with control_of(shelf) as control:
        for token in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\udcff", "é" * 22):
            assert (await refused(control, WrongToken, call=call, token=token)).got == "another one"
        assert (await refused(control, WrongToken, call=call, token=None)).got == "none"
        assert shelf.opened == []
    async with control_of(shelf, admin_token_file=None) as control:
        for given in (TOKEN, "", None):
            await refused(control, NoAdminToken, call=call, token=given)
    for mode in ("fixed", "poll"):
        async with control_of(shelf, mode) as control:
            assert (await refused(control, NotExplicit, call=call)).model_control == mode


async def test_a_repository_that_cannot_be_read_is_a_load_that_failed_and_its_path_is_not_told(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with control_of(shelf) as control:
        shelf.folder.rename(shelf.folder.with_name("elsewhere"))
        failed = await refused(control, LoadFailed)
        assert failed.name == "acc" and failed.reason and str(shelf.folder) not in str(failed)


@pytest.mark.parametrize(
    "content", [None, b"", b"short", b"  \n", b"two words of sixteen", b"\xff" * 20, "ä".encode() * 20]
)
async def test_a_file_that_holds_no_token_is_an_error(shelf: Shelf, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "other"
    if content is not None:
        file.write_bytes(content)
    settings = Settings.model_validate({"repository": shelf.folder, "admin_token_file": file})
    with pytest.raises(OSError, match=r"admin_token_file .*: expected one token of at least 16 printable .*, got"):
        Control(settings, Serving(settings, lambda name: None))


async def test_a_load_goes_on_though_its_caller_leaves_and_there_are_only_so_many(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.lifecycle.control.MOST_CHANGES", 2)
    shelf.put("acc", 1)
    async with control_of(shelf) as control:
        go_on = shelf.hold("acc", 1)
        loads = [asyncio.create_task(control.load("acc", TOKEN)) for _ in range(2)]
        await wait_until(shelf.is_held)
        assert (
            str(await refused(control, TooManyChanges))
            == "expected at most 2 loads and unloads at a time, got one more"
        )
        assert told(control) == [("acc", 1, "LOADING", "")]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        go_on()
        await wait_until(lambda: told(control) == [("acc", 1, "READY", "")])
        assert shelf.opened == [("acc", 1)]


async def test_polling_follows_the_repository(shelf: Shelf) -> None:
    async with control_of(shelf, "poll") as control:
        assert told(control) == []
        shelf.put("acc", 1)
        await wait_until(lambda: told(control) == [("acc", 1, "READY", "")])
        shelf.put_broken("acc", 2)
        expected = [("acc", 1, "READY"), ("acc", 2, "UNAVAILABLE")]
        await wait_until(lambda: [entry[:3] for entry in told(control)] == expected)
        shelf.put("acc", 3)
        await wait_until(lambda: ("acc", 3, "READY", "") in told(control))
        assert told(control, ready_only=True) == [("acc", 3, "READY", "")]
        elsewhere = shelf.folder.with_name("elsewhere")
        shelf.folder.rename(elsewhere)  # the disk is gone for a moment: nothing is taken for removed
        attempts = len(shelf.opened)
        await control.reload()
        assert told(control, ready_only=True) == [("acc", 3, "READY", "")]
        elsewhere.rename(shelf.folder)
        shelf.remove("acc")
        await wait_until(lambda: told(control, ready_only=True) == [])
        assert len(shelf.opened) == attempts


async def test_what_is_fixed_changes_when_the_operator_says_so_and_never_loses_a_model(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with control_of(shelf, "fixed") as control:
        shelf.remove("acc")
        shelf.put("other", 1)
        await control.reload()
        assert told(control) == [("acc", 1, "READY", ""), ("other", 1, "READY", "")]


async def test_a_reload_of_what_is_explicit_looks_at_what_is_loaded_alone(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    async with control_of(shelf, load_models=("acc",)) as control:
        shelf.put("acc", 2)
        shelf.put("other", 1)
        await control.reload()
        assert told(control, ready_only=True) == [("acc", 2, "READY", "")]
        await control.unload("acc", TOKEN)
        await control.reload()
        assert told(control, ready_only=True) == []


async def test_a_model_that_is_to_be_loaded_at_start_and_is_not_there_is_an_error(shelf: Shelf) -> None:
    shelf.put("acc", 1)
    with pytest.raises(BundleError, match=r"load_models: expected models in .*, got also, nope"):
        async with control_of(shelf, load_models=("acc", "nope", "also")):
            pass
