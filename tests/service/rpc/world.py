"""A server with three models on fake engines, and how to call it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio

from export.manifest import DecodingDefaults, FileEntry, GraphSpec, Manifest, MemorySpec, StateSpec, Task, TokenizerSpec
from models.symbols import BOS, EOS, PAD, UNK
from models.tokenizer import Kind, Tokenizer
from models.vocabulary import Vocabulary
from protos.carryover.v1.carryover_pb2_grpc import CarryoverStub
from service.bridge import Bridge
from service.models import Limits, LiveModel, Models, Refused, TagDecoder
from service.rpc.server import RpcServer
from service.settings import Settings
from tests.service.rpc.fake_engine import FakeEngine

SPECIALS = (PAD, UNK, BOS, EOS)
WORDS = Vocabulary((*SPECIALS, "the", "cat", "sat", "on", "mat", "dog", "ran", "far"), 4)
LETTERS = Vocabulary((*SPECIALS, *"abcdefgh"), 4)
TAGS = Vocabulary(("DET", "NOUN", "VERB"), 0)

ROLES: dict[Task, dict[str, tuple[Kind, Vocabulary]]] = {
    "tagger": {"words": ("none", WORDS), "characters": ("characters", LETTERS), "tags": ("none", TAGS)},
    "encoder_decoder": {"source": ("characters", LETTERS), "target": ("whitespace", WORDS)},
    "language_model": {"tokens": ("whitespace", WORDS)},
}
GRAPHS: dict[Task, tuple[str, ...]] = {
    "tagger": ("sequence", "step"),
    "encoder_decoder": ("encode", "step"),
    "language_model": ("sequence", "step"),
}


def make_manifest(name: str, task: Task, version: int = 3, graphs: tuple[str, ...] | None = None) -> Manifest:
    """A manifest that no bundle backs: the calls read no file."""
    graph = GraphSpec(file="x.onnx", inputs=(), outputs=())
    memory = MemorySpec(name="memory", dtype="float32", shape=(4,), pool_input="m", pool_output="mo")
    return Manifest(
        name=name,
        version=version,
        task=task,
        precision="fp32",
        graphs={kind: graph for kind in GRAPHS[task] if graphs is None or kind in graphs},
        states=(StateSpec(name="total", dtype="float32", shape=(1,)),),
        memories=(memory,) if task == "encoder_decoder" else (),
        tokenizers={
            role: TokenizerSpec(kind=kind, vocabulary=f"{role}.json") for role, (kind, _) in ROLES[task].items()
        },
        decoding=DecodingDefaults(beam_size=2, max_beam_size=4, length_penalty=0.5, max_tokens=20, top_k=3),
        metrics={"dev/accuracy": 0.9},
        created="2026-01-01T00:00:00Z",
        files={"x.onnx": FileEntry(sha256="0" * 64, num_bytes=1)},
    )


@dataclass
class World:
    """A running server.

    Args:
        server: In this process.
        port: On loopback.
        engines: The fake engine of each model, by name.
        channel: A channel to it.
        stub: Any call; typed as Any because the generated stub knows the blocking calls only.
    """

    server: RpcServer
    models: Models
    port: int
    engines: dict[str, FakeEngine]
    channel: grpc.aio.Channel
    stub: Any

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def make_model(
    name: str,
    task: Task,
    settings: Settings,
    graphs: tuple[str, ...] | None = None,
    decode_tags: TagDecoder | None = None,
) -> tuple[LiveModel, FakeEngine]:
    manifest = make_manifest(name, task, graphs=graphs)
    bridge = Bridge(FakeEngine, asyncio.get_running_loop())
    tokenizers = {role: Tokenizer(kind, vocabulary) for role, (kind, vocabulary) in ROLES[task].items()}
    live = LiveModel(
        manifest, tokenizers, bridge, Limits.of(manifest, settings, 7), "CPUExecutionProvider", 16, (), decode_tags
    )
    assert isinstance(bridge.engine, FakeEngine)
    return live, bridge.engine


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[World]:
    """Serve `tagger`, `g2p` and `lm` (each version 3) and the unsteppable `bitagger`."""
    small = {"port": 0, "max_input_tokens": 16, "max_word_characters": 10, "max_sentence_characters": 96}
    chosen = Settings.model_validate(small | settings)
    made = [
        make_model("tagger", "tagger", chosen),
        make_model("g2p", "encoder_decoder", chosen),
        make_model("lm", "language_model", chosen),
        make_model("bitagger", "tagger", chosen, graphs=("sequence",)),
    ]
    refused = Refused("broken", 1, "graphs")
    models = Models([model for model, _ in made], [refused])
    server = RpcServer(chosen, models)
    port = await server.start()
    engines = {model.manifest.name: engine for model, engine in made}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield World(server, models, port, engines, channel, CarryoverStub(channel))
        finally:
            await server.stop(linger_s=0)


def lowercased(model: LiveModel, role: str) -> LiveModel:
    """The same model with one tokenizer that lower-cases."""
    return replace(model, tokenizers={**model.tokenizers, role: replace(model.tokenizers[role], lowercase=True)})


async def wait_until(condition: Any, timeout_s: float = 60.0) -> None:
    """Give the event loop turns until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)
