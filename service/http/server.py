"""The HTTP server of the Open Inference Protocol: uvicorn's connections on the service's own event loop."""

import asyncio
import logging
import socket

import uvicorn

from service.descriptors import max_http_connections
from service.http.app import make_app
from service.http.body import Bodies, BodyLimits
from service.http.boundary import Boundary
from service.http.connection import Connection, Connections
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 2048
HEAD_TIMEOUT_S = 10.0  # for the head of a request, which no honest caller writes by hand
IDLE_TIMEOUT_S = 600  # of a connection without requests; callers keep theirs in pools
HANDSHAKE_TIMEOUT_S = 10.0
LOOK_S = 0.02  # between looks at whether sequences are still going on
LINGER_S = 0.1  # after the last request: whoever asks just then is told that the service ends, not cut off
CLOSING_GRACE_S = 0.5  # for answers that are on their way when the connections close
LEAST_HELD_BYTES = 256 * 2**20  # of request bodies at a time


class HttpServer:
    """Serves the protocol over HTTP.

    Args:
        settings: Where to listen, and the limits.
        core: What answers.
        regions: Of shared memory.
    """

    def __init__(self, settings: Settings, core: Core, regions: Regions) -> None:
        self._settings = settings
        self._core = core
        most = settings.max_message_bytes
        limits = BodyLimits(most, max(LEAST_HELD_BYTES, 2 * most), settings.slow_reader_timeout_s)
        self._boundary = Boundary(make_app(core, regions, Bodies(limits)), settings.max_calls)
        most_connections = max_http_connections(2 * settings.max_calls)
        self._connections = Connections(most_connections, HEAD_TIMEOUT_S, settings.slow_reader_timeout_s)
        self._server: asyncio.Server | None = None

    @property
    def in_flight(self) -> int:
        """Requests being answered."""
        return self._boundary.in_flight

    async def start(self) -> int:
        """Listen and answer.

        Returns:
            The port.

        Raises:
            OSError: The address cannot be listened on, or a TLS file cannot be read.
        """
        config = self._config()
        listener = _listen(self._settings.host, self._settings.http_port)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(config, self._connections),
            sock=listener,
            ssl=config.ssl,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if config.ssl else None,
            backlog=BACKLOG,
        )
        return int(listener.getsockname()[1])

    async def stop(self, linger_s: float = LINGER_S) -> bool:
        """Say that the service is not ready, let sequences and requests come to their end, and close.

        Args:
            linger_s: Seconds after the last request before the connections close.

        Returns:
            Whether everything ended within the drain timeout; what did not was told 503.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._settings.drain_timeout_s
        self._core.drain()
        while not self._core.is_quiet(self._settings.drain_idle_s) and loop.time() < end_s:
            await asyncio.sleep(LOOK_S)
        finished = await self._boundary.drain(max(0.0, end_s - loop.time()))
        await asyncio.sleep(linger_s)
        if self._server is not None:
            self._server.close()
        await self._connections.close(CLOSING_GRACE_S)
        return finished

    def _config(self) -> uvicorn.Config:
        """What uvicorn is told.

        Raises:
            OSError: A TLS file cannot be read.
        """
        certificate, key = self._settings.tls_certificate, self._settings.tls_private_key
        config = uvicorn.Config(
            self._boundary,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_TIMEOUT_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        try:
            config.load()
        except OSError as error:
            expected = f"expected PEM files for TLS in {certificate} and {key}"
            raise OSError(f"{expected}, got: {error.strerror or error}") from None
        return config


def _listen(host: str, port: int) -> socket.socket:
    """Take an address.

    Raises:
        OSError: It cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio asks of which protocol: no delay
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # as gRPC listens
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: expected an address to listen on, got: {error.strerror or error}") from None
    return listener
