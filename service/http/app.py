"""The paths of the protocol, and which part of the core each one asks.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md and the
extensions at https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.errors import ServiceError
from service.http.body import Bodies
from service.http.caller import token_of
from service.http.fields import Fields, parameters, read_json, take
from service.http.inference.call import Inference
from service.http.shared_memory import SharedMemoryApi
from service.http.status import HttpError, error_response
from service.oip.changes import Change, other_repository
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.shared_memory import Regions

Endpoint = Callable[[Request], Awaitable[Response]]


class Api:
    """The protocol's calls but inference.

    Args:
        core: What answers.
        bodies: Reads what comes.
    """

    def __init__(self, core: Core, bodies: Bodies) -> None:
        self._core = core
        self._bodies = bodies

    async def live(self, request: Request) -> Response:
        """Say that there is somebody."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Say whether requests are welcome."""
        ready = self._core.is_ready
        return JSONResponse({"ready": ready}, 200 if ready else 400)

    async def server_metadata(self, request: Request) -> Response:
        """Describe the server."""
        return JSONResponse(self._core.server_metadata())

    async def model_metadata(self, request: Request) -> Response:
        """Describe a model."""
        return JSONResponse(self._core.model_metadata(*_model(request)))

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model answers."""
        name, version = _model(request)
        if not self._core.model_ready(name, version):
            raise HttpError(400, "Model version not ready")
        return JSONResponse({"name": name, "ready": True})

    async def model_config(self, request: Request) -> Response:
        """Tell a model's configuration."""
        return JSONResponse(self._core.model_config(*_model(request)))

    async def statistics(self, request: Request) -> Response:
        """Tell what ran, of a model or of all."""
        return JSONResponse({"model_stats": self._core.statistics(*_model(request))})

    async def index(self, request: Request) -> Response:
        """List the models of the repository."""
        fields = await self._fields(request)
        return JSONResponse(self._core.repository_index(take(fields, "ready", bool, False)))

    async def load(self, request: Request) -> Response:
        """Load a model, or load it again."""
        return await self._change(self._core.load, request)

    async def unload(self, request: Request) -> Response:
        """Take a model out of service."""
        return await self._change(self._core.unload, request)

    async def _change(self, change: Change, request: Request) -> Response:
        fields = await self._fields(request)
        await change(request.path_params["model"], parameters(fields), token_of(request))
        return Response()

    async def _fields(self, request: Request) -> Fields:
        async with self._bodies.read(request) as body:
            return read_json(body)


def make_app(core: Core, regions: Regions, bodies: Bodies) -> Starlette:
    """Make the application.

    Args:
        core: What answers.
        regions: Of shared memory.
        bodies: Reads what comes.
    """
    api = Api(core, bodies)
    memory = SharedMemoryApi(regions, bodies)
    infer = Inference(core, bodies, regions)
    routes = [
        *_both("/infer", infer, "POST"),
        Route("/v2/health/live", _answered(api.live)),
        Route("/v2/health/ready", _answered(api.ready)),
        Route("/v2", _answered(api.server_metadata)),
        # As the reference server has it: the description of a model of that name is to be had by its version.
        Route("/v2/models/stats", _answered(api.statistics)),
        *_both("/ready", api.model_ready),
        *_both("/config", api.model_config),
        *_both("/stats", api.statistics),
        *_both("", api.model_metadata),
        Route("/v2/repository/index", _answered(api.index), methods=["POST"]),
        Route("/v2/repository/models/{model}/load", _answered(api.load), methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", _answered(api.unload), methods=["POST"]),
        Route("/v2/repository/{repository}/index", _answered(_other_repository), methods=["POST"]),
        Route("/v2/repository/{repository}/models/{model}/load", _answered(_other_repository), methods=["POST"]),
        Route("/v2/repository/{repository}/models/{model}/unload", _answered(_other_repository), methods=["POST"]),
        Route("/v2/systemsharedmemory/status", _answered(memory.status)),
        Route("/v2/systemsharedmemory/unregister", _answered(memory.unregister), methods=["POST"]),
        Route("/v2/systemsharedmemory/region/{region}/status", _answered(memory.status)),
        Route("/v2/systemsharedmemory/region/{region}/register", _answered(memory.register), methods=["POST"]),
        Route("/v2/systemsharedmemory/region/{region}/unregister", _answered(memory.unregister), methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_path, Exception: _failed})


def _both(rest: str, endpoint: Endpoint, method: str = "GET") -> list[Route]:
    """Routes of a call about a model, without a version and with one."""
    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [Route(path + rest, _answered(endpoint), methods=[method]) for path in paths]


def _answered(endpoint: Endpoint) -> Endpoint:
    """Answer with what went wrong."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (HttpError, OipError, ServiceError) as error:
            return error_response(error)

    return answered


async def _other_repository(request: Request) -> Response:
    raise other_repository()


def _no_such_path(request: Request, error: Exception) -> Response:
    """Answer what has no route."""
    assert isinstance(error, HTTPException)
    return error_response(HttpError(error.status_code, HTTPStatus(error.status_code).phrase, headers=error.headers))


def _failed(request: Request, error: Exception) -> Response:
    """Answer where a bug has shown; the boundary logs it."""
    return error_response(error)


def _model(request: Request) -> tuple[str, str]:
    return request.path_params.get("model", ""), request.path_params.get("version", "")
