"""Ends a wait for gRPC's completion queue from any thread.

gRPC puts nothing into its queue but the ends of its own operations, and what it has for this, alarms, is not to be had
from Python. So there is a call to ourselves, over a socket that is closed to others as soon as the call is there, of
which nothing is ever asked: a batch of no operations on it ends at once, in the queue.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import grpc

from service.rpc.completion import core

_CONNECT_S: Final = 10.0


class Waker:
    """See the module docstring.

    Args:
        queue: Where the waiting is done.
        woken: Called with the event of a waking, by whoever takes events from the queue.

    Raises:
        OSError: The call could not be made; the queue has nothing but ends to come.
    """

    def __init__(self, queue: Any, woken: Callable[[Any], None]) -> None:
        self._woken = woken
        self._lock = threading.Lock()  # no waking after the end, which gRPC does not forgive
        self._closed = False
        address = f"unix-abstract:carryover-{os.getpid()}-{os.urandom(16).hex()}"
        self._server = core.Server(((b"grpc.so_reuseport", 0),), False)
        self._server.register_completion_queue(queue)
        self._server.add_http2_port(address.encode())
        self._server.start()
        self._server.request_call(queue, queue, None)
        self._channel = grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))
        call: Any = self._channel.unary_stream("/carryover.v1.Wake/Wake")
        self._answer = call(b"")
        until_s = time.time() + _CONNECT_S
        event = queue.poll(deadline=until_s)
        self._server.shutdown(queue, core.nobody_waits)  # it listens no more; the call goes on
        try:
            if event.completion_type == core.TIMEOUT or not event.success:
                raise OSError("expected to reach ourselves through a local socket, got no call")
            self._call = event.call
            self.wake()
            if queue.poll(deadline=until_s).tag is not self._woken:
                raise OSError("expected a batch of no operations to end at once, got no end of it")
        except OSError:
            self.close()
            raise

    def wake(self) -> None:
        """End the wait for the queue; nothing after `close`.

        Raises:
            OSError: gRPC did not take it.
        """
        with self._lock:
            if not self._closed and (code := self._call.start_server_batch((), self._woken)):
                raise OSError(f"expected gRPC to take a batch of no operations, got error {code}")

    def close(self) -> None:
        """End the call."""
        with self._lock:
            self._closed = True
        self._answer.cancel()
        self._channel.close()
        self._server.cancel_all_calls()
