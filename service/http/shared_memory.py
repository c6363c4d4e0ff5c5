"""The calls about regions of shared memory."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.http.body import Bodies
from service.http.caller import check_local
from service.http.fields import read_json, take, whole
from service.oip.shared_memory import Regions


class SharedMemoryApi:
    """See the module docstring.

    Args:
        regions: Those that are registered.
        bodies: Reads what comes.
    """

    def __init__(self, regions: Regions, bodies: Bodies) -> None:
        self._regions = regions
        self._bodies = bodies

    async def status(self, request: Request) -> Response:
        """List the regions, or tell of one."""
        check_local(request)
        found = self._regions.status(request.path_params.get("region", ""))
        return JSONResponse(
            [
                {"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.byte_size}
                for region in found
            ]
        )

    async def register(self, request: Request) -> Response:
        """Register a region."""
        check_local(request)
        async with self._bodies.read(request) as body:
            fields = read_json(body)
        name, key = request.path_params["region"], take(fields, "key", str)
        self._regions.register(name, key, whole(fields, "offset", 0), whole(fields, "byte_size"))
        return Response()

    async def unregister(self, request: Request) -> Response:
        """Forget a region, or all."""
        check_local(request)
        async with self._bodies.read(request):
            self._regions.unregister(request.path_params.get("region", ""))
        return Response()
