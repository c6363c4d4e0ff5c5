"""Models that come and go while they are used: L0_lifecycle.

What the models add up says whether a sequence kept its state; their output VERSION says which version answered.
"""

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from bench.oip_models import Source, accumulator
from tests.system.oip.conftest import add_model, some_of
from tests.system.oip.doors import Answer, GrpcDoor, Refusal, Stream, begin, counted, numbers, step
from tests.system.oip.server import Server, running
from tests.system.oip.watch import hold, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

TOKEN = "a-token-that-nobody-guesses-0123456789"
AUTHORISED = {"authorization": f"Bearer {TOKEN}"}
STATES = ("total=total_out", "steps=steps_out")
Fresh = Callable[[], int]


def versioned(version: int) -> Source:
    return Source(lambda: accumulator(version=version), STATES)


def version_of(door: GrpcDoor, sequence: int, **options: Any) -> int:
    """Which version answers the next step of a sequence of the model `counted`."""
    answer = door.infer("counted", numbers(1), sequence_id=sequence, **options)
    return int(answer.outputs["VERSION"][0, 0])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with version 1 of `counted` and of `other`."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("counted", "other"):
        add_model(name, versioned(1), repository)
    return repository


@contextmanager
def explicit(repository: Path, load_models: str = "counted", **settings: object) -> Iterator[tuple[Server, GrpcDoor]]:
    """A server that loads what it is asked to load, by whom it knows."""
    secret = repository.parent / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    chosen = {"model_control": "explicit", "load_models": load_models, "admin_token_file": secret, **settings}
    with running(repository, **chosen) as server:
        door = GrpcDoor(server.grpc)
        try:
            yield server, door
        finally:
            door.close()


def index(door: GrpcDoor) -> dict[tuple[str, str], tuple[str, str]]:
    """State and reason of every version that the server knows."""
    models = door.client.get_model_repository_index().models
    return {(entry.name, entry.version): (entry.state, entry.reason) for entry in models}


def gone(client: Any, model: str) -> None:
    """Wait until a model is unloaded, which goes on after the answer."""
    until(lambda: not client.is_model_ready(model), f"{model} unloaded")


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


def test_a_new_version_is_loaded_and_running_sequences_end_on_the_old(models: Path, fresh: Fresh) -> None:
    with explicit(models) as (_, door):
        old = fresh()
        assert version_of(door, old, sequence_start=True) == 1
        add_model("counted", versioned(2), models)
        assert version_of(door, fresh(), sequence_start=True, sequence_end=True) == 1  # until it is asked for
        door.client.load_model("counted", headers=AUTHORISED)
        assert version_of(door, fresh(), sequence_start=True, sequence_end=True) == 2
        assert version_of(door, old) == 1
        answer = door.infer("counted", numbers(1), sequence_id=old, sequence_end=True)
        assert counted(answer) == (3, 3) and answer.model_version == "1"
        assert version_of(door, old, sequence_start=True, sequence_end=True) == 2


def break_model(repository: Path, name: str, version: int) -> None:
    """Spoil the graph of a version."""
    (file,) = (repository / name / str(version)).glob("*.onnx")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-40])


def test_a_broken_new_version_leaves_the_old_one_serving(models: Path, fresh: Fresh) -> None:
    with explicit(models) as (_, door):
        sequence = fresh()
        assert version_of(door, sequence, sequence_start=True) == 1
        add_model("counted", versioned(2), models)
        break_model(models, "counted", 2)
        with pytest.raises(InferenceServerException):
            door.client.load_model("counted", headers=AUTHORISED)
        assert version_of(door, sequence, sequence_end=True) == 1
        assert version_of(door, fresh(), sequence_start=True, sequence_end=True) == 1
        state, reason = index(door)[("counted", "2")]
        assert state == "UNAVAILABLE" and reason
        add_model("counted", versioned(3), models)
        door.client.load_model("counted", headers=AUTHORISED)
        assert version_of(door, fresh(), sequence_start=True, sequence_end=True) == 3


def test_several_versions_are_served_where_the_policy_says_so(models: Path, fresh: Fresh) -> None:
    for version in (2, 3):
        add_model("counted", versioned(version), models)
    with explicit(models, version_policy="specific 1,3") as (_, door):
        assert version_of(door, fresh(), sequence_start=True, sequence_end=True) == 3
        for version in (1, 3):
            told = version_of(door, fresh(), sequence_start=True, sequence_end=True, model_version=str(version))
            assert told == version
        with pytest.raises(Refusal, match="Request for unknown model: 'counted' version 2"):
            version_of(door, fresh(), sequence_start=True, model_version="2")
        assert sorted(door.client.get_model_metadata("counted").versions) == ["1", "3"]
    with explicit(models, version_policy="latest 2") as (_, door):
        ready = {version for (name, version), (state, _) in index(door).items() if state == "READY"}
        assert ready == {"2", "3"}


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


@dataclass
class Load:
    """A client that steps sequences without a pause until it is stopped."""

    address: str
    model: str
    thread: threading.Thread
    over: threading.Event
    faults: list[str]
    answers: int = 0

    def stop(self) -> None:
        self.over.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert self.faults == []
        assert self.answers > 0


def start_load(address: str, model: str, fresh: Fresh) -> Load:
    """Step one sequence of ten steps after the other; any refusal and any wrong sum is a fault."""
    over = threading.Event()

    def drive() -> None:
        door = GrpcDoor(address)
        while not over.is_set() and not load.faults:
            sequence = fresh()
            for i in range(10):
                try:
                    told = step(door, model, i, sequence, start=i == 0, end=i == 9)
                except Refusal as refusal:
                    load.faults.append(refusal.message)
                    break
                load.answers += 1
                if told != (i * (i + 1) // 2, i + 1):
                    load.faults.append(f"step {i}: {told}")
                    break
        door.close()

    load = Load(address, model, threading.Thread(target=drive, daemon=True), over, [])
    load.thread.start()
    return load


def test_versions_are_replaced_under_load_without_a_failed_request(models: Path, fresh: Fresh) -> None:
    with explicit(models) as (server, door):
        loads = [start_load(server.grpc, "counted", fresh) for _ in range(3)]
        for version in range(2, 8):
            add_model("counted", versioned(version), models)
            goals = [load.answers + 10 for load in loads]
            door.client.load_model("counted", headers=AUTHORISED)
            assert version_of(door, fresh(), sequence_start=True, sequence_end=True) == version
            for load, goal in zip(loads, goals, strict=True):
                until(lambda load=load, goal=goal: load.answers > goal, "ten more answers")  # type: ignore[misc]
        for load in loads:
            load.stop()


def test_sequences_go_on_with_a_version_that_may_take_them_over(models: Path, fresh: Fresh) -> None:
    with explicit(models, retire_timeout_s=10) as (server, door):
        over, faults, reached = threading.Event(), list[str](), [0] * 3

        def drive(place: int) -> None:
            stream, sequence = Stream(server.grpc), fresh()
            sent = received = newest = 0
            while not over.is_set() and not faults:
                while sent < received + 8:  # so that steps are pending whenever the session moves
                    stream.send("counted", numbers(sent), sequence_id=sequence, sequence_start=sent == 0)
                    sent += 1
                outcome = stream.outcome()
                if isinstance(outcome, Refusal):
                    faults.append(outcome.message)
                    break
                told, version = counted(outcome), int(outcome.outputs["VERSION"][0, 0])
                received += 1
                if told != (received * (received - 1) // 2, received) or version < newest:
                    faults.append(f"step {received}: {told}, version {version} after {newest}")
                newest = reached[place] = version
            stream.close()

        threads = [threading.Thread(target=drive, args=(place,), daemon=True) for place in range(3)]
        for thread in threads:
            thread.start()
        for version in range(1, 6):
            if version > 1:
                add_model("counted", versioned(version), models, carry_sessions=True)
                door.client.load_model("counted", headers=AUTHORISED)
            until(lambda version=version: bool(faults) or min(reached) == version, f"version {version}")  # type: ignore[misc]
        over.set()
        for thread in threads:
            thread.join(60)
        assert faults == []


def test_new_versions_are_found_by_polling(models: Path, fresh: Fresh) -> None:
    with running(models, model_control="poll", poll_interval_s=0.2) as server:
        door = GrpcDoor(server.grpc)
        load = start_load(server.grpc, "counted", fresh)
        add_model("counted", versioned(2), models)
        until(lambda: version_of(door, fresh(), sequence_start=True, sequence_end=True) == 2, "the second version")
        add_model("third", versioned(3), models)
        until(lambda: bool(door.client.is_model_ready("third")), "the new model")
        with pytest.raises(InferenceServerException) as refused:
            door.client.load_model("third", headers=AUTHORISED)
        assert refused.value.message().startswith("explicit model load / unload is not allowed if polling is enabled")
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        shutil.rmtree(models / "other")
        until(lambda: not door.client.is_model_ready("other"), "the end of a model whose folder is gone")
        load.stop()
        door.close()


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


def test_what_is_in_flight_at_the_end_is_answered(repository: Path, tmp_path: Path, fresh: Fresh) -> None:
    some = some_of(repository, ("accumulator", "accumulator-slow"), tmp_path)
    with running(some, runners=1, max_queue_delay_ms=100_000) as server:
        stream, door = Stream(server.grpc), GrpcDoor(server.grpc)
        hold(server, stream, fresh(), 800)
        sequences = [fresh() for _ in range(4)]
        for sequence in sequences:
            for i in range(3):
                stream.send(
                    "accumulator-slow",
                    numbers(i, 0),
                    request_id=f"{sequence}/{i}",
                    sequence_id=sequence,
                    sequence_start=i == 0,
                    sequence_end=i == 2,
                )
        stream.send("accumulator-slow", numbers(1, 0))
        assert isinstance(stream.outcome(), Refusal)  # all before has been read
        server.terminate()
        until(lambda: any("stopping" in line for line in server.log), "the end begun")
        late = begin(door.client, "accumulator", numbers(1), sequence_id=fresh(), sequence_start=True).outcome()
        assert isinstance(late, Refusal)
        outcomes = [stream.outcome() for _ in range(13)]
        answers = {outcome.id: outcome for outcome in outcomes if isinstance(outcome, Answer)}
        assert len(answers) == 13, outcomes
        for sequence in sequences:
            assert [counted(answers[f"{sequence}/{i}"]) for i in range(3)] == [(0, 1), (1, 2), (3, 3)]
        stream.close()
        door.close()


def test_streams_and_connections_that_are_idle_do_not_hold_up_the_end(
    repository: Path, tmp_path: Path, fresh: Fresh
) -> None:
    with running(some_of(repository, ("accumulator",), tmp_path), drain_timeout_s=60) as server:
        stream, door = Stream(server.grpc), GrpcDoor(server.grpc)
        http = http_client.InferenceServerClient(server.http)
        assert http.is_server_live()
        stream.send("accumulator", numbers(1), sequence_id=fresh(), sequence_start=True, sequence_end=True)
        stream.receive()
        server.terminate()
        assert server.process.wait(20) == 0
        stream.close()
        door.close()


def test_a_server_may_be_stopped_while_it_loads(models: Path) -> None:
    with explicit(models) as (server, _):
        add_model("counted", versioned(2), models)
        pending = threading.Thread(target=lambda: _load_and_ignore(server.grpc), daemon=True)
        pending.start()
        server.terminate()
        assert server.process.wait(30) == 0
        pending.join(30)


def _load_and_ignore(address: str) -> None:
    client = grpc_client.InferenceServerClient(address)
    try:
        client.load_model("counted", headers=AUTHORISED, client_timeout=20)
    except InferenceServerException:
        pass  # the server was stopped
    finally:
        client.close()
