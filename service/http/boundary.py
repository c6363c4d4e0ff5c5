"""Where HTTP ends and our code begins: what is in flight, who may come in, errors to statuses, and an orderly end."""

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.calls import STOPPED, Calls
from service.errors import Overloaded, ShuttingDown
from service.http.status import HttpError, error_response
from service.oip.failures import STOPPING

log = logging.getLogger(__name__)

HEALTH, MODELS, READY = "/v2/health/", "/v2/models/", "/ready"
PIECE_BYTES = 256 * 2**10  # of an answer; each one has to be taken before the next is written


class Boundary:
    """Admits requests, counts them and sees to it that each gets an answer.

    Args:
        app: What answers them.
        max_calls: Requests being answered at a time, questions about health apart.
    """

    def __init__(self, app: ASGIApp, max_calls: int) -> None:
        self._app = app
        self._calls = Calls(max_calls, "requests")

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return len(self._calls)

    async def drain(self, timeout_s: float) -> bool:
        """Admit nothing more but questions about health, and wait for what is in flight; what takes longer is told.

        Returns:
            Whether all requests ended by themselves within `timeout_s`.
        """
        return await self._calls.drain(timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        task = self._calls.enter()
        answer = _Answer(send)
        try:
            self._admit(scope["path"])
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            log.debug("a caller went away")
        except HttpError as error:
            await error_response(error)(scope, receive, answer)
        except asyncio.CancelledError:
            if not self._calls.stopped:
                raise
            if not answer.started:
                stopped = HttpError(503, STOPPED, close=True)
                await error_response(stopped)(scope, receive, answer)
        except Exception as error:
            log.exception("a request failed")
            if not answer.started:
                await error_response(error)(scope, receive, answer)
        finally:
            self._calls.leave(task)

    def _admit(self, path: str) -> None:
        if path.startswith(HEALTH):
            return
        try:
            self._calls.admit(while_draining=False, is_health=_asks_for_model_health(path))
        except ShuttingDown:
            raise HttpError(503, STOPPING, close=True) from None
        except Overloaded as error:
            retry = {"retry-after": f"{error.retry_after_s:.0f}"}
            raise HttpError(503, str(error), close=True, headers=retry) from None


def _asks_for_model_health(path: str) -> bool:
    """Whether it is a question about a model's health, which takes nothing to answer."""
    return path.startswith(MODELS) and path.endswith(READY)


class _Answer:
    """Writes an answer piece by piece: no more of it waits in memory than its caller takes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            await self._send(message)
            return
        body = memoryview(message.get("body", b""))
        while len(body) > PIECE_BYTES:
            await self._send({"type": message["type"], "body": bytes(body[:PIECE_BYTES]), "more_body": True})
            body = body[PIECE_BYTES:]
        await self._send({**message, "body": bytes(body)})
