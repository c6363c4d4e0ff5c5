"""Versions swapped in a server process while clients step sequences and sessions: nobody notices but by the version."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carryover.client.sync import Client
from protos.inference import grpc_service_pb2 as pb
from protos.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from tests.service.bundles import publish_language_model
from tests.service.lifecycle.shelf import FIRST_TOTAL, Shelf
from tests.service.process import best_of, running

TOKEN = "0123456789abcdef"
IDS = [4, 5, 6, 5, 4, 4, 6, 6]
SWAPS = 20
PATIENCE_S = 100.0


def infer(stub: Any, model: str, sequence: int, value: float, *, start: bool = False, end: bool = False) -> Any:
    """One step of a sequence: its total, its steps and the version that took it."""
    request = pb.ModelInferRequest(model_name=model)
    given = {"values": np.array([[value]], np.float32), "scale": np.array(1, np.float32)}
    for name, array in given.items():
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    request.outputs.add(name="total")
    request.outputs.add(name="count")
    request.parameters["sequence_id"].int64_param = sequence
    request.parameters["sequence_start"].bool_param = start
    request.parameters["sequence_end"].bool_param = end
    answer = stub.ModelInfer(request, timeout=PATIENCE_S)
    total, count = answer.raw_output_contents
    return float(np.frombuffer(total, "<f4")[0]), int(np.frombuffer(count, "<i8")[0]), int(answer.model_version)


class Clients:
    """Threads that ask until they are stopped, and what they have seen.

    Attributes:
        seen: Versions that have answered, by model; of the one that takes sessions over also those it was carried to.
        best: By version of the language model, what it answered to IDS.
    """

    def __init__(self, address: str) -> None:
        self.seen: dict[str, set[int]] = {"acc": set(), "kept": set(), "lm": set(), "carried": set()}
        self.best: dict[int, Any] = {}
        self._address = address
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(6)
        work: list[Callable[[], int]] = [
            lambda: self._sequences(1),
            lambda: self._sequences(2),
            lambda: self._long_sequence(3),
            lambda: self._long_sequence(4),
            self._sessions,
            self._sessions,
        ]
        self._running = [self._pool.submit(one) for one in work]

    def wait_for(self, model: str, version: int) -> None:
        """Until a version of a model has answered somebody; raises what ended a client."""
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.01)):
            for one in self._running:
                if one.done():
                    one.result()
            if version in self.seen[model]:
                return
            pause.wait(0.01)
        pytest.fail(f"version {version} of {model} never answered")

    def stop(self) -> list[int]:
        """Stop, and tell how many sequences, steps or sessions each has had."""
        self._stop.set()
        counts = [one.result(PATIENCE_S) for one in self._running]
        self._pool.shutdown()
        return counts

    def _sequences(self, sequence: int) -> int:
        """Sequences of 10 steps, one after the other: each is exact, and of one version from its start to its end."""
        with grpc.insecure_channel(self._address) as channel:
            stub, num = GRPCInferenceServiceStub(channel), 0
            while not self._stop.is_set():
                _, _, version = infer(stub, "acc", sequence, 1, start=True)
                for i in range(2, 11):
                    got = infer(stub, "acc", sequence, i, end=i == 10)
                    assert got == (FIRST_TOTAL * version + i * (i + 1) // 2, i, version)
                self.seen["acc"].add(version)
                num += 1
        return num

    def _long_sequence(self, sequence: int) -> int:
        """One sequence for all the time, which goes on with each version in its turn."""
        with grpc.insecure_channel(self._address) as channel:
            stub, num, before = GRPCInferenceServiceStub(channel), 0, 1
            while not self._stop.is_set():
                num += 1
                total, count, version = infer(stub, "kept", sequence, 2, start=num == 1)
                assert (total, count) == (FIRST_TOTAL + 2 * num, num)
                assert version >= before
                self.seen["carried"].add(version)
                before = version
                _, _, version = infer(stub, "kept", 100 + sequence, 0, start=True, end=True)
                self.seen["kept"].add(version)
        return num

    def _sessions(self) -> int:
        """Sessions of the typed API: all of a version answer alike, and otherwise than those of the others."""
        num = 0
        with Client(self._address) as client:
            while not self._stop.is_set():
                with client.session("lm") as session:
                    best = [best_of(session.step(token_ids=[token], num_top=3))[0] for token in IDS]
                    version = session.model.version
                assert self.best.setdefault(version, best) == best
                self.seen["lm"].add(version)
                num += 1
        return num


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_fails_while_versions_are_swapped_twenty_times(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "token").write_text(TOKEN)
    shelf = Shelf(tmp_path / "repository")
    publish: dict[str, Callable[[int], object]] = {
        "acc": lambda version: shelf.put("acc", version),
        "kept": lambda version: shelf.put("kept", version, carry_sessions=True),
        "lm": lambda version: publish_language_model(shelf.folder, "lm", version),
    }
    for put in publish.values():
        put(1)
    settings: dict[str, object] = {"model_control": "explicit", "load_models": "*"}
    settings["admin_token_file"] = tmp_path / "token"
    # A machine that is busy with other things, or stands still for a while, is no overload and ends no sequence.
    settings["max_queue_delay_ms"], settings["sequence_idle_timeout_s"] = 60_000, 3600
    with running(shelf.folder, "", **settings) as server, grpc.insecure_channel(server.address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        admin = (("authorization", f"Bearer {TOKEN}"),)
        clients = Clients(server.address)
        versions = dict.fromkeys(publish, 1)
        for model in versions:
            clients.wait_for(model, 1)
        for i in range(SWAPS):
            model = list(publish)[i % 3]
            versions[model] += 1
            publish[model](versions[model])
            stub.RepositoryModelLoad(
                pb.RepositoryModelLoadRequest(model_name=model), metadata=admin, timeout=PATIENCE_S
            )
            clients.wait_for(model, versions[model])
            clients.wait_for("carried", versions["kept"])
        assert min(clients.stop()) > 20
        for model, newest in versions.items():
            assert clients.seen[model] == set(range(1, newest + 1))
        assert len({str(best) for best in clients.best.values()}) == versions["lm"]
        with Client(server.address) as client:
            assert {(model.ref.name, model.ref.version) for model in client.models().models} == set(versions.items())
        status, log = server.stop()
    assert status == 0, log[-2000:]
    assert "Traceback" not in log
    assert log.count("go on with the newer one") >= versions["kept"] - 1
