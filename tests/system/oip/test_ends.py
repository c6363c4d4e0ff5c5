"""Servers that are stopped: L0_lifecycle."""

import threading
from pathlib import Path

import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.system.oip.conftest import add_model, some_of, versioned
from tests.system.oip.doors import Answer, GrpcDoor, Refusal, Stream, begin, counted, numbers
from tests.system.oip.lives import AUTHORISED, Fresh, explicit
from tests.system.oip.server import running
from tests.system.oip.watch import hold, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def test_what_is_in_flight_at_the_end_is_answered(repository: Path, tmp_path: Path, fresh: Fresh) -> None:
    some = some_of(repository, ("accumulator", "accumulator-slow"), tmp_path)
    with running(some, runners=1, max_queue_delay_ms=100_000, drain_timeout_s=100) as server:
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
        assert server.process.wait(50) == 0
        stream.close()
        door.close()


def test_a_server_may_be_stopped_while_it_loads(models: Path) -> None:
    with explicit(models) as (server, _):
        add_model("counted", versioned(2), models)
        pending = threading.Thread(target=lambda: _load_and_ignore(server.grpc), daemon=True)
        pending.start()
        server.terminate()
        assert server.process.wait(60) == 0
        pending.join(60)


def _load_and_ignore(address: str) -> None:
    client = grpc_client.InferenceServerClient(address)
    try:
        client.load_model("counted", headers=AUTHORISED, client_timeout=20)
    except InferenceServerException:
        pass  # the server was stopped
    finally:
        client.close()
