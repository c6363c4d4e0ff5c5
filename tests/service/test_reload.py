"""A service in a process of its own, whose repository changes."""

import signal
from pathlib import Path

import pytest

from carryover.client.sync import Client
from tests.service.bundles import publish_language_model
from tests.service.process import best_of, running, wait_for


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_newer_version_takes_over_on_sighup_and_old_sessions_go_on_with_theirs(tmp_path: Path) -> None:
    served, log = tmp_path / "repository", list[str]()
    publish_language_model(served, "lm", 1)
    ids = [4, 5, 6, 5, 4, 4, 6, 6]
    with running(served) as server, Client(server.address) as client:
        with client.session("lm") as alone:
            first = best_of(alone.step(token_ids=ids, num_top=3))
        with client.session("lm") as old:
            assert best_of(old.step(token_ids=ids[:3], num_top=3)) == first[:3]
            publish_language_model(served, "lm", 2)
            (served / "late" / "1").mkdir(parents=True)  # broken, and no reason to stop
            server.process.send_signal(signal.SIGHUP)
            wait_for(server.process, "reloaded: 1 models are new", log=log)
            assert client.model("lm").ref.version == 2
            assert [(bundle.ref.name, bundle.ref.version) for bundle in client.models().refused] == [("late", 1)]
            assert client.is_serving("lm")
            with client.session("lm") as new:
                second = best_of(new.step(token_ids=ids, num_top=3))
                assert (new.model.version, old.model.version) == (2, 1)
                assert second != first
                assert best_of(old.step(token_ids=ids[3:6], num_top=3)) == first[3:6]
            server.process.send_signal(signal.SIGHUP)  # nothing new; the old version goes on
            wait_for(server.process, "reloaded: 0 models are new", log=log)
            assert best_of(old.step(token_ids=ids[6:], num_top=3)) == first[6:]
            assert not any("version 1: ended" in line for line in log)
            assert old.close() == len(ids)
        wait_for(server.process, "model lm version 1: ended", log=log)
        with client.session("lm") as new:
            assert best_of(new.step(token_ids=ids, num_top=3)) == second
        status, rest = server.stop()
    assert status == 0
    assert "Traceback" not in "".join(log) + rest


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_reload_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    served, log = tmp_path / "repository", list[str]()
    publish_language_model(served, "lm", 1)
    with running(served) as server, Client(server.address) as client:
        served.rename(tmp_path / "elsewhere")
        server.process.send_signal(signal.SIGHUP)
        wait_for(server.process, "could not reload", log=log)
        (tmp_path / "elsewhere").rename(served)
        newer = publish_language_model(served, "lm", 2)
        (newer / "step.onnx").write_bytes(b"cut short")
        server.process.send_signal(signal.SIGHUP)
        wait_for(server.process, "reloaded: 0 models are new", log=log)
        assert any("refused lm version 2" in line for line in log)
        assert client.model("lm").ref.version == 1
        with client.session("lm") as session:
            assert len(session.step(token_ids=[4, 5])) == 2
        status, _ = server.stop()
    assert status == 0
