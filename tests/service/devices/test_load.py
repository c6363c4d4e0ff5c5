from service.devices.load import Kind, Load


def finish(load: Load, kind: Kind, count: int, took_s: float, now: float) -> float:
    """Have some done one after the other; gives the time after it."""
    for _ in range(count):
        load.begin(kind, now)
        now += took_s
        load.end(kind, finished=True)
        load.note(now)
    return now


def test_who_has_more_to_do_makes_new_work_wait_longer() -> None:
    empty, busy, busier = Load(), Load(), Load()
    for load, count in ((busy, 2), (busier, 5)):
        for _ in range(count):
            load.begin(Kind.WORK, 0.0)
    assert empty.wait_s < busy.wait_s < busier.wait_s


def test_a_slow_device_with_less_to_do_may_be_the_fuller_one() -> None:
    slow, quick = Load(), Load()
    now = max(finish(slow, Kind.WORK, 40, 0.2, 0.0), finish(quick, Kind.WORK, 400, 0.01, 0.0))
    slow.begin(Kind.WORK, now)
    for _ in range(5):
        quick.begin(Kind.WORK, now)
    assert slow.wait_s > quick.wait_s


def test_steps_of_sessions_count_by_their_own_pace() -> None:
    stepping, idle = Load(), Load()
    for _ in range(4):
        stepping.begin(Kind.STEP, 0.0)
    assert stepping.wait_s > idle.wait_s
    working = Load()
    for _ in range(4):
        working.begin(Kind.WORK, 0.0)
    assert stepping.wait_s < working.wait_s  # before any was seen, a step is taken for a tenth of other work
    other = Load()
    other.begin(Kind.OTHER, 0.0)
    assert other.wait_s == idle.wait_s


def test_time_without_anything_to_do_is_nobodys_service_time() -> None:
    load = Load()
    now = finish(load, Kind.WORK, 100, 0.01, 0.0)
    before_s = load.wait_s
    finish(load, Kind.WORK, 1, 0.01, now + 3600.0)
    assert abs(load.wait_s - before_s) < 0.01 * before_s


def test_what_is_cancelled_tells_nothing_of_the_pace_and_waits_no_more() -> None:
    load, fresh = Load(), Load()
    load.begin(Kind.WORK, 0.0)
    load.end(Kind.WORK, finished=False)
    load.note(9.0)
    assert load.wait_s == fresh.wait_s
