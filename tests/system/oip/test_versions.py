"""Versions that come and go while they are used: L0_lifecycle.

What the models add up says whether a sequence kept its state; their output VERSION says which version answered.
"""

import shutil
import threading
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from tests.system.oip.conftest import add_model, versioned
from tests.system.oip.doors import GrpcDoor, Refusal, Stream, counted, numbers
from tests.system.oip.lives import AUTHORISED, Fresh, break_model, explicit, index, start_load, version_of
from tests.system.oip.server import running
from tests.system.oip.watch import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


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
