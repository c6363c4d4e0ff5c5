"""The boundary by itself, around an application that waits."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.http import boundary as boundary_module
from service.http.boundary import Boundary


class Caller:
    """Asks once and keeps what is answered."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def ask(self, boundary: Boundary, path: str = "/v2") -> "Caller":
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": []}
        await boundary(scope, self._receive, self._send)
        return self

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    async def _receive(self) -> Message:
        raise AssertionError("nobody reads")

    async def _send(self, message: Message) -> None:
        self.messages.append(message)


class Waiting:
    """Begins an answer, or not, and waits to end it."""

    def __init__(self, *, begins: bool = False) -> None:
        self.go = asyncio.Event()
        self._begins = begins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"].rpartition("/")[2] not in ("live", "ready"):
            await self.go.wait()
        if not self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


async def test_while_it_drains_only_health_is_answered() -> None:
    app = Waiting()
    boundary = Boundary(app, 8)
    first = asyncio.ensure_future(Caller().ask(boundary))
    await asyncio.sleep(0)
    draining = asyncio.ensure_future(boundary.drain(20.0))
    await asyncio.sleep(0)
    assert (await Caller().ask(boundary, "/v2/health/live")).status == 200
    refused = await Caller().ask(boundary, "/v2/models/m/infer")
    assert refused.status == 503 and refused.body.startswith(b'{"error": "Server is stopping')
    assert refused.headers[b"connection"] == b"close"
    app.go.set()
    assert (await first).body == b"done"
    assert await draining is True and boundary.in_flight == 0


async def test_a_full_service_is_still_a_live_one() -> None:
    boundary = Boundary(app := Waiting(), 2)
    asking = [asyncio.ensure_future(Caller().ask(boundary, "/v2/models/m/infer")) for _ in range(2)]
    await asyncio.sleep(0)
    for path in ("/v2/models/m/infer", "/v2", "/v2/models/m", "/v2/health"):
        refused = await Caller().ask(boundary, path)
        assert refused.status == 503 and b"expected at most 2 requests at a time, got one more" in refused.body
        assert refused.headers[b"retry-after"] == b"1" and refused.headers[b"connection"] == b"close"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        assert (await Caller().ask(boundary, path)).status == 200
    app.go.set()
    assert [caller.status for caller in await asyncio.gather(*asking)] == [200, 200]


@pytest.mark.parametrize(("begins", "status"), [(False, 503), (True, 200)])
async def test_what_is_not_done_in_time_is_ended(begins: bool, status: int) -> None:
    boundary = Boundary(Waiting(begins=begins), 8)
    caller = Caller()
    asking = asyncio.ensure_future(caller.ask(boundary))
    await asyncio.sleep(0)
    assert await boundary.drain(0.01) is False
    await asking
    assert caller.status == status and b"done" not in caller.body and boundary.in_flight == 0


async def test_a_request_that_its_server_gives_up_is_left_to_it() -> None:
    asking = asyncio.ensure_future(Caller().ask(boundary := Boundary(Waiting(), 8)))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert boundary.in_flight == 0


async def test_a_long_answer_goes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary_module, "PIECE_BYTES", 10)
    body = bytes(range(25))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    caller = await Caller().ask(Boundary(app, 8))
    assert [len(message["body"]) for message in caller.messages[1:]] == [10, 10, 5]
    assert [message.get("more_body", False) for message in caller.messages[1:]] == [True, True, False]
    assert caller.body == body
