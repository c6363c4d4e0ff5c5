"""Session commands to messages and events to results: functions that both clients share."""

import uuid
from collections.abc import Mapping, Sequence

from carryover.client import types
from carryover.client.checks import checked, in_range
from carryover.client.errors import CarryoverError, InvalidArgument, SessionExpired, from_session_error
from carryover.client.messages import model_ref, priority, ref
from protos.carryover.v1 import carryover_pb2 as pb

State = bytes | Mapping[str, Sequence[float]]

PAGE_SIZE = 1000
_MAX_MARK = 2**32 - 1


@checked
def open_command(
    model: str, version: int, session_id: str, idle_timeout_s: float | None, state: State | None, rank: types.Priority
) -> pb.SessionCommand:
    """Build the command that opens a session; the state is an exported one, or tensors by name."""
    request = pb.OpenSession(
        model=model_ref(model, version), session_id=session_id, idle_timeout_s=idle_timeout_s, priority=priority(rank)
    )
    if isinstance(state, bytes):
        request.exported_state = state
    elif state is not None:
        tensors = [pb.StateTensor(name=name, values=values) for name, values in state.items()]
        request.initial_state.CopyFrom(pb.InitialState(tensors=tensors))
    return pb.SessionCommand(open=request)


@checked
def step_command(
    session_id: str,
    first_step: int | None,
    tokens: Sequence[str] | None,
    token_ids: Sequence[int] | None,
    num_top: int,
    with_tokens: bool | None,
) -> pb.SessionCommand:
    """Build the command that steps a session; exactly one of tokens and token_ids is given.

    Without a first step, the steps follow whatever was taken before.
    """
    if isinstance(tokens, str):
        raise InvalidArgument(f"tokens: expected a sequence of tokens, got the string {tokens!r}", "INVALID_ARGUMENT")
    if (tokens is None) == (token_ids is None):
        got = "neither" if tokens is None else "both"
        raise InvalidArgument(f"tokens, token_ids: expected exactly one of them, got {got}", "INVALID_ARGUMENT")
    in_range("num_top", num_top, 0, 2**31 - 1)
    for i, token_id in enumerate(token_ids or ()):
        in_range(f"token_ids[{i}]", token_id, 0, 2**63 - 1)
    step = pb.StepSession(
        session_id=session_id,
        tokens=tokens or (),
        token_ids=token_ids or (),
        num_top=num_top,
        first_step=first_step,
        with_tokens=tokens is not None if with_tokens is None else with_tokens,
    )
    return pb.SessionCommand(step=step)


def made_up_name(command: pb.SessionCommand) -> str:
    """Give what an open or fork command starts a name, so that it can be closed even if the answer does not come.

    Returns:
        The name; empty where the command has one, which may be that of a session that is there already.
    """
    name = uuid.uuid4().hex
    if command.HasField("open") and not command.open.session_id:
        command.open.session_id = name
    elif command.HasField("fork") and not command.fork.new_session_id:
        command.fork.new_session_id = name
    else:
        return ""
    return name


def close_command(session_id: str) -> pb.SessionCommand:
    """Build the command that closes a session."""
    return pb.SessionCommand(close=pb.CloseSession(session_id=session_id))


@checked
def fork_command(session_id: str, new_session_id: str) -> pb.SessionCommand:
    """Build the command that starts a session where another is."""
    return pb.SessionCommand(fork=pb.ForkSession(session_id=session_id, new_session_id=new_session_id))


@checked
def mark_command(session_id: str, mark: int) -> pb.SessionCommand:
    """Build the command that remembers where a session is."""
    in_range("mark", mark, 0, _MAX_MARK)
    return pb.SessionCommand(mark=pb.MarkSession(session_id=session_id, mark=mark))


@checked
def rewind_command(session_id: str, mark: int) -> pb.SessionCommand:
    """Build the command that takes a session back."""
    in_range("mark", mark, 0, _MAX_MARK)
    return pb.SessionCommand(rewind=pb.RewindSession(session_id=session_id, mark=mark))


def export_command(session_id: str) -> pb.SessionCommand:
    """Build the command that asks for a session's state."""
    return pb.SessionCommand(export=pb.ExportSession(session_id=session_id))


def list_command(page_token: str) -> pb.SessionCommand:
    """Build the command that asks for a page of the caller's sessions."""
    return pb.SessionCommand(list=pb.ListSessions(page_size=PAGE_SIZE, page_token=page_token))


def answer(event: pb.SessionEvent) -> pb.SessionEvent:
    """Pass an answer on.

    Raises:
        CarryoverError: It tells that the command failed.
    """
    if event.WhichOneof("event") == "error":
        raise from_session_error(event.error)
    return event


def steps(stepped: pb.SessionStepped) -> list[types.StepOutput]:
    """Read the outputs of a step command."""
    return [types.StepOutput(tuple(o.token_ids), tuple(o.log_probs), tuple(o.tokens)) for o in stepped.outputs]


def infos(listed: pb.SessionsListed) -> list[types.SessionInfo]:
    """Read a page of sessions."""
    return [
        types.SessionInfo(
            info.session_id,
            ref(info.model),
            info.age_s,
            info.idle_s,
            info.num_steps,
            info.state_bytes,
            tuple(info.marks),
        )
        for info in listed.sessions
    ]


def expiry(expired: pb.SessionExpired) -> CarryoverError:
    """Build the error that an expired session fails with from now on."""
    return SessionExpired(
        f"session: {expired.session_id!r} ended after {expired.idle_timeout_s:g} s without a command",
        "NOT_FOUND",
        "SESSION_EXPIRED",
    )
