"""Models that are loaded and unloaded on request: L0_lifecycle.

What the models add up says whether a sequence kept its state; their output VERSION says which version answered.
"""

import itertools
import json
import shutil
import threading
from pathlib import Path

import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.system.oip.doors import Refusal, counted, numbers, step
from tests.system.oip.lives import (
    AUTHORISED,
    TOKEN,
    Fresh,
    explicit,
    gone,
    index,
    start_load,
    version_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_models_are_loaded_and_unloaded_on_request(models: Path, fresh: Fresh, kind: str) -> None:
    with explicit(models) as (server, door):
        library, address = (grpc_client, server.grpc) if kind == "grpc" else (http_client, server.http)
        client = library.InferenceServerClient(address)
        assert not client.is_model_ready("other")
        with pytest.raises(Refusal, match="Request for unknown model: 'other'"):
            step(door, "other", 1, fresh(), start=True)
        client.load_model("other", headers=AUTHORISED)
        assert client.is_model_ready("other")
        assert step(door, "other", 5, fresh(), start=True, end=True) == (5, 1)
        client.load_model("other", headers=AUTHORISED)  # again: nothing new to load
        assert index(door)[("other", "1")][0] == "READY"
        client.unload_model("other", headers=AUTHORISED)
        gone(client, "other")
        with pytest.raises(Refusal, match="Request for unknown model: 'other'"):
            step(door, "other", 1, fresh(), start=True)
        assert index(door)[("other", "1")][0] != "READY"
        client.load_model("other", headers=AUTHORISED)
        assert step(door, "other", 6, fresh(), start=True, end=True) == (6, 1)
        client.close()


def test_only_who_has_the_token_may_load_and_unload(models: Path) -> None:
    with explicit(models) as (server, door):
        http = http_client.InferenceServerClient(server.http)
        for authorization in (None, "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer "):
            headers = None if authorization is None else {"authorization": authorization}
            for client, call, name in itertools.product(
                (door.client, http), ("load_model", "unload_model"), ("other", "counted")
            ):
                with pytest.raises(InferenceServerException) as refused:
                    getattr(client, call)(name, headers=headers)
                assert refused.value.status() in (
                    "StatusCode.PERMISSION_DENIED", "StatusCode.UNAUTHENTICATED", "403", "401",
                )  # fmt: skip
                assert TOKEN not in str(refused.value)
        assert door.client.is_model_ready("counted")
        assert not door.client.is_model_ready("other")
        http.close()


def test_what_is_no_model_of_the_repository_is_not_loaded(models: Path) -> None:
    shutil.copytree(models / "counted", models.parent / "etc")
    with explicit(models) as (server, door):
        before = index(door)
        http = http_client.InferenceServerClient(server.http)
        for name in (
            "nosuch", "../etc", "a/../b", "..", "...", "/etc/passwd", "model/", "counted/..", "counted/1", "", " ",
            "a\0b", ".hidden", "x" * 500, "\n", "Counted", "*",
        ):  # fmt: skip
            with pytest.raises(InferenceServerException) as refused:
                door.client.load_model(name, headers=AUTHORISED)
            assert f"failed to load '{name}', failed to poll from model repository" in refused.value.message()
            assert str(models.parent) not in str(refused.value)  # nor is told where it looked
            with pytest.raises(InferenceServerException) as refused:
                http.load_model(name, headers=dict(AUTHORISED))
            assert refused.value.status() in ("400", "404", "405")  # where the name makes another path of it, too
        assert index(door) == before
        assert version_of(door, 1, sequence_start=True, sequence_end=True) == 1
        http.close()


def test_files_and_configurations_cannot_be_sent_along(models: Path) -> None:
    config = json.dumps({"backend": "onnxruntime"})
    with explicit(models) as (_, door):
        for files in (None, {"file:../../escaped": b"content"}, {"file:1/model.onnx": b"content"}):
            with pytest.raises(InferenceServerException) as refused:
                door.client.load_model("counted", headers=AUTHORISED, config=config, files=files)
            assert refused.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED")
        assert version_of(door, 1, sequence_start=True, sequence_end=True) == 1
    assert not list(models.parent.rglob("escaped"))


def test_a_model_that_is_unloaded_lets_its_sequences_end(models: Path, fresh: Fresh) -> None:
    with explicit(models) as (_, door):
        sequence = fresh()
        assert version_of(door, sequence, sequence_start=True) == 1
        door.client.unload_model("counted", headers=AUTHORISED)
        gone(door.client, "counted")
        with pytest.raises(Refusal, match="Request for unknown model: 'counted'"):
            version_of(door, fresh(), sequence_start=True)
        try:  # either it goes on to its end, or it is told at once that it cannot
            assert counted(door.infer("counted", numbers(1), sequence_id=sequence, sequence_end=True)) == (2, 2)
        except Refusal as refusal:
            assert "counted" in refusal.message


def test_loads_and_unloads_at_once_leave_a_server_that_serves(models: Path, fresh: Fresh) -> None:
    with explicit(models, load_models="counted,other") as (server, door):
        load = start_load(server.grpc, "counted", fresh)
        faults: list[str] = []

        def toggle() -> None:
            client = grpc_client.InferenceServerClient(server.grpc)
            for i in range(8):
                try:
                    (client.load_model if i % 2 else client.unload_model)("other", headers=AUTHORISED)
                except InferenceServerException as refusal:
                    if refusal.status() in ("StatusCode.INTERNAL", "StatusCode.UNKNOWN"):
                        faults.append(str(refusal))
            client.close()

        threads = [threading.Thread(target=toggle) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert faults == []
        door.client.load_model("other", headers=AUTHORISED)
        assert step(door, "other", 4, fresh(), start=True, end=True) == (4, 1)
        load.stop()
