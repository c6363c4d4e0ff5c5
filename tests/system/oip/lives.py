"""Repositories whose models come and go, and what runs on them meanwhile."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.oip.doors import GrpcDoor, Refusal, numbers, step
from tests.system.oip.server import Server, running
from tests.system.oip.watch import until

TOKEN = "a-token-that-nobody-guesses-0123456789"
AUTHORISED = {"authorization": f"Bearer {TOKEN}"}
Fresh = Callable[[], int]


def version_of(door: GrpcDoor, sequence: int, **options: Any) -> int:
    """Which version answers the next step of a sequence of the model `counted`."""
    answer = door.infer("counted", numbers(1), sequence_id=sequence, **options)
    return int(answer.outputs["VERSION"][0, 0])


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


def break_model(repository: Path, name: str, version: int) -> None:
    """Spoil the graph of a version."""
    (file,) = (repository / name / str(version)).glob("*.onnx")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-40])


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
