"""One inference over HTTP, from its body to its answer."""

import asyncio
from functools import partial
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from service.http.body import Bodies
from service.http.caller import caller_of, check_local
from service.http.inference.answer import HEADER_LENGTH, choose_encoding, write_inference
from service.http.inference.raw import read_raw
from service.http.inference.request import Forms, read_header_length, read_inference
from service.oip.core import Core
from service.oip.errors import OipError
from service.oip.messages import InferRequest, InferResponse, Parameters
from service.oip.shared_memory import Regions
from service.oip.shared_memory_tensors import REGION, Place, place_of

OFF_LOOP_BYTES = 128 * 2**10  # of bodies and answers whose reading or writing would hold the others up


class Inference:
    """See the module docstring.

    Args:
        core: What answers.
        bodies: Reads what comes.
        regions: Of shared memory.
    """

    def __init__(self, core: Core, bodies: Bodies, regions: Regions) -> None:
        self._core = core
        self._regions = regions
        self._bodies = bodies

    async def __call__(self, request: Request) -> Response:
        """Answer a request.

        Raises:
            HttpError: HTTP itself has a word for what is wrong with it.
            OipError: It is refused or failed.
            ClientDisconnect: Its caller has gone; it is cancelled.
        """
        encoding = choose_encoding(request.headers)
        async with self._bodies.read(request) as body:
            asked, forms = await self._read(request, body)
            answer = await _unless_gone(self._core.begin(asked), request.receive)
        write = partial(write_inference, answer, forms, encoding)
        if sum(tensor.array.nbytes for tensor in answer.outputs) <= OFF_LOOP_BYTES:
            return write()
        return await asyncio.to_thread(write)

    async def _read(self, request: Request, body: bytes) -> tuple[InferRequest, Forms]:
        model, version = request.path_params["model"], request.path_params.get("version", "")
        caller = caller_of(request)
        try:
            header_length = read_header_length(request.headers.get(HEADER_LENGTH), len(body))
            if header_length == 0 and HEADER_LENGTH in request.headers:
                inputs = self._core.model_metadata(model, version)["inputs"]
                return read_raw(body, cast(list[dict[str, Any]], inputs), model, version, caller)
            place = partial(self._place, request)
            read = partial(read_inference, body, header_length, model, version, caller, place)
            return read() if header_length <= OFF_LOOP_BYTES else await asyncio.to_thread(read)
        except OipError:
            self._core.model_metadata(model, version)  # that there is no such model is what comes first
            raise

    def _place(self, request: Request, name: str, parameters: Parameters) -> Place | None:
        if REGION in parameters:
            check_local(request)
        return place_of(self._regions, name, parameters)


async def _unless_gone(answer: "asyncio.Future[InferResponse]", receive: Receive) -> InferResponse:
    """Wait for an answer, and cancel it where the caller goes first.

    Raises:
        OipError: The request failed.
        ClientDisconnect: The caller has gone.
    """
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        gone.cancel()


async def _gone(receive: Receive) -> None:
    """Wait until the caller has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
