import threading

import pytest

from service.runtime.device.gate import Gate
from service.runtime.errors import RunnerError

PATIENCE_S = 30.0


class Visitor(threading.Thread):
    """Goes through a gate on a thread of its own, and stays until told to leave."""

    def __init__(self, gate: Gate, alone: bool) -> None:
        super().__init__(daemon=True)
        self.gate, self.alone = gate, alone
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.gate.alone() if self.alone else self.gate.shared():
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
    gate = Gate()
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
    gate = Gate(0.01)
    capture = Visitor(gate, alone=True)
    assert capture.inside.wait(PATIENCE_S)
    with pytest.raises(RunnerError, match="got no turn"), gate.alone():
        raise AssertionError
    capture.go()
    with gate.alone():
        pass


def test_nobody_waits_for_ever_and_who_gives_up_is_in_nobodys_way() -> None:
    gate = Gate(0.01)
    inside = Visitor(gate, alone=False)
    assert inside.inside.wait(PATIENCE_S)
    with pytest.raises(RunnerError, match="expected it to be free within 0 s, got no turn"), gate.alone():
        raise AssertionError
    with gate.shared():
        pass
    inside.go()
    capture = Visitor(gate, alone=True)
    assert capture.inside.wait(PATIENCE_S)
    with pytest.raises(RunnerError, match="got no turn"), gate.shared():
        raise AssertionError
    capture.go()
    with gate.alone(), pytest.raises(RuntimeError):
        raise RuntimeError
    with gate.shared():
        pass
