from service.engine.pace import Pace, retry_after_s


def test_the_wait_follows_the_pace_at_which_requests_end() -> None:
    pace = Pace(100.0)
    pace.work(now=-0.5)
    for turn in range(200):
        pace.note(2, now=turn * 0.5)
    # Two end every half second.
    assert abs(pace.wait_s(20) - 5.0) < 0.01


def test_what_is_given_holds_until_something_was_seen() -> None:
    pace = Pace(0.002)
    assert pace.wait_s(100) == 0.2
    pace.work(now=0.0)
    pace.note(0, now=1000.0)
    assert pace.wait_s(100) == 0.2
    for turn in range(60):  # each took a thousand seconds
        pace.note(1, now=1000.0 * (turn + 1))
    assert 900 < pace.wait_s(1) < 1001


def test_one_pause_of_the_machine_does_not_make_everything_look_slow() -> None:
    pace, now = Pace(0.001), 0.0
    pace.work(now)
    for turn in range(300):
        now += 3.0 if turn == 200 else 0.001
        pace.note(1, now)
        assert pace.wait_s(100) < 1.0


def test_many_that_end_at_once_are_as_many_observations() -> None:
    one, many = Pace(1.0), Pace(1.0)
    for pace, count in ((one, 1), (many, 20)):
        pace.work(now=0.0)
        pace.note(count, now=0.001 * count)
    assert many.wait_s(1) < 0.2 < 0.8 < one.wait_s(1)


def test_the_hint_is_half_the_wait_between_its_bounds() -> None:
    assert retry_after_s(5.0) == 2.5
    assert retry_after_s(0.0) == 0.05
    assert retry_after_s(10**9) == 30.0


def test_time_in_which_there_was_nothing_to_do_is_not_counted() -> None:
    pace, now = Pace(1.0), 0.0
    for _ in range(200):
        pace.work(now)
        pace.work(now + 0.001)  # the next turn of the same work
        pace.note(1, now + 0.002)
        pace.rest()
        now += 3600.0
    assert abs(pace.wait_s(1000) - 2.0) < 0.01
