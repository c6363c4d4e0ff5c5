"""The gRPC server: every method of the proto, health, reflection, and an orderly end."""

import asyncio
import logging
from functools import partial

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.carryover.v1 import carryover_pb2 as pb
from service.listening import check_address
from service.models import Models
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.rpc.boundary import Behaviour, Boundary
from service.rpc.callers import Callers
from service.rpc.catalogue import get_model, list_models
from service.rpc.completion.loop import CompletionLoop
from service.rpc.completion.server import CompletionServer
from service.rpc.departures import expect_departures
from service.rpc.generate import generate
from service.rpc.oip.service import SERVICE as INFERENCE
from service.rpc.oip.service import inference_handlers
from service.rpc.reflection import add_reflection
from service.rpc.score import score
from service.rpc.session import session
from service.rpc.tag import tag
from service.rpc.tag_stream import tag_stream
from service.rpc.transduce import transduce
from service.settings import Settings

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Carryover"]
LINGER_S = 0.1  # after the last call: whoever calls just then is told SHUTTING_DOWN, not cut off
KEEPALIVE_TIME_MS = 60_000  # of silence, after which the other side is asked whether it is still there
KEEPALIVE_TIMEOUT_MS = 20_000  # to answer that
MAX_UNREAD_CALLS = 65_536  # that have arrived and were not looked at yet
CLOSING_GRACE_S = 0.5  # for answers that are on their way when the connections close


class RpcServer:
    """Serves models over gRPC.

    Args:
        settings: Where to listen, and the limits.
        models: What to serve.
        core: The Open Inference Protocol; None: it is not served.
        regions: Of shared memory that its requests may name; None: none.
    """

    def __init__(
        self, settings: Settings, models: Models, core: Core | None = None, regions: Regions | None = None
    ) -> None:
        self._settings = settings
        self._core = core
        self._regions = regions or Regions(enabled=False)
        self._boundary = Boundary(settings.max_calls)
        self._health = health.aio.HealthServicer()
        self._models = models
        self._told: set[str] = set()  # of what health has told something
        options = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),  # answers are bounded by the limits on what was asked
            ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a lottery
            # gRPC itself would cut a flood off with a bare CANCELLED: we refuse with a reason and a time to come back.
            ("grpc.server.max_pending_requests", MAX_UNREAD_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_UNREAD_CALLS),
            # A caller whose machine or network is gone says no goodbye: its sessions end with its connection.
            ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ]
        loop = asyncio.get_running_loop()
        self._server: grpc.aio.Server
        if isinstance(loop, CompletionLoop):
            self._server = CompletionServer(loop, options)
        else:
            self._server = grpc.aio.server(options=options)
        self._add_methods()

    async def start(self) -> int:
        """Listen and answer.

        Returns:
            The port.

        Raises:
            OSError: The address cannot be listened on, or a TLS file cannot be read.
        """
        address, credentials = self._settings.address, self._credentials()
        expect_departures()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError:  # its text is gRPC's own, and does not say why
            check_address(self._settings.host, self._settings.port)
            expected = "an address to listen on" + ("" if credentials is None else ", and PEM files for TLS")
            raise OSError(f"{address}: expected {expected}, got something else") from None
        await self._server.start()
        await self.tell_health()
        return int(port)

    async def tell_health(self) -> None:
        """Say SERVING of the server, the services and each model, and NOT_SERVING of models that were unloaded.

        While it drains the server says what it said.
        """
        if self._boundary.draining.is_set():
            return
        serving = {"", *self._services, *self._models.by_name}
        gone, self._told = self._told - serving, self._told | serving
        for name in serving:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for name in gone:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, linger_s: float = LINGER_S) -> bool:
        """Say NOT_SERVING, refuse what is new, finish what runs, and close.

        Args:
            linger_s: Seconds after the last call before the connections close.

        Returns:
            Whether everything ended within the drain timeout; what did not was told UNAVAILABLE.
        """
        await self._health.enter_graceful_shutdown()
        core = self._core
        if core is None:
            finished = await self._boundary.drain(self._settings.drain_timeout_s)
        else:
            core.drain()
            finished = await self._boundary.drain(
                self._settings.drain_timeout_s, lambda: core.is_quiet(self._settings.drain_idle_s)
            )
        await asyncio.sleep(linger_s)
        await self._server.stop(CLOSING_GRACE_S)
        return finished

    @property
    def in_flight(self) -> int:
        """Calls being answered."""
        return self._boundary.in_flight

    @property
    def draining(self) -> bool:
        """Whether nothing new is admitted."""
        return self._boundary.draining.is_set()

    @property
    def _services(self) -> tuple[str, ...]:
        """Full names of those that answer."""
        return (SERVICE.full_name,) if self._core is None else (SERVICE.full_name, INFERENCE.full_name)

    def _add_methods(self) -> None:
        behaviours: dict[str, Behaviour] = {
            "Tag": partial(tag, self._models),
            "TagStream": partial(tag_stream, self._models, self._settings, self._boundary.draining),
            "Transduce": partial(transduce, self._models),
            "Generate": partial(generate, self._models),
            "Score": partial(score, self._models),
            "Session": partial(session, self._models, self._settings, Callers(), self._boundary.draining),
            "ListModels": partial(list_models, self._models),
            "GetModel": partial(get_model, self._models),
        }
        handlers = {
            method.name: self._boundary.handler(
                behaviours.pop(method.name),
                GetMessageClass(method.input_type),
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
            )
            for method in SERVICE.methods
        }
        assert not behaviours, f"the proto has no method {sorted(behaviours)}"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
        if self._core is not None:
            inference = inference_handlers(self._core, self._regions, self._settings, self._boundary)
            self._server.add_generic_rpc_handlers((inference,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection((*self._services, health.SERVICE_NAME), self._server)

    def _credentials(self) -> grpc.ServerCredentials | None:
        certificate, key = self._settings.tls_certificate, self._settings.tls_private_key
        if certificate is None or key is None:
            return None
        return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
