"""Every answer is judged: by servers that are right, and by some that are not."""

import contextlib
import json
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.peers import measure as module
from bench.peers.answers import RightAnswers
from bench.peers.catalogue import Peer
from bench.peers.formats import JSON_OBJECT, PACKED, SEQUENCE, field
from bench.peers.measure import judge, measure, probe
from bench.peers.process import PeerError

PEER = Peer("fake", "Fake", "", "http", "/step", JSON_OBJECT, "")
Answer = tuple[int, float]
Change = Callable[[int, int, Answer], Answer | None]


def honest(session: int, step: int, answer: Answer) -> Answer | None:
    return answer


@contextlib.contextmanager
def serving(right: RightAnswers, change: Change) -> Iterator[int]:
    """Answers right, but for what `change` makes of it; None: 503."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            session, step, _ = body["request"]
            with lock:
                best, log_prob = right.of(session, step + 1)[-1].tolist()
            answer = change(session, step, (int(best), log_prob))
            content = json.dumps({"answer": answer}).encode()
            self.send_response(200 if answer else 503)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_right_answers_are_counted_and_timed(right: RightAnswers) -> None:
    seen: dict[int, list[int]] = {}

    def noted(session: int, step: int, answer: Answer) -> Answer:
        seen.setdefault(session, []).append(step)
        return answer

    with serving(right, noted) as port:
        assert probe(PEER, port, right)
        result = measure(PEER, port, sessions=3, seconds=0.4, warmup_s=0.1, right=right)
    steps = {session: taken for session, taken in seen.items() if session < 3}
    assert sorted(steps) == [0, 1, 2]
    for taken in steps.values():
        assert taken == [step % SEQUENCE for step in range(len(taken))], "in order, and afresh after the last"
    assert result.judged == sum(map(len, steps.values()))
    assert 0 < result.steps_per_s * 0.4 <= result.judged
    assert 0 < result.p50_ms <= result.p99_ms


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t, a: (a[0] + 1, a[1]) if (s, t) == (1, 2) else a, "session 1 step 2: expected token"),
        (lambda s, t, a: (a[0], a[1] - 0.01) if (s, t) == (2, 0) else a, "session 2 step 0: expected token"),
        (lambda s, t, a: None if (s, t) == (0, 1) else a, "session 0 step 1: .* status 503"),
    ],
)
def test_one_wrong_answer_of_all_is_found(change: Change, message: str, right: RightAnswers) -> None:
    with serving(right, change) as port, pytest.raises(PeerError, match=message):
        measure(PEER, port, sessions=3, seconds=1.0, warmup_s=0.0, right=right)


def test_a_server_is_not_ready_until_it_answers_and_never_when_wrong(right: RightAnswers) -> None:
    with serving(right, lambda *_: None) as port:
        assert not probe(PEER, port, right)
    assert not probe(PEER, port, right), "nobody listens"
    with serving(right, lambda s, t, a: (a[0] + 1, a[1])) as port, pytest.raises(PeerError, match="first answer"):
        probe(PEER, port, right)


def response(caller: int, step: int, answer: bytes, code: int = 0) -> bytes:
    return struct.pack("<6I", 0, caller, caller * SEQUENCE + step, code, 1, len(answer)) + answer


def packed(right: RightAnswers, session: int, step: int) -> bytes:
    return field(1, struct.pack("<2f", *right.of(session, step + 1)[-1]))


def test_the_file_of_responses_is_judged_to_its_end(right: RightAnswers) -> None:
    order = [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2)]
    file = b"".join(response(session, step, packed(right, session, step)) for session, step in order)
    assert judge(file, PACKED, 2, right) == len(order)
    with pytest.raises(PeerError, match="session 1 step 3: expected"):
        judge(file + response(1, 3, packed(right, 1, 2)), PACKED, 2, right)
    with pytest.raises(PeerError, match="session 0 step 2: expected an answer, got status 13"):
        judge(file + response(0, 2, b"", code=13), PACKED, 2, right)
    with pytest.raises(PeerError, match="session 0 step 2: expected two float32, got 3 bytes"):
        judge(file + response(0, 2, field(1, b"abc")), PACKED, 2, right)
    with pytest.raises(PeerError, match="session 0 step 2: expected an answer, got status 0"):
        judge(file + struct.pack("<5I", 0, 0, 2, 0, 0), PACKED, 2, right)


@pytest.mark.parametrize(("code", "expected"), [("no such stream", PeerError), (143, SystemExit)])
def test_a_generator_that_gives_up_is_the_peers_fault_and_a_signal_is_not(
    code: str | int, expected: type[BaseException], right: RightAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(workload: str, **options: object) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(module, "drive", give_up)
    with pytest.raises(expected, match=str(code)):
        measure(PEER, 1, sessions=1, seconds=1.0, warmup_s=0.0, right=right)
