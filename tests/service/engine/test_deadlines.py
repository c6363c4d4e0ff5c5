from service.engine.deadlines import Deadlines


def test_what_is_due_comes_out_once_and_in_order() -> None:
    deadlines = Deadlines(lambda _: True)
    for deadline_s, request in ((3.0, 1), (1.0, 2), (2.0, 3), (9.0, 4)):
        deadlines.add(deadline_s, request)
    assert deadlines.due(0.5) == []
    assert deadlines.due(3.0) == [(1.0, 2), (2.0, 3), (3.0, 1)]
    assert deadlines.due(3.0) == []


def test_those_that_ended_are_swept_out() -> None:
    here = set(range(0, 20_000, 10))
    deadlines = Deadlines(here.__contains__)
    for request in range(20_000):
        deadlines.add(1e9 - request, request)
    assert len(deadlines) < 2 * len(here) + 256
    assert {request for _, request in deadlines.due(2e9)} >= here
