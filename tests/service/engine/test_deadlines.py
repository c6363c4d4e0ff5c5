from service.engine.deadlines import Deadlines


def test_what_is_due_comes_out_once_and_in_order() -> None:
    deadlines = Deadlines()
    for deadline_s, request in ((3.0, 1), (1.0, 2), (2.0, 3), (9.0, 4)):
        deadlines.add(deadline_s, request)
    assert deadlines.due(0.5) == []
    assert deadlines.due(3.0) == [(1.0, 2), (2.0, 3), (3.0, 1)]
    assert deadlines.due(3.0) == []
