"""Models without state: what is asked, answered and refused."""

import asyncio
from typing import Any

import numpy as np
import pytest

from service import errors
from service.engine.interface import Priority, RunTensors
from service.errors import DeadlineExceeded, InternalFailure, Overloaded, ShuttingDown
from service.oip.codec import MAX_TEXTS
from service.oip.errors import OipError
from service.oip.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from tests.service.oip.asking import MAX_BYTES, refusal, run
from tests.service.oip.world import (
    Entry,
    World,
    identity,
    make_manifest,
    make_world,
    outputs_of,
    spec,
    step,
    tensor,
)


async def test_an_answer_says_which_model_and_request_it_is_of(world: World) -> None:
    response = await world.core.begin(run([[1, 2, 3], [4, 5, 6]]))
    assert (response.model_name, response.model_version, response.id) == ("same", "1", "r1")
    assert outputs_of(response) == {"y": [[1, 2, 3], [4, 5, 6]]}
    assert response.outputs[0].datatype == "FP32"


async def test_a_model_without_state_takes_no_notice_of_sequences(world: World) -> None:
    assert outputs_of(await world.core.begin(run(sequence_id=7))) == {"y": [[1, 2, 3]]}


async def test_priority_goes_to_the_engine_and_a_timeout_is_kept(world: World) -> None:
    engine = world.engines["same", 1]
    engine.hold = True
    answer = world.core.begin(run(priority=1, timeout=1))
    (request,) = engine.submitted
    assert isinstance(request, RunTensors)
    assert request.priority is Priority.HIGH
    with pytest.raises(OipError, match=r"^Request timeout expired$") as caught:
        await answer
    assert caught.value.code == "unavailable"
    assert engine.cancelled == [answer.work]


async def test_inputs_of_unanswered_requests_are_bounded_by_their_bytes() -> None:
    world = make_world(asyncio.get_running_loop(), identity(), max_input_bytes=MAX_BYTES)
    engine = world.engines["same", 1]
    engine.hold = True
    size = 4 * 3 * 4  # bytes of four rows of three
    answers = [world.core.begin(run([[1, 2, 3]] * 4)) for _ in range(MAX_BYTES // size)]
    full = ("unavailable", f"[request id: r1] Exceeds maximum queue size: {MAX_BYTES} bytes of inputs are unanswered")
    assert refusal(world, run([[1, 2, 3]] * 4)) == full
    answers[0].cancel()
    answers.append(world.core.begin(run([[1, 2, 3]] * 4)))
    assert refusal(world, run([[1, 2, 3]] * 4)) == full
    engine.release_all()
    await asyncio.gather(*answers[1:])
    assert outputs_of(await asyncio.wait_for(_released(world, run()), 60)) == {"y": [[1, 2, 3]]}


async def _released(world: World, request: InferRequest) -> InferResponse:
    answer = world.core.begin(request)
    world.engines["same", 1].release_all()
    return await answer


async def test_texts_count_by_their_length() -> None:
    world = make_world(asyncio.get_running_loop(), identity("string"), max_input_bytes=MAX_BYTES)
    array = np.array([[b"x" * MAX_BYTES, b"", b""]], np.object_)
    request = InferRequest("same", "", "", (Tensor("x", "BYTES", array),))
    assert "Exceeds maximum queue size" in refusal(world, request)[1]


@pytest.mark.parametrize(
    ("error", "parameters", "expected"),
    [
        (Overloaded("full", 1), {}, ("unavailable", "[request id: r1] Exceeds maximum queue size: full")),
        (DeadlineExceeded("late"), {}, ("deadline_exceeded", "late")),
        (InternalFailure("secret"), {}, ("internal", "the service failed; its log says why")),
        (
            ShuttingDown("bye"),
            {},
            ("unavailable", "Request for unknown model: 'same' version 1 is not at ready state"),
        ),
    ],
)
async def test_what_the_engine_refuses_is_told_at_once(
    world: World, error: errors.ServiceError, parameters: Any, expected: tuple[str, str]
) -> None:
    world.engines["same", 1].refusals = [error]
    assert refusal(world, run(**parameters)) == expected


async def test_cancelling_stops_the_work(world: World) -> None:
    engine = world.engines["same", 1]
    engine.hold = True
    answer, other = world.core.begin(run()), world.core.begin(run())
    answer.cancel()
    assert engine.cancelled == [answer.work]
    engine.release_all()
    assert (await other).id == "r1"
    assert answer.cancelled()


async def test_classes_of_an_output_may_be_asked_for(world: World) -> None:
    response = await world.core.begin(run([[1, 9, 3]], (RequestedOutput("y", 2),)))
    assert outputs_of(response) == {"y": [[b"9.000000:1", b"3.000000:2"]]}
    assert response.outputs[0].datatype == "BYTES"


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((RequestedOutput("z"),), "unexpected inference output 'z' for model 'same'"),
        ((RequestedOutput("y"), RequestedOutput("y")), "output 'y' already requested for model 'same'"),
        ((RequestedOutput("y", -1),), "output 'y' classification must be 1 to 2147483647, got -1"),
    ],
)
async def test_an_output_that_is_not_there_is_refused(
    world: World, outputs: tuple[RequestedOutput, ...], message: str
) -> None:
    assert refusal(world, run(outputs=outputs)) == ("invalid_argument", message)


@pytest.mark.parametrize("size", [MAX_TEXTS + 1, "K"])
async def test_too_many_classes_are_refused_before_or_after_the_run(size: int | str) -> None:
    manifest = make_manifest(
        "same", "run", [spec("x", "float32", "B", "K")], [spec("y", "float32", "B", size)], max_rows=4
    )
    world = make_world(asyncio.get_running_loop(), manifest)
    with pytest.raises(OipError, match=f"at most {MAX_TEXTS} classes in all, got {MAX_TEXTS + 1}") as caught:
        await world.core.begin(run(np.zeros((1, MAX_TEXTS + 1)), (RequestedOutput("y", 2**31 - 1),)))
    assert caught.value.code == "invalid_argument"
    assert len(world.engines["same", 1].submitted) == (size == "K")
    response = await world.core.begin(run(np.zeros((1, MAX_TEXTS + 1)), (RequestedOutput("y", 2),)))
    assert outputs_of(response) == {"y": [[b"0.000000:0", b"0.000000:1"]]}


async def test_what_has_no_order_has_no_classes() -> None:
    world = make_world(asyncio.get_running_loop(), identity("bool"))
    inputs = (Tensor("x", "BOOL", np.zeros((1, 3), np.bool_)),)
    request = InferRequest("same", "", "", inputs, (RequestedOutput("y", 1),))
    assert refusal(world, request)[1] == "class result not available for output 'y' due to unsupported type 'BOOL'"


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("none", "", ("not_found", "Request for unknown model: 'none' is not found")),
        ("", "", ("not_found", "Request for unknown model: '' is not found")),
        ("none", "3", ("not_found", "Request for unknown model: 'none' is not found")),
        ("sums", "9", ("not_found", "Request for unknown model: 'sums' version 9 is not found")),
        ("late", "", ("not_found", "Request for unknown model: 'late' has no available versions")),
        ("late", "2", ("unavailable", "Request for unknown model: 'late' version 2 is not at ready state")),
        (
            "sums",
            "x",
            (
                "invalid_argument",
                "failed to get model version from specified version string 'x', version should be an integral value "
                "> 0",
            ),
        ),
    ],
)  # fmt: skip
async def test_a_model_that_is_not_served_is_told_in_the_words_of_the_reference_server(
    world: World, name: str, version: str, expected: tuple[str, str]
) -> None:
    world.control.others.append(Entry("late", 2, "LOADING", "opening"))
    assert refusal(world, InferRequest(name, version, "", ())) == expected
    for ask in (world.core.model_metadata, world.core.model_config):
        with pytest.raises(OipError) as caught:
            ask(name, version)
        assert (caught.value.code, caught.value.message) == expected
    if version != "x":
        assert not world.core.model_ready(name, version)


async def test_lengths_that_are_left_out_are_those_of_full_rows_and_wrong_ones_are_refused() -> None:
    manifest = make_manifest(
        "same", "run", [spec("x", "float32", "B", "T"), spec("n", "int32", "B")], [spec("y", "float32", "B", "T")]
    )
    assert manifest.imported is not None
    imported = manifest.imported.model_copy(update={"lengths_input": "n"})
    world = make_world(asyncio.get_running_loop(), manifest.model_copy(update={"imported": imported}))
    await world.core.begin(run([[1, 2], [3, 4]]))
    (request,) = world.engines["same", 1].submitted
    assert isinstance(request, RunTensors)
    assert request.inputs["n"].tolist() == [2, 2]
    assert request.inputs["n"].dtype == np.int32
    for lengths in ([1, 3], [-1, 1]):
        inputs = (tensor("x", [[1, 2], [3, 4]]), tensor("n", lengths, np.int32, "INT32"))
        assert refusal(world, InferRequest("same", "", "", inputs)) == (
            "invalid_argument",
            "input 'n' for model 'same' must have lengths of 0 to 2",
        )


async def test_what_cannot_be_made_an_answer_is_our_own_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engines["same", 1]
    engine.hold = True
    answer = world.core.begin(run())
    request = engine.held[answer.work]
    assert isinstance(request, RunTensors)
    engine.held[answer.work] = RunTensors(request.id, {"x": np.zeros(1)}, {}, 1, ())  # gives no output
    engine.release(answer.work)
    with pytest.raises(OipError, match="its log says why"):
        await answer


async def test_a_server_is_quiet_when_nothing_is_unanswered_and_open_sequences_say_nothing(world: World) -> None:
    core, engine = world.core, world.engine
    assert core.is_quiet(3600)
    engine.hold = True
    answers = [core.begin(run()), core.begin(step(1, [1], start=True)), core.begin(step(2, [1], start=True))]
    await answers[0]
    assert not core.is_quiet(0)
    answers[1].cancel()
    assert not core.is_quiet(0)
    engine.hold = False
    engine.release_all()
    await answers[2]
    assert core.is_quiet(0)
    assert not core.is_quiet(3600)
    await core.begin(step(2, [1], end=True))
    assert core.is_quiet(3600)
    engine.refusals = [Overloaded("full", 1)]
    refusal(world, step(3, [1], start=True))
    assert core.is_quiet(3600)
