from service.engine.interface import Cancelled, Finished, TokensDecided
from service.engine.pace import Pace


def test_the_hint_follows_the_pace_at_which_requests_end() -> None:
    pace = Pace()
    pace.work(now=-0.5)
    for turn in range(200):
        pace.note([Finished(1, None), Cancelled(2), TokensDecided(3, (4,), (-1.0,))], now=turn * 0.5)
    # Two requests end every half second: of 20 that wait, half are served in 2.5 s.
    assert abs(pace.retry_after_s(20) - 2.5) < 0.01


def test_tokens_alone_are_no_end() -> None:
    pace, silent = Pace(), Pace()
    silent.work(now=-10.0)
    for turn in range(50):
        silent.note([TokensDecided(3, (4,), (-1.0,))], now=turn * 10.0)
    assert silent.retry_after_s(100) == pace.retry_after_s(100)


def test_the_hint_stays_between_its_bounds() -> None:
    pace = Pace()
    assert pace.retry_after_s(0) == 0.05
    assert pace.retry_after_s(10**9) == 30.0


def test_time_in_which_there_was_nothing_to_do_is_not_counted() -> None:
    pace, now = Pace(), 0.0
    for _ in range(200):
        pace.work(now)
        pace.work(now + 0.001)  # the next turn of the same work
        pace.note([Finished(1, None)], now + 0.002)
        pace.rest()
        now += 3600.0
    assert abs(pace.retry_after_s(1000) - 1.0) < 0.01
