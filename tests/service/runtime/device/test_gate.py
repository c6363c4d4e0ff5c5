"""Who goes through the gate, and in which order."""

import threading

import pytest

from service.runtime.device.gate import Gate, NoTurn
from service.runtime.errors import RunnerError

PATIENCE_S = 30.0
FOR_EVER_S = 3600.0


class Visitor(threading.Thread):
    """Goes through a gate on a thread of its own, and stays until told to leave."""

    def __init__(self, gate: Gate, alone: bool, wait_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.gate, self.alone, self.wait_s = gate, alone, wait_s
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.gate.alone(self.wait_s) if self.alone else self.gate.shared():
            self.inside.set()
            self.leave.wait(PATIENCE_S)

    def go(self) -> None:
        self.leave.set()
        self.join(PATIENCE_S)
        assert not self.is_alive()


def until_capturing(gate: Gate) -> None:
    """Wait until somebody wants to be alone."""
    with gate._changed:
        while not gate._capturing:
            gate._changed.wait(0.01)


def test_many_go_through_at_a_time() -> None:
    gate = Gate()
    visitors = [Visitor(gate, alone=False) for _ in range(3)]
    assert all(visitor.inside.wait(PATIENCE_S) for visitor in visitors)
    for visitor in visitors:
        visitor.go()


def test_a_capture_waits_for_those_inside_and_goes_before_those_who_come() -> None:
    gate = Gate(press_s=PATIENCE_S)
    first = Visitor(gate, alone=False)
    assert first.inside.wait(PATIENCE_S)
    capture = Visitor(gate, alone=True)
    until_capturing(gate)
    late = Visitor(gate, alone=False)
    assert not capture.inside.is_set() and not late.inside.is_set()
    first.go()
    assert capture.inside.wait(PATIENCE_S)
    assert not late.inside.is_set()
    capture.go()
    assert late.inside.wait(PATIENCE_S)
    late.go()


def test_captures_are_alone_among_themselves_too() -> None:
    gate = Gate(patience_s=0.01)
    capture = Visitor(gate, alone=True)
    assert capture.inside.wait(PATIENCE_S)
    with pytest.raises(NoTurn), gate.alone():
        raise AssertionError
    capture.go()
    with gate.alone():
        pass


def test_nobody_waits_for_ever_and_who_gives_up_is_in_nobodys_way() -> None:
    gate = Gate(patience_s=0.01, press_s=0.01)
    inside = Visitor(gate, alone=False)
    assert inside.inside.wait(PATIENCE_S)
    with pytest.raises(NoTurn, match="expected a moment without other runs, to capture in, got none"), gate.alone():
        raise AssertionError
    with gate.shared():
        pass
    inside.go()
    capture = Visitor(gate, alone=True)
    assert capture.inside.wait(PATIENCE_S)
    with pytest.raises(RunnerError, match="expected a capture to end within 0 s, got no turn"), gate.shared():
        raise AssertionError
    capture.go()
    with gate.alone(), pytest.raises(RuntimeError):
        raise RuntimeError
    with gate.shared():
        pass


def test_a_capture_that_waited_in_vain_is_followed_by_a_time_in_which_none_keeps_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(press_s=0.01, pause_s=FOR_EVER_S)
    inside = Visitor(gate, alone=False)
    assert inside.inside.wait(PATIENCE_S)
    with pytest.raises(NoTurn), gate.alone():
        raise AssertionError
    with monkeypatch.context() as patch:
        patch.setattr(gate._changed, "wait_for", lambda condition, _: condition() or pytest.fail("it waits"))
        with pytest.raises(NoTurn), gate.alone():
            raise AssertionError
    inside.go()
    with gate.alone():
        pass


def test_a_capture_with_patience_lets_others_pass_and_goes_when_all_have_left() -> None:
    gate = Gate(press_s=0.01, pause_s=FOR_EVER_S)
    first = Visitor(gate, alone=False)
    assert first.inside.wait(PATIENCE_S)
    capture = Visitor(gate, alone=True, wait_s=FOR_EVER_S)
    with gate._changed:
        while not gate._press_from:
            gate._changed.wait(0.01)
    second = Visitor(gate, alone=False)
    assert second.inside.wait(PATIENCE_S)
    first.go()
    assert not capture.inside.is_set()
    second.go()
    assert capture.inside.wait(PATIENCE_S)
    late = Visitor(gate, alone=False)
    assert not late.inside.is_set()
    capture.go()
    late.go()


def test_captures_wait_for_one_another_in_nobodys_way() -> None:
    gate = Gate(press_s=0.01)
    first = Visitor(gate, alone=True)
    assert first.inside.wait(PATIENCE_S)
    second = Visitor(gate, alone=True)
    assert not second.inside.wait(0.1)  # longer than it would keep others out
    first.go()
    assert second.inside.wait(PATIENCE_S)
    second.go()


def test_memory_is_given_back_while_nobody_captures() -> None:
    gate = Gate()
    done: list[str] = []
    gate.later(lambda: done.append("nobody was inside"))
    assert done == ["nobody was inside"]
    with gate.alone():
        gate.later(lambda: done.append("after a capture"))
        assert len(done) == 1
    assert len(done) == 1
    with gate.shared():
        assert done[1:] == ["after a capture"]  # before more is allocated
        gate.later(lambda: done.append("after a run"))
        assert len(done) == 2
    assert done[2:] == ["after a run"]
    with gate.alone():
        pass


def test_a_thread_that_cannot_have_the_lock_leaves_it_to_others() -> None:
    gate = Gate()
    done: list[int] = []
    thread = threading.Thread(target=gate.later, args=(lambda: done.append(1),), daemon=True)
    with gate._changed:
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive() and done == []
    with gate.shared():
        assert done == [1]


def test_what_cannot_be_given_back_is_said_and_keeps_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    done: list[int] = []

    def fail() -> None:
        raise RunnerError("cudaFree: expected success")

    with gate.shared():
        gate.later(fail)
        gate.later(lambda: done.append(1))
    assert done == [1]
    assert caplog.messages == ["the GPU: what nobody holds was not given back: cudaFree: expected success"]
    with gate.alone():
        pass
