"""Where sessions live, and what is unanswered."""

import pytest

from service.devices.pins import Pins
from service.devices.unanswered import Unanswered
from service.engine.integrity import IntegrityError
from service.engine.interface import CloseSession, Failed, Finished, ForkSession, OpenSession, StepSession
from service.errors import InternalFailure


def test_an_idle_session_is_found_however_many_are_busy() -> None:
    pins = Pins(2)
    for session in range(200):
        pins.add(session, 0).num_unanswered = session != 150
    found = [pins.idle(0) for _ in range(4)]  # it looks at some at a time
    assert found[0] is None and 150 in found
    assert pins.idle(1) is None
    pins.check_integrity()


def test_a_session_is_on_one_device() -> None:
    pins = Pins(2)
    pin = pins.add(7, 0)
    pins.shift(7, 1)
    assert (pins.count(0), pins.count(1), pin.device, pins.idle(1)) == (0, 1, 1, 7)
    pin.device = 0
    with pytest.raises(IntegrityError, match="1 sessions"):
        pins.check_integrity()
    pin.device = 1
    pins.discard(7)
    pins.discard(7)
    assert (len(pins), pins.count(1), pins.get(7)) == (0, 0, None)


def test_a_session_is_idle_once_all_that_it_was_asked_is_answered() -> None:
    pins = Pins(1)
    unanswered = Unanswered(pins, 1, lambda: 0.0)
    opening, fork = OpenSession(1, 100), ForkSession(3, 100, 200)
    pin = pins.add(100, 0)
    unanswered.note(0, opening, pin)
    unanswered.begins(opening)
    unanswered.note(None, StepSession(2, 100, {"tokens": (4,)}, 1, 0), pin)
    unanswered.end(Finished(1, None))
    assert pins.idle(0) is None
    assert unanswered.loads[0].num_unanswered == 0
    unanswered.give(2, 0)
    assert unanswered.loads[0].num_unanswered == 1
    unanswered.end(Finished(2, None))
    assert pins.idle(0) == 100
    unanswered.note(0, fork, pin)
    pins.add(200, 0)
    unanswered.begins(fork)
    assert pins.idle(0) is None
    unanswered.end(Finished(3, None))
    pin.num_unanswered = 1
    assert pins.idle(0) == 200
    unanswered.end(Finished(99, None))  # a bug of ours keeps nobody from his answers
    assert len(unanswered) == 0


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_sessions_end_with_a_close_that_is_done_and_an_open_that_is_not(closes: bool, finished: bool) -> None:
    pins = Pins(1)
    unanswered = Unanswered(pins, 1, lambda: 0.0)
    pin = pins.add(100, 0)
    if closes:
        unanswered.note(0, CloseSession(1, 100), pin)
        assert unanswered.is_close(1)
    else:
        opening = OpenSession(1, 100)
        unanswered.note(0, opening, pin)
        unanswered.begins(opening)
        assert not unanswered.is_close(1)
    unanswered.end(Finished(1, None) if finished else Failed(1, InternalFailure("broken")))
    assert (pins.get(100) is None) == (closes == finished)


def test_a_request_that_a_device_has_refused_is_counted_where_it_was_given_to() -> None:
    pins = Pins(3)
    unanswered = Unanswered(pins, 3, lambda: 0.0)
    opening = OpenSession(1, 100)
    pin = pins.add(100, 2)
    unanswered.note(2, opening, pin)
    unanswered.begins(opening)
    assert (unanswered.opening(1), unanswered.opening(2)) == (opening, None)
    unanswered.give_anew(1, 0)
    assert [load.num_unanswered for load in unanswered.loads] == [1, 0, 0]
    assert [unanswered.was_given(1, device) for device in range(3)] == [True, False, True]
    assert pin.num_unanswered == 1
    unanswered.end(Finished(1, None))
    assert [load.num_unanswered for load in unanswered.loads] == [0, 0, 0]
    assert (unanswered.opening(1), pin.num_unanswered) == (None, 0)
