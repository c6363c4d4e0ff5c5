"""Where HTTP ends and our code begins: what is in flight, who may come in, errors to statuses, and an orderly end."""

import asyncio
import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.status import HttpError, error_response
from service.oip.failures import STOPPING

log = logging.getLogger(__name__)

HEALTH, MODELS, READY = "/v2/health/", "/v2/models/", "/ready"
PIECE_BYTES = 256 * 2**10  # of an answer; each one has to be taken before the next is written


class Boundary:
    """Admits requests, counts them and sees to it that each gets an answer.

    Args:
        app: What answers them.
        max_calls: Requests being answered at a time. Questions about health are answered beyond it: a service that has
            all the work it takes is well, and who asks would have it started anew if it were not.
    """

    def __init__(self, app: ASGIApp, max_calls: int) -> None:
        self._app = app
        self._max_calls = max_calls
        self._draining = False  # nothing new is admitted
        self._stopped = False  # the time to finish is over
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return len(self._tasks)

    async def drain(self, timeout_s: float) -> bool:
        """Admit nothing more but questions about health, and wait for what is in flight; what takes longer is told.

        Returns:
            Whether all requests ended by themselves within `timeout_s`.
        """
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            self._stopped = True
            for task in self._tasks:
                task.cancel()
            await self._idle.wait()
            return False
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._idle.clear()
        answer = _Answer(send)
        try:
            if self._draining and not scope["path"].startswith(HEALTH):
                raise HttpError(503, STOPPING, close=True)
            if len(self._tasks) > self._max_calls and not _asks_for_health(scope["path"]):
                full = f"expected at most {self._max_calls} requests at a time, got one more"
                raise HttpError(503, full, close=True, headers={"retry-after": "1"})
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            log.debug("a caller went away")
        except HttpError as error:
            await error_response(error)(scope, receive, answer)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            if not answer.started:
                stopped = HttpError(503, "the service shut down before the answer was ready", close=True)
                await error_response(stopped)(scope, receive, answer)
        except Exception as error:
            log.exception("a request failed")
            if not answer.started:
                await error_response(error)(scope, receive, answer)
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._idle.set()


def _asks_for_health(path: str) -> bool:
    """Whether it is a question about the service's health or a model's, which takes nothing to answer."""
    return path.startswith(HEALTH) or (path.startswith(MODELS) and path.endswith(READY))


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
