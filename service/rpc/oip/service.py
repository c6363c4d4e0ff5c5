"""inference.GRPCInferenceService as methods of the server."""

from functools import partial

import grpc
from google.protobuf.message_factory import GetMessageClass

from protos.inference import grpc_service_pb2 as pb
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.rpc.boundary import Behaviour, Boundary
from service.rpc.oip.calls import InferenceCalls
from service.rpc.oip.infer import model_infer
from service.rpc.oip.infer_stream import model_stream_infer
from service.rpc.oip.status import describe_inference
from service.settings import Settings

HEALTH = frozenset({"ServerLive", "ServerReady", "ModelReady"})
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def inference_handlers(core: Core, regions: Regions, settings: Settings, boundary: Boundary) -> grpc.GenericRpcHandler:
    """Make the handlers of all methods.

    Calls are admitted while the service drains: sequences that have begun may go on, and the core refuses new ones.
    """
    calls = InferenceCalls(core, regions)
    behaviours: dict[str, Behaviour] = {
        "ServerLive": calls.server_live,
        "ServerReady": calls.server_ready,
        "ModelReady": calls.model_ready,
        "ServerMetadata": calls.server_metadata,
        "ModelMetadata": calls.model_metadata,
        "ModelInfer": partial(model_infer, core, regions),
        "ModelStreamInfer": partial(model_stream_infer, core, regions, settings, boundary.draining),
        "ModelConfig": calls.model_config,
        "ModelStatistics": calls.model_statistics,
        "RepositoryIndex": calls.repository_index,
        "RepositoryModelLoad": calls.repository_model_load,
        "RepositoryModelUnload": calls.repository_model_unload,
        "SystemSharedMemoryStatus": calls.system_shared_memory_status,
        "SystemSharedMemoryRegister": calls.system_shared_memory_register,
        "SystemSharedMemoryUnregister": calls.system_shared_memory_unregister,
    }
    handlers = {
        method.name: boundary.handler(
            behaviours.pop(method.name),
            GetMessageClass(method.input_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
            describe=describe_inference,
            while_draining=True,
            is_health=method.name in HEALTH,
        )
        for method in SERVICE.methods
    }
    assert not behaviours, f"the proto has no method {sorted(behaviours)}"
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)
