"""ModelInfer: one request, one answer."""

from protos.inference import grpc_service_pb2 as pb
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.messages import InferRequest
from service.oip.shared_memory import Regions
from service.rpc.boundary import Context
from service.rpc.oip.caller import InferenceCaller
from service.rpc.oip.tensors import Places, fill_response, read_request


async def model_infer(
    core: Core, regions: Regions, message: pb.ModelInferRequest, context: Context
) -> pb.ModelInferResponse:
    """Answer one request; a caller that goes away takes it back, and its sequence ends."""
    request, places = read_known(core, message, InferenceCaller(context, regions))
    answer = await core.begin(request)  # a cancelled task cancels what it awaits
    response = pb.ModelInferResponse()
    fill_response(response, answer, places)
    return response


def read_known(core: Core, message: pb.ModelInferRequest, caller: InferenceCaller) -> tuple[InferRequest, Places]:
    """Read a request.

    Raises:
        OipError: There is no such model, which is told first as the reference server does; or the request is malformed.
    """
    try:
        return read_request(message, caller)
    except OipError:
        core.model_metadata(message.model_name, message.model_version)
        raise
