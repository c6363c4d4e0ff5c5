"""Building the load generator, what it says when something is wrong, and its percentiles."""

import asyncio
import json
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench import drive as module
from bench.drive import FLAGS, SOURCES, build, drive, read_responses, write_messages
from protos.carryover.v1 import carryover_pb2 as pb
from tests.bench.servers import Sessions, listening, serving

pytestmark = pytest.mark.slow


def test_it_is_built_once_and_again_when_its_sources_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = build(tmp_path / "cache")
    built = program.stat().st_mtime_ns
    assert build(tmp_path / "cache") == program and program.stat().st_mtime_ns == built
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "main.c").write_text("int main(void) { return 0; }\n")
    monkeypatch.setattr(module, "SOURCES", sources)
    assert build(tmp_path / "cache") != program


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(SystemExit, match=r"expected a compiler, got none\. Install gcc"):
        build(tmp_path)


def test_what_the_compiler_says_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.c").write_text("int main(void) { return nowhere; }\n")
    monkeypatch.setattr(module, "SOURCES", tmp_path)
    with pytest.raises(SystemExit, match=r"(?s)refused the load generator.*nowhere"):
        build(tmp_path / "cache")


def test_percentiles_are_within_half_a_percent_of_those_of_the_sorted_values(tmp_path: Path) -> None:
    driver = tmp_path / "driver.c"
    driver.write_text(
        '#include "histogram.h"\n'
        'int main(void) { Histogram h = {0}; long long ns; while (scanf("%lld", &ns) == 1) histogram_add(&h, ns);'
        " histogram_print(&h, stdout); }\n"
    )
    sources = [str(SOURCES / name) for name in ("histogram.c", "bytes.c")]
    command = ["gcc", *FLAGS, "-I", str(SOURCES), "-o", str(tmp_path / "driver"), str(driver), *sources]
    subprocess.run(command, check=True)
    draw = random.Random(1)
    for values in (
        [7],
        list(range(1000)),
        [int(draw.lognormvariate(15, 2)) for _ in range(20_000)],
        [int(10 ** draw.uniform(0, 14)) for _ in range(5000)],
    ):
        text = "\n".join(map(str, values))
        done = subprocess.run([tmp_path / "driver"], input=text, capture_output=True, text=True, check=True)
        got = json.loads(done.stdout)
        ordered = sorted(values)
        assert got["count"] == len(values)
        assert got["mean"] == pytest.approx(sum(values) / len(values) / 1e6, abs=1e-6, rel=1e-6)
        assert got["max"] == pytest.approx(ordered[-1] / 1e6, abs=1e-6)
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
            expected = ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] / 1e6
            assert got[name] == pytest.approx(expected, rel=0.004, abs=1e-6), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 3}, "--vocabulary: expected more than --first-token"),
        ({"sessions": 0}, "expected at least 1"),
        ({"streams": 2}, "--streams: expected at most one a session"),
        ({"seconds": -1}, "--seconds: expected a number of at least 0, got -1"),
        ({"sessions": "many"}, "--sessions: expected a whole number of at least 0, got many"),
        ({"colour": 1}, "unknown option --colour"),
        ({"phases": "100"}, "--phases: expected rate:seconds,"),
        ({"phases": "100:1,0:2"}, "--phases: expected rate:seconds,... with rates above 0"),
        ({"address": "nowhere"}, "--address host:port, got nowhere"),
        ({"address": "127.0.0.1:1"}, "connect to 127.0.0.1:1: Connection refused"),
    ],
)
def test_bad_options_are_refused_with_what_was_expected(options: dict[str, object], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        drive("sessions", 600.0, **{"address": "127.0.0.1:1", "vocabulary": 9, **options})
    assert message in str(caught.value)


def test_a_workload_that_is_none_is_refused() -> None:
    with pytest.raises(
        SystemExit, match=r"expected sessions, .*, infer-stream or http, then --option value \.\.\., got stepping"
    ):
        drive("stepping")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "expected at least one message"), (b"\x05\0\0\0ab", "ends within message 0"), (b"\0\0", "ends within")],
)
def test_a_broken_file_of_messages_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "messages").write_bytes(content)
    with pytest.raises(SystemExit, match=message):
        drive("grpc", address="127.0.0.1:1", templates=tmp_path / "messages", method="/a/b")


def test_responses_that_are_cut_are_refused(tmp_path: Path) -> None:
    (tmp_path / "responses").write_bytes(bytes(4 * 4) + b"\1\0\0\0" + b"\x09\0\0\0short")
    with pytest.raises(ValueError, match="ends within response 0"):
        read_responses(tmp_path / "responses")


SETTINGS = bytes(3) + b"\4" + bytes(5)


async def say(text: bytes, settings: bytes = SETTINGS) -> str:
    """What the generator says of a server that answers a call with this, whatever it is, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(settings)
        await reader.readuntil(b"/carryover.v1.Carryover/Session")
        writer.write(text)
        writer.write_eof()
        await reader.read()

    async with listening(answer) as address:
        with pytest.raises(SystemExit) as caught:
            await asyncio.to_thread(drive, "sessions", 60.0, address=address, vocabulary=9)
    return str(caught.value)


async def test_a_server_that_hangs_up_is_told() -> None:
    assert "the server closed the connection" in await say(b"")


async def test_a_goodbye_is_told_with_its_reason() -> None:
    goodbye = b"\0\0\x13\7\0" + bytes(4) + bytes(4) + b"\0\0\0\x0btoo_many" + b"_calls!"[:3]
    assert "the server says goodbye: HTTP/2 error 11, too_many" in await say(goodbye)


async def test_a_limit_on_streams_is_told() -> None:
    limit = b"\0\0\6\4\0" + bytes(4) + b"\0\3" + bytes(4)
    assert "the server takes 0 calls at once on a connection" in await say(b"", settings=limit)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (7, b"\x88" + b"\0\x0bgrpc-status\x017" + b"\0\x0cgrpc-message\x06denied"),
        (7, b"\x20\x88" + b"\x40\x0bgrpc-status\x017" + b"\x10\x0cgrpc-message\x06denied"),
    ],
)
async def test_the_end_of_a_stream_is_told_with_its_status(status: int, headers: bytes) -> None:
    def frame(flags: int, payload: bytes, kind: int) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + (1).to_bytes(4, "big") + payload

    whole = frame(5, headers, 1)
    parts = frame(1, headers[:9], 1) + frame(4, headers[9:], 9)
    padded = frame(5 | 8, b"\3" + headers + b"\xff" * 3, 1)  # no header
    prioritised = frame(5 | 32, bytes(5) + headers, 1)
    for frames in (whole, parts, padded, prioritised):
        said = await say(frames)
        assert f"expected the stream to go on, got its end with status {status}: denied" in said


async def test_a_reset_is_told_with_its_error() -> None:
    reset = b"\0\0\4\3\0" + (1).to_bytes(4, "big") + (11).to_bytes(4, "big")
    assert "the server reset the stream: HTTP/2 error 11" in await say(reset)


async def test_what_is_no_grpc_server_is_told() -> None:
    not_found = b"\0\0\1\1\5" + (1).to_bytes(4, "big") + b"\x8d"
    assert "expected HTTP status 200, got 404: is 127.0.0.1:" in await say(not_found)


@dataclass
class Windows:
    """A server's side of flow control: takes one message in small pieces and holds the client to what it was given."""

    received: bytes = b""
    violations: list[str] = field(default_factory=list)
    stream: int = 100
    connection: int = 65_535
    initial_was_raised: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(24)
        writer.write(self._frame(4, b"\0\4" + (100).to_bytes(4, "big"), 0))
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == 0:
                self._take(payload, writer)

    def _take(self, payload: bytes, writer: asyncio.StreamWriter) -> None:
        self.received += payload
        self.stream -= len(payload)
        self.connection -= len(payload)
        if self.stream < 0 or self.connection < 0:
            self.violations.append(f"stream {self.stream}, connection {self.connection}")
        if self.connection == 0:
            self.connection += 50_001
            writer.write(self._frame(8, (50_001).to_bytes(4, "big"), 0))
        if self.stream == 0 and not self.initial_was_raised:
            self.initial_was_raised = True
            self.stream += 5_000
            writer.write(self._frame(4, b"\0\4" + (5_100).to_bytes(4, "big"), 0))
        elif self.stream == 0:
            self.stream += 30_000
            writer.write(self._frame(8, (30_000).to_bytes(4, "big"), 1))
        if len(self.received) == 5 + 200_000:
            writer.write_eof()

    @staticmethod
    def _frame(kind: int, payload: bytes, stream: int) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload


async def test_no_more_is_sent_than_the_windows_allow_and_all_of_it_in_the_end(tmp_path: Path) -> None:
    message = random.Random(1).randbytes(200_000)
    write_messages(tmp_path / "messages", [message])
    server = Windows()
    async with listening(server.serve) as address:
        with pytest.raises(SystemExit, match="the server closed the connection"):
            templates = tmp_path / "messages"
            await asyncio.to_thread(drive, "grpc", 60.0, address=address, templates=templates, method="/a/b")
    assert server.violations == []
    assert server.received == b"\0" + (200_000).to_bytes(4, "big") + message


class Wrong(Sessions):
    """Answers something wrong on the first step."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change

    def _event(self, command: pb.SessionCommand) -> pb.SessionEvent:
        event = super()._event(command)
        if event.WhichOneof("event") == "stepped":
            match self.change:
                case "name":
                    event.stepped.session_id = "other"
                case "id":
                    event.request_id = 99_999
                case "outputs":
                    event.stepped.outputs.add(token_ids=[1])
                case "ended" | "failed":
                    event.error.code, event.error.session_ended = 13, self.change == "ended"
                    event.error.message = "broken"
        return event


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name", "an answer names another session"),
        ("id", "expected an answer to what was asked, got one to request 99999"),
        ("outputs", "expected 1 outputs, got 2"),
        ("ended", "expected an answer, got code 13"),
    ],
)
async def test_an_answer_that_cannot_be_right_ends_the_run(change: str, message: str) -> None:
    async with serving(Wrong(change)) as address:
        with pytest.raises(SystemExit, match=message):
            await asyncio.to_thread(drive, "sessions", 60.0, address=address, vocabulary=9, sessions=3)


async def test_a_step_that_fails_is_counted_in_an_open_loop_unless_its_session_is_over() -> None:
    options: dict[str, object] = {"vocabulary": 9, "sessions": 3, "rate": 100, "seconds": 0.5, "warmup": 0}
    async with serving(Wrong("failed")) as address:
        result = await asyncio.to_thread(drive, "sessions", 60.0, address=address, **options)
    assert set(result["failures"]) == {"13"} and "broken" in result["first_failure"]
    async with serving(Wrong("ended")) as address:
        with pytest.raises(SystemExit, match=r"expected an answer, got code 13 : broken"):
            await asyncio.to_thread(drive, "sessions", 60.0, address=address, **options)


def test_messages_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_messages(tmp_path / "messages", [b"", b"abc", bytes(300)])
    assert (tmp_path / "messages").read_bytes() == bytes(4) + b"\3\0\0\0abc" + b"\x2c\1\0\0" + bytes(300)
