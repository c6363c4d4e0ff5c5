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


def test_batches_that_end_soon_after_one_another_do_not_make_the_engine_look_quick() -> None:
    """As with two runners: 20 end, 20 more a moment later, then none for long. Each takes 1 ms all the time."""
    pace, now = Pace(0.001), 0.0
    pace.work(now)
    for turn in range(200):
        now += (0.037, 0.003)[turn % 2]
        pace.note(20, now)
        if turn > 20:
            assert 0.8 < pace.wait_s(1000) < 1.25


def test_a_new_pace_is_seen_within_a_second_of_work() -> None:
    pace, now = Pace(0.001), 0.0
    pace.work(now)
    for each_s in (0.004, 0.0005):
        for _ in range(round(1.0 / each_s)):
            now += each_s
            pace.note(1, now)
        assert 0.8 * each_s < pace.wait_s(1) < 1.7 * each_s


def test_the_hint_is_half_the_wait_between_its_bounds() -> None:
    assert retry_after_s(5.0) == 2.5
    assert retry_after_s(0.0) == 0.05
    assert retry_after_s(10**9) == 30.0


def test_time_in_which_there_was_nothing_to_do_is_not_counted() -> None:
    pace, now = Pace(1.0), 0.0
    for _ in range(2000):
        pace.work(now)
        pace.work(now + 0.001)  # the next turn of the same work
        pace.note(1, now + 0.002)
        pace.rest()
        now += 3600.0
    assert abs(pace.wait_s(1000) - 2.0) < 0.01
