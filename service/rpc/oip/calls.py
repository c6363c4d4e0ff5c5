"""The calls of inference.GRPCInferenceService but those that infer."""

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from protos.inference import grpc_service_pb2 as pb
from service.oip.changes import Change, other_repository
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.messages import Parameter, Parameters
from service.oip.shared_memory import Regions
from service.rpc.boundary import Context
from service.rpc.oip.caller import local_regions, token_of

M = TypeVar("M", bound=Message)


class InferenceCalls:
    """See the module docstring.

    Args:
        core: What answers.
        regions: Of shared memory.
    """

    def __init__(self, core: Core, regions: Regions) -> None:
        self._core = core
        self._regions = regions

    async def server_live(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        """Say that there is somebody."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        """Say whether requests are admitted."""
        return pb.ServerReadyResponse(ready=self._core.is_ready)

    async def model_ready(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        """Say whether a model admits requests."""
        return pb.ModelReadyResponse(ready=self._core.model_ready(request.name, request.version))

    async def server_metadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        """Say who answers."""
        return _fill(pb.ServerMetadataResponse(), self._core.server_metadata())

    async def model_metadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        """Describe a model."""
        return _fill(pb.ModelMetadataResponse(), self._core.model_metadata(request.name, request.version))

    async def model_config(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        """Describe how a model is served."""
        return _fill(pb.ModelConfigResponse(), {"config": self._core.model_config(request.name, request.version)})

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Count what was done."""
        return _fill(
            pb.ModelStatisticsResponse(), {"model_stats": self._core.statistics(request.name, request.version)}
        )

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """List the models that there are."""
        _check_repository(request.repository_name)
        return _fill(pb.RepositoryIndexResponse(), {"models": self._core.repository_index(request.ready)})

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Serve a model."""
        await _change(self._core.load, request, context)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Serve a model no longer."""
        await _change(self._core.unload, request, context)
        return pb.RepositoryModelUnloadResponse()

    async def system_shared_memory_status(
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """List regions."""
        response = pb.SystemSharedMemoryStatusResponse()
        for region in local_regions(context, self._regions).status(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def system_shared_memory_register(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Let requests name a region."""
        regions = local_regions(context, self._regions)
        regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def system_shared_memory_unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forget regions."""
        local_regions(context, self._regions).unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()


def _fill(message: M, fields: Mapping[str, object]) -> M:
    ParseDict(dict(fields), message)
    return message


def _check_repository(name: str) -> None:
    if name:
        raise other_repository()


async def _change(
    change: Change,
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
    context: Context,
) -> None:
    """Load or unload a model."""
    _check_repository(request.repository_name)
    await change(request.model_name, _control_parameters(request.parameters), token_of(context))


def _control_parameters(fields: Mapping[str, pb.ModelRepositoryParameter]) -> Parameters:
    """Values of the parameters of model control.

    Raises:
        OipError: One has no value, or is a file: models come from the repository alone.
    """
    values: dict[str, Parameter] = {}
    for key, field in fields.items():
        choice = field.WhichOneof("parameter_choice")
        if choice is None:
            raise OipError("invalid_argument", f"invalid value type for load parameter '{key}'")
        if choice == "bytes_param":
            raise OipError("unimplemented", f"load parameter '{key}': expected models of the repository, got a file")
        values[key] = getattr(field, choice)
    return values
