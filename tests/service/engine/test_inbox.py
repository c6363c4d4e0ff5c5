import threading
from collections.abc import Callable

import pytest

from service.engine.inbox import Inbox
from service.engine.interface import AnyRequest, CloseSession, Decode, OpenSession, StepSession
from service.engine.pace import Pace
from service.errors import DeadlineExceeded, InternalFailure, Overloaded, ShuttingDown


def new(request: int, deadline_s: float | None = None) -> AnyRequest:
    return Decode(request, (4,), 1, 1, 0.6, 5, deadline_s=deadline_s)


def step(request: int, num_steps: int = 1) -> AnyRequest:
    return StepSession(request, 1, {"tokens": [0] * num_steps}, num_steps, 1)


def make(
    max_new: int = 2, max_steps: int = 3, max_wait_s: float = 60.0, seconds_each: float = 1.0, step_s: float = 0.0
) -> Inbox:
    return Inbox(max_new, max_steps, max_wait_s, Pace(seconds_each), Pace(step_s), clock=lambda: 100.0)


def test_new_work_is_bounded_with_what_already_waits_inside() -> None:
    inbox = make()
    inbox.put(new(1))
    inbox.put(OpenSession(2, 9))  # no work
    inbox.put(new(3))
    with pytest.raises(Overloaded, match="2 requests are waiting") as refusal:
        inbox.put(new(4))
    assert refusal.value.retry_after_s == 1.0  # half of two at a second each
    assert [request.id for request in inbox.take()[0]] == [1, 2, 3]
    with pytest.raises(Overloaded):  # taken, but nobody said yet that they run
        inbox.put(new(4))
    inbox.set_backlog(1, 0, 0)
    inbox.put(new(5))
    with pytest.raises(Overloaded):
        inbox.put(new(6))
    assert (len(inbox), inbox.num_refused) == (1, 3)


def test_steps_are_bounded_apart_and_closes_always_taken() -> None:
    inbox = make()
    for request in (1, 2):
        inbox.put(new(request))
    for request in (3, 4, 5):
        inbox.put(step(request))
    with pytest.raises(Overloaded, match="3 session steps"):
        inbox.put(step(6))
    for request in range(7, 20):
        inbox.put(CloseSession(request, 1))
    inbox.take()
    inbox.set_backlog(2, 2, 2)
    inbox.put(step(20))
    with pytest.raises(Overloaded):
        inbox.put(step(21))
    with pytest.raises(Overloaded):
        inbox.put(new(22))


def test_new_work_that_would_wait_for_too_long_is_refused_though_there_is_room() -> None:
    inbox = make(max_new=100, max_wait_s=2.5)
    for request in range(3):
        inbox.put(new(request))  # the third waits for two seconds
    with pytest.raises(Overloaded, match="would wait for 3 s") as refusal:
        inbox.put(new(3))
    assert refusal.value.retry_after_s == 1.5
    inbox.put(step(4))  # steps are judged by their own pace
    inbox.take()
    inbox.set_backlog(2, 0, 0)
    inbox.put(new(5))


def test_steps_that_would_wait_for_too_long_are_refused_by_their_inputs() -> None:
    inbox = make(max_steps=100, max_wait_s=2.5, step_s=0.5)
    inbox.put(step(1, num_steps=4))
    inbox.put(step(2))  # waits for two seconds
    inbox.put(step(3))
    with pytest.raises(Overloaded, match="a step would wait for 3 s") as refusal:
        inbox.put(step(4))
    assert refusal.value.retry_after_s == 1.5
    inbox.put(new(5))
    inbox.take()
    with pytest.raises(Overloaded):  # taken, but nobody said yet that they ran
        inbox.put(step(6))
    inbox.set_backlog(1, 3, 5)
    inbox.put(step(7))
    with pytest.raises(Overloaded):
        inbox.put(step(8))


def test_whoever_comes_to_an_idle_model_is_taken_however_slow_it_is() -> None:
    inbox = make(max_wait_s=0.001, seconds_each=1000.0, step_s=1000.0)
    inbox.put(new(1))
    inbox.put(step(2, num_steps=50))


def test_a_deadline_that_cannot_be_met_is_refused_before_the_request_waits() -> None:
    inbox = make(max_new=100)
    for request in range(3):
        inbox.put(new(request))
    for deadline_s in (99.0, 100.0, 103.0):  # it is 100, and three wait a second each
        with pytest.raises(DeadlineExceeded, match="3 s that requests wait now"):
            inbox.put(new(3, deadline_s))
    inbox.put(new(4, deadline_s=103.1))
    assert [request.id for request in inbox.take()[0]] == [0, 1, 2, 4]
    assert inbox.num_refused == 0  # the caller's hurry is no overload


def test_a_deadline_of_an_idle_model_is_refused_only_when_it_has_passed() -> None:
    inbox = make()
    inbox.put(new(1, deadline_s=100.001))
    with pytest.raises(DeadlineExceeded):
        make().put(new(2, deadline_s=100.0))


def test_requests_come_before_cancels_of_them() -> None:
    inbox = make()
    inbox.put(new(1))
    inbox.cancel(1)
    inbox.put(step(2))
    requests, cancels = inbox.take()
    assert ([request.id for request in requests], cancels) == ([1, 2], [1])
    assert inbox.take() == ([], [])


def test_a_closed_inbox_takes_nothing_and_says_why_in_an_error_of_its_own() -> None:
    inbox = make()
    inbox.put(step(3))
    inbox.close(lambda: InternalFailure("the model has stopped"))
    inbox.close(lambda: ShuttingDown("later"))  # what was said first stands
    refusals = []
    for request in (new(1), step(5), CloseSession(6, 1)):
        with pytest.raises(InternalFailure, match="the model has stopped") as refusal:
            inbox.put(request)
        refusals.append(refusal.value)
    assert len(set(map(id, refusals))) == 3  # an error that is raised twice grows two tracebacks
    assert [request.id for request in inbox.take()[0]] == [3]


WAKERS: dict[str, Callable[[Inbox], None]] = {
    "put": lambda inbox: inbox.put(new(1)),
    "cancel": lambda inbox: inbox.cancel(1),
    "close": lambda inbox: inbox.close(lambda: ShuttingDown("bye")),
}


@pytest.mark.parametrize("waker", WAKERS)
@pytest.mark.parametrize("first", ["waker", "waiter"])
def test_whoever_waits_for_the_inbox_is_woken_even_by_what_came_just_before(waker: str, first: str) -> None:
    inbox = make()
    woken = threading.Event()

    def wait() -> None:
        assert inbox.wait(60.0)
        woken.set()

    waiter = threading.Thread(target=wait, daemon=True)
    if first == "waker":
        WAKERS[waker](inbox)
    waiter.start()
    if first == "waiter":
        WAKERS[waker](inbox)
    assert woken.wait(10.0)
    waiter.join()


def test_a_wait_that_time_ends_says_so() -> None:
    assert not make().wait(0.001)
