import threading
from collections.abc import Callable

import numpy as np
import pytest

from service.engine.inbox import Inbox
from service.engine.interface import CloseSession, Decode, OpenSession, Request, StepSession
from service.errors import InternalFailure, Overloaded, ShuttingDown


def new(request: int) -> Request:
    return Decode(request, (4,), 1, 1, 0.6, 5)


def step(request: int) -> Request:
    return StepSession(request, 1, {"tokens": np.zeros(1, dtype=np.int64)}, 1, 1)


def make(max_new: int = 2, max_steps: int = 3) -> Inbox:
    return Inbox(max_new, max_steps, lambda waiting: waiting * 0.5)


def test_new_work_is_bounded_with_what_already_waits_inside() -> None:
    inbox = make()
    inbox.put(new(1))
    inbox.put(OpenSession(2, 9))
    with pytest.raises(Overloaded, match="2 requests are waiting") as refusal:
        inbox.put(new(3))
    assert refusal.value.retry_after_s == 1.0
    assert [request.id for request in inbox.take(0)[0]] == [1, 2]
    with pytest.raises(Overloaded):  # taken, but nobody said yet that they run
        inbox.put(new(3))
    inbox.set_backlog(1, 0)
    inbox.put(new(4))
    with pytest.raises(Overloaded):
        inbox.put(new(5))
    assert len(inbox) == 1


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
    inbox.take(0)
    inbox.set_backlog(2, 2)
    inbox.put(step(20))
    with pytest.raises(Overloaded):
        inbox.put(new(21))


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
    assert [request.id for request in inbox.take(0)[0]] == [3]


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
        inbox.take(60.0)
        woken.set()

    waiter = threading.Thread(target=wait, daemon=True)
    if first == "waker":
        WAKERS[waker](inbox)
    waiter.start()
    if first == "waiter":
        WAKERS[waker](inbox)
    assert woken.wait(10.0)
    waiter.join()
