"""Sessions that start from a given state, states taken out, and lists of sessions."""

import asyncio
from typing import Any

import grpc.aio
import pytest

from protos.carryover.v1 import carryover_pb2 as pb
from service.errors import InternalFailure, InvalidInput, Overloaded
from service.rpc.session_state import find_start
from tests.service.oip.world import make_world
from tests.service.rpc.streams import ALICE, BOB, Stream, number, opening
from tests.service.rpc.world import World, wait_until

LM = pb.ModelRef(name="lm")


def initial(*tensors: pb.StateTensor, model: str = "lm") -> dict[str, Any]:
    state = pb.InitialState(tensors=tensors)
    return {"open": pb.OpenSession(model=pb.ModelRef(name=model), initial_state=state)}


def exported(data: bytes, model: pb.ModelRef | None = LM) -> dict[str, Any]:
    return {"open": pb.OpenSession(model=model, exported_state=data)}


async def export(stream: Stream, session: str) -> pb.SessionExported:
    return (await stream.ask(export=pb.ExportSession(session_id=session))).exported


async def test_a_session_starts_from_a_given_state(world: World) -> None:
    stream = Stream(world)
    opened = (await stream.ask(**initial(pb.StateTensor(name="total", values=[40])))).opened
    assert opened.num_steps == 0
    assert (await stream.step(opened.session_id, 3)).outputs[0].token_ids == [43 % 3]
    assert world.engines["lm"].sessions[number(opened.session_id)].total == 43


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([pb.StateTensor(name="nope", values=[1])], "tensors[0].name: expected one of total, each at most once"),
        ([pb.StateTensor(name="total", values=[1])] * 2, "tensors[1].name: expected one of total, each at most once"),
        ([pb.StateTensor(name="total", values=[1, 2])], "tensors[0].values: expected 1 values, the shape being [1]"),
        ([pb.StateTensor(name="total", values=[float("inf")])], "tensors[0].values: expected finite values"),
    ],
)
async def test_a_given_state_that_does_not_fit_is_refused(
    world: World, tensors: list[pb.StateTensor], says: str
) -> None:
    stream = Stream(world)
    error = await stream.fails(**initial(*tensors))
    assert (error.reason, says in error.message) == ("INVALID_INPUT", True), error
    assert world.engines["lm"].submitted == []


async def test_an_exported_state_goes_on_elsewhere_with_or_without_naming_the_model(world: World) -> None:
    stream, other = Stream(world, ALICE), Stream(world, BOB)
    session = await stream.open()
    await stream.step(session, 4, 5)
    taken = await export(stream, session)
    assert (taken.session_id, taken.num_steps) == (session, 2)
    await stream.step(session, 6)
    for model in (None, LM, pb.ModelRef(name="lm", version=3)):
        opened = (await other.ask(**exported(taken.state, model))).opened
        assert (opened.model, opened.num_steps) == (pb.ModelRef(name="lm", version=3), 2)
        stepped = await other.step(opened.session_id, 1)
        assert (stepped.num_steps, list(stepped.outputs[0].token_ids)) == (3, [10 % 3])


async def test_a_state_of_another_model_or_version_is_refused(world: World) -> None:
    stream = Stream(world)
    state = (await export(stream, await stream.open())).state
    error = await stream.fails(**exported(state, pb.ModelRef(name="tagger")))
    assert "a state of model 'tagger' version 3, got one of 'lm' version 3" in error.message
    assert error.reason == "INVALID_INPUT"
    older = state.replace(b'"version":"3"', b'"version":"2"')
    assert older != state
    assert (await stream.fails(**exported(older))).reason == "INVALID_INPUT"
    assert (await stream.fails(**exported(older, None))).reason == "MODEL_NOT_FOUND"
    gone = state.replace(b'"model":"lm"', b'"model":"ml"')
    assert (await stream.fails(**exported(gone, None))).reason == "MODEL_NOT_FOUND"
    changed = bytes([*state[:-1], state[-1] ^ 1])
    assert "the SHA-256 that it names" in (await stream.fails(**exported(changed))).message
    assert "open.exported_state" in (await stream.fails(**exported(b""))).message


async def pages(stream: Stream, size: int) -> list[list[str]]:
    found: list[list[str]] = []
    token = ""
    while not found or token:
        listed = (await stream.ask(list=pb.ListSessions(page_size=size, page_token=token))).listed
        found.append([info.session_id for info in listed.sessions])
        token = listed.next_page_token
    return found


async def test_a_caller_lists_its_own_sessions_and_nobody_elses(world: World) -> None:
    alice, bob = Stream(world, ALICE), Stream(world, BOB)
    assert await pages(alice, 0) == [[]]
    mine = [await alice.open("tagger" if i % 3 == 0 else "lm") for i in range(7)]
    await bob.open()
    await alice.step(mine[1], 4, 5)
    await alice.ask(mark=pb.MarkSession(session_id=mine[1], mark=8))
    listed = (await alice.ask(list=pb.ListSessions())).listed
    assert [info.session_id for info in listed.sessions] == mine
    assert [info.model.name for info in listed.sessions] == ["tagger", "lm", "lm"] * 2 + ["tagger"]
    info = listed.sessions[1]
    assert (info.age_s, info.idle_s, info.num_steps, info.state_bytes, list(info.marks)) == (9, 2.5, 2, 16, [8])
    assert await pages(alice, 3) == [mine[:3], mine[3:6], mine[6:]]
    assert await pages(alice, 7) == [mine]
    await alice.ask(close=pb.CloseSession(session_id=mine[2]))
    assert await pages(alice, 2) == [[mine[0], mine[1]], [mine[3], mine[4]], mine[5:]]
    for size, token in ((-1, ""), (1001, ""), (1, "x"), (1, "-1"), (1, "9" * 30)):
        action = {"list": pb.ListSessions(page_size=size, page_token=token)}
        assert (await alice.fails(**action)).reason == "INVALID_INPUT"


async def test_a_list_that_an_engine_refuses_is_an_error_and_counts_no_more(world: World) -> None:
    stream = Stream(world)
    await stream.open("lm")
    await stream.open("tagger")
    world.engines["tagger"].refusals = [Overloaded("full", 1.0)]
    assert (await stream.fails(list=pb.ListSessions())).reason == "OVERLOADED"
    engine = world.engines["lm"]
    engine.hold = True
    sent = await stream.send(list=pb.ListSessions())
    await wait_until(lambda: engine.held)
    engine.fail(next(iter(engine.held)), InternalFailure("a bug"))
    engine.hold = False
    assert (await stream.answer(sent)).error.reason == "INTERNAL"
    assert len((await stream.ask(list=pb.ListSessions())).listed.sessions) == 2
    await stream.call.done_writing()
    assert await stream.call.read() is grpc.aio.EOF  # nothing is left in flight


async def test_an_imported_model_is_not_stepped_in_tokens_and_the_refusal_says_what_it_is_stepped_by() -> None:
    models = make_world(asyncio.get_running_loop()).models
    with pytest.raises(InvalidInput) as caught:
        find_start(models, pb.OpenSession(model=pb.ModelRef(name="sums")))
    assert str(caught.value) == (
        "open.model: expected a model that can be stepped in tokens, got 'sums', "
        "an imported one: see the Open Inference Protocol"
    )


@pytest.mark.parametrize("model", ["g2p", "bitagger"])
async def test_a_model_without_steps_of_tokens_opens_no_session(world: World, model: str) -> None:
    error = await Stream(world).fails(open=opening(model))
    assert error.message == f"open.model: expected a model that can be stepped in tokens, got '{model}', which cannot"


async def test_nothing_is_opened_or_forked_while_the_service_ends(world: World) -> None:
    stream = Stream(world)
    session = await stream.open()
    world.server._boundary.draining.set()
    assert (await stream.fails(open=opening("lm"))).reason == "SHUTTING_DOWN"
    assert (await stream.fails(fork=pb.ForkSession(session_id=session))).reason == "SHUTTING_DOWN"
    assert (await export(stream, session)).state
