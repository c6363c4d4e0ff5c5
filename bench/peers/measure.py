"""One closed loop against one server, every answer judged."""

import http.client
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.drive import drive
from bench.peers.answers import RightAnswers
from bench.peers.catalogue import Peer
from bench.peers.formats import SEQUENCE, Format
from bench.peers.process import PeerError
from bench.tokens import token

EVERYTHING = 10_000_000  # calls or steps to keep for judging: all of them
STREAMS = 8
PROBE_SESSION = 1_000_000


@dataclass(frozen=True)
class Result:
    """What came out: messages/s (a step each), latencies in ms, the generator's share of a core, answers judged."""

    steps_per_s: float
    p50_ms: float
    p99_ms: float
    generator_cpu: float
    judged: int


def probe(peer: Peer, port: int, right: RightAnswers) -> bool:
    """Whether a server answers a first step by now.

    Raises:
        PeerError: It answers wrong.
    """
    if peer.format is None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=0.5)
            except grpc.FutureTimeoutError:
                return False
        return True
    body = peer.format.encode(PROBE_SESSION, 0, token(PROBE_SESSION, 0, right.vocabulary))
    answer = _http(port, peer.path, body) if peer.carrier == "http" else _grpc(port, peer.path, body)
    if answer is None:
        return False
    best, log_prob = peer.format.decode(answer)
    wrong = right.check(PROBE_SESSION, np.array([0]), np.array([best]), np.array([log_prob]))
    if wrong:
        raise PeerError(f"its first answer is wrong: {wrong}")
    return True


def _http(port: int, path: str, body: bytes) -> bytes | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return content if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _grpc(port: int, path: str, body: bytes) -> bytes | None:
    channel: Any
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            return bytes(channel.unary_unary(path)(body, timeout=5))
        except grpc.RpcError:
            return None


def measure(
    peer: Peer, port: int, sessions: int, seconds: float, warmup_s: float, right: RightAnswers, model: str = "any"
) -> Result:
    """Drive a server; `model` is the name in the Session stream's messages.

    Raises:
        PeerError: An answer is wrong, is an error or never came.
    """
    common: dict[str, object] = {"address": f"127.0.0.1:{port}", "seconds": seconds, "warmup": warmup_s}
    if peer.format is None:
        outcome = _drive_sessions(common, sessions, right, model)
    else:
        outcome = _drive_calls(peer, peer.format, common, sessions, right)
    (phase,) = outcome["phases"]
    if outcome["unanswered"] or phase["failed"] or phase["refused"]:
        counts = ", ".join(f"{outcome.get(key, phase.get(key))} {key}" for key in ("unanswered", "failed", "refused"))
        raise PeerError(f"steps: {counts}; {outcome['first_failure']}")
    latency = phase["latency_ms"]
    return Result(phase["answered_per_s"], latency["p50"], latency["p99"], phase["cpu_share"], outcome["judged"])


def _drive(workload: str, **options: Any) -> dict[str, Any]:
    try:
        return drive(workload, **options)
    except SystemExit as error:
        if not isinstance(error.code, str):  # it was this process that was told to end
            raise
        raise PeerError(error.code) from None  # what it says about a server that it cannot go on with


def _drive_sessions(common: dict[str, object], sessions: int, right: RightAnswers, model: str) -> dict[str, Any]:
    streams = min(STREAMS, sessions)
    outcome = _drive(
        "sessions",
        **common,
        model=model,
        sessions=sessions,
        streams=streams,
        connections=streams,
        coalesce=1,
        vocabulary=right.vocabulary,
        check=sessions,
        check_steps=EVERYTHING,
    )
    outcome["judged"] = 0
    for one in outcome["checked"]:
        tokens = np.array(one["answers"], np.int64)
        wrong = right.check(one["session"], np.arange(len(tokens)), tokens, None)
        if wrong:
            raise PeerError(wrong)
        outcome["judged"] += len(tokens)
    return outcome


def _drive_calls(
    peer: Peer, form: Format, common: dict[str, object], sessions: int, right: RightAnswers
) -> dict[str, Any]:
    where: dict[str, object] = {"method": peer.path} if peer.carrier == "grpc" else {"path": peer.path}
    with tempfile.TemporaryDirectory(prefix="carryover-peers-") as folder:
        templates, responses = Path(folder) / "templates", Path(folder) / "responses"
        with templates.open("wb") as file:
            for session in range(sessions):
                for step in range(SEQUENCE):
                    body = form.encode(session, step, token(session, step, right.vocabulary))
                    file.write(struct.pack("<I", len(body)) + body)
        outcome = _drive(
            peer.carrier,
            **common,
            **where,
            templates=templates,
            responses=responses,
            callers=sessions,
            connections=min(STREAMS, sessions),
            sequences=1,
            keep=EVERYTHING,
        )
        outcome["judged"] = judge(responses.read_bytes(), form, sessions, right)
    return outcome


def judge(responses: bytes, form: Format, sessions: int, right: RightAnswers) -> int:
    """Compare all that was answered, in the generator's file, with what is right; returns how many answers there were.

    Raises:
        PeerError: One is wrong or an error.
    """
    told: list[tuple[int, int, int, float]] = []
    for caller, message, code, parts in read_responses(responses):
        session, step = divmod(message, SEQUENCE)
        if len(parts) != 1 or code not in (0, 200):
            text = b"".join(parts)[:200]
            raise PeerError(f"session {session} step {step}: expected an answer, got status {code} {text!r}")
        try:
            best, log_prob = form.decode(parts[0])
        except ValueError as error:
            raise PeerError(f"session {session} step {step}: {error}") from error
        told.append((caller, step, best, log_prob))
    answers = np.array(told, np.float64).reshape(-1, 4)
    for session in range(sessions):
        mine = answers[answers[:, 0] == session]
        wrong = right.check(session, mine[:, 1].astype(np.int64), mine[:, 2].astype(np.int64), mine[:, 3])
        if wrong:
            raise PeerError(wrong)
    return len(answers)


def read_responses(responses: bytes) -> Iterator[tuple[int, int, int, list[bytes]]]:
    """Caller, message, status code and parts of each call; the file is described in bench/generator/calls.h."""
    at = 0
    while at < len(responses):
        _, caller, message, code, count = struct.unpack_from("<5I", responses, at)
        at += 20
        parts = []
        for _ in range(count):
            (size,) = struct.unpack_from("<I", responses, at)
            parts.append(responses[at + 4 : at + 4 + size])
            at += 4 + size
        yield caller, message, code, parts
