"""ModelInfer: one request, one answer."""

from protos.inference import grpc_service_pb2 as pb
from service.oip.core import Core
from service.oip.shared_memory import Regions
from service.rpc.boundary import Context
from service.rpc.oip.caller import InferenceCaller
from service.rpc.oip.tensors import fill_response, read_request


async def model_infer(
    core: Core, regions: Regions, message: pb.ModelInferRequest, context: Context
) -> pb.ModelInferResponse:
    """Answer one request; a caller that goes away takes it back, and its sequence ends."""
    request, places = read_request(message, InferenceCaller(context, regions))
    answer = await core.begin(request)  # a cancelled task cancels what it awaits
    response = pb.ModelInferResponse()
    fill_response(response, answer, places)
    return response
