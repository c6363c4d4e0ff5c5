"""The load generator against a real server."""

from pathlib import Path

import pytest

from bench.ceiling import Ceiling
from bench.load import CHECKED_STEPS, drive
from bench.server import serving
from bench.step_model import NAME


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "streams"), [(1, 1), (3, 2)])
async def test_every_session_is_answered_as_by_the_runtime_alone(
    steps: int, streams: int, bundle: Path, tmp_path: Path
) -> None:
    sessions, seconds = 5, 0.5
    with serving(bundle.parents[1], 1, tmp_path / "server.log", num_slots=20) as address:
        result = await drive(address, NAME, sessions, seconds, steps, streams, vocabulary=30)
    checked, latencies, rate = result["checked"], result["latencies_ms"], result["steps_per_s"]
    assert isinstance(checked, dict) and isinstance(latencies, list) and isinstance(rate, float)
    assert set(checked) == {0, sessions - 1}
    ceiling = Ceiling.open(bundle, threads=1, slots=3)
    for session, got in checked.items():
        assert 0 < len(got) < CHECKED_STEPS + steps and len(got) % steps == 0
        assert got == ceiling.answers(session, len(got))
    assert latencies == sorted(latencies) and latencies[0] > 0
    assert rate == pytest.approx(len(latencies) * steps / seconds)


@pytest.mark.slow
def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit, match=r"(?s)the server did not start:.*nowhere"),
        serving(tmp_path / "nowhere", 1, tmp_path / "server.log"),
    ):
        raise AssertionError("unreachable")
