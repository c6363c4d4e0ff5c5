from pathlib import Path

import pytest

from service.engine.limits import EngineLimits
from service.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("CARRYOVER_"):
            monkeypatch.delenv(name)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_listen_on_loopback() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.provider, settings.repository) == (
        "127.0.0.1",
        8001,
        "auto",
        Path("repository"),
    )
    assert (settings.num_slots, settings.session_slots) == (1024, 766)  # 3/4 of 1022


@pytest.mark.parametrize(
    ("given", "state_bytes", "sessions"),
    [
        ({}, 2**20, 766 + 1024),  # slots, and what a GiB holds
        ({"max_sessions": 5}, 2**20, 5),
        ({"max_sessions": 2000}, 2**20, 1790),  # more than there is space for
        ({"max_host_state_bytes": 0}, 2**20, 766),
        ({"max_host_state_bytes": 99, "num_slots": 10}, 50, 6 + 1),
        ({"max_host_state_bytes": 99, "num_slots": 10}, 0, 6 + 99),  # a model that keeps nothing
    ],
)
def test_there_are_as_many_sessions_as_slots_and_host_memory_hold(
    given: dict[str, object], state_bytes: int, sessions: int
) -> None:
    assert load_settings(None, **given).session_limit(state_bytes) == sessions


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", "port: 1\nthreads: 2\nlog_level: debug\n"),
        ("s.yml", "port: 1\nthreads: 2\nlog_level: debug\n"),
        ("s.toml", 'port = 1\nthreads = 2\nlog_level = "debug"\n'),
        ("s.env", "CARRYOVER_PORT=1\nCARRYOVER_THREADS=2\nCARRYOVER_LOG_LEVEL=debug\n"),
        (".env", "CARRYOVER_PORT=1\nCARRYOVER_THREADS=2\nCARRYOVER_LOG_LEVEL=debug\n"),
    ],
)
def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    file = written(tmp_path, name, text)
    assert load_settings(file).port == 1
    monkeypatch.setenv("CARRYOVER_THREADS", "3")
    monkeypatch.setenv("CARRYOVER_PORT", "4")
    settings = load_settings(file, port=5, host=None)
    assert (settings.port, settings.threads, settings.log_level, settings.host) == (5, 3, "debug", "127.0.0.1")


def test_numbers_paths_and_empty_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRYOVER_DRAIN_TIMEOUT_S", "2.5")
    monkeypatch.setenv("CARRYOVER_REPOSITORY", "some/where")
    settings = load_settings(written(tmp_path, "empty.yaml", ""))
    assert (settings.drain_timeout_s, settings.repository) == (2.5, Path("some/where"))


def test_the_longest_run_of_an_imported_model_is_half_a_minute_or_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().max_run_s == EngineLimits(session_slots=0, max_sessions=0).max_run_s == 30.0
    monkeypatch.setenv("CARRYOVER_MAX_RUN_S", "0.5")
    assert load_settings().max_run_s == 0.5


def test_names_and_policies_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRYOVER_LOAD_MODELS", "lm, tagger,")
    monkeypatch.setenv("CARRYOVER_VERSION_POLICIES", '{"lm": "specific 1,3"}')
    settings = load_settings(
        written(tmp_path, "s.yaml", "model_control: explicit\nversion_policy: latest 2\nload_models: [g2p]\n")
    )
    assert settings.load_models == ("lm", "tagger")
    assert settings.policy_of("lm").specific == {1, 3}
    assert settings.policy_of("tagger").latest == 2
    monkeypatch.delenv("CARRYOVER_LOAD_MODELS")
    assert load_settings(tmp_path / "s.yaml").load_models == ("g2p",)


@pytest.mark.parametrize(
    ("given", "host", "shares"),
    [
        (None, None, True),
        ("auto", "::1", True),
        ("auto", "localhost", True),
        (None, "0.0.0.0", False),
        ("auto", "::", False),
        ("auto", "service.example", False),
        ("True", "0.0.0.0", True),
        ("1", "0.0.0.0", True),
        ("false", None, False),
    ],
)
def test_memory_is_shared_where_only_this_machine_can_ask_or_where_that_is_said(
    monkeypatch: pytest.MonkeyPatch, given: str | None, host: str | None, shares: bool
) -> None:
    if given is not None:
        monkeypatch.setenv("CARRYOVER_SHARED_MEMORY", given)
    assert load_settings(None, host=host).shares_memory is shares


def test_whether_memory_is_shared_is_read_from_files_too(tmp_path: Path) -> None:
    for text, shares in (("false", False), ("true", True), ("auto", False)):
        file = written(tmp_path, "s.yaml", f"host: 0.0.0.0\nshared_memory: {text}\n")
        assert load_settings(file).shares_memory is shares


def test_other_variables_of_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRYOVER_DEBUG", "1")
    monkeypatch.setenv("CARRYOVER_SETTINGS", "x.yaml")
    assert load_settings().port == 8001


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CARRYOVER_PORT": "abc"}, "CARRYOVER_PORT: expected a valid integer, got 'abc'"),
        ({"CARRYOVER_PORT": "65536"}, "CARRYOVER_PORT: expected less than or equal to 65535, got '65536'"),
        ({"CARRYOVER_PORT": ""}, "CARRYOVER_PORT: expected a valid integer, got ''"),
        ({"CARRYOVER_HOST": ""}, "CARRYOVER_HOST"),
        ({"CARRYOVER_PROVIDER": "tpu"}, "CARRYOVER_PROVIDER: expected 'auto', 'cuda' or 'cpu', got 'tpu'"),
        ({"CARRYOVER_THREADS": "0"}, "CARRYOVER_THREADS: expected greater than or equal to 1, got '0'"),
        ({"CARRYOVER_SESSION_IDLE_TIMEOUT_S": "nan"}, "CARRYOVER_SESSION_IDLE_TIMEOUT_S"),
        ({"CARRYOVER_SESSION_IDLE_TIMEOUT_S": "0"}, "CARRYOVER_SESSION_IDLE_TIMEOUT_S: expected greater than 0"),
        ({"CARRYOVER_PROT": "1"}, "CARRYOVER_PROT: expected one of the settings' names"),
        ({"CARRYOVER_MAX_SESSIONS": "-1"}, "CARRYOVER_MAX_SESSIONS: expected greater than or equal to 0, got '-1'"),
        ({"CARRYOVER_NUM_SLOTS": "7"}, "CARRYOVER_NUM_SLOTS: expected greater than or equal to 8, got '7'"),
        ({"CARRYOVER_MAX_QUEUE_DELAY_MS": "0"}, "CARRYOVER_MAX_QUEUE_DELAY_MS: expected greater than 0, got '0'"),
        ({"CARRYOVER_BATCHING": "steps"}, "CARRYOVER_BATCHING: expected 'step' or 'request', got 'steps'"),
        (
            {"CARRYOVER_MAX_SENTENCE_CHARACTERS": "63"},
            "max_sentence_characters: expected at least max_word_characters = 64, got 63",
        ),
        ({"CARRYOVER_NUM_MEMORY_ROWS": "64"}, "num_memory_rows: expected at least 2 * max_input_tokens = 1024, got 64"),
        ({"CARRYOVER_MODEL_CONTROL": "none"}, "CARRYOVER_MODEL_CONTROL: expected 'fixed', 'poll' or 'explicit', got"),
        (
            {"CARRYOVER_VERSION_POLICY": "newest"},
            "CARRYOVER_VERSION_POLICY: expected latest N, specific N,N or all, got 'newest'",
        ),
        (
            {"CARRYOVER_VERSION_POLICIES": '{"lm": "latest 0"}'},
            "CARRYOVER_VERSION_POLICIES: lm: expected latest N, specific N,N or all, got 'latest 0'",
        ),
        ({"CARRYOVER_LOAD_MODELS": "lm"}, "load_models: expected model_control explicit with it, got fixed"),
        ({"CARRYOVER_MAX_RUN_S": "0"}, "CARRYOVER_MAX_RUN_S: expected greater than 0, got '0'"),
        ({"CARRYOVER_MAX_RUN_S": "3601"}, "CARRYOVER_MAX_RUN_S: expected less than or equal to 3600, got '3601'"),
        ({"CARRYOVER_MAX_RUN_S": "nan"}, "CARRYOVER_MAX_RUN_S"),
        ({"CARRYOVER_SHARED_MEMORY": "maybe"}, "CARRYOVER_SHARED_MEMORY: expected auto, true or false, got 'maybe'"),
        ({"CARRYOVER_TLS_PRIVATE_KEY": "key.pem"}, "tls_certificate and tls_private_key: expected both or neither"),
    ],
)
def test_a_bad_variable_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_two_mistakes_are_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRYOVER_PORT", "x")
    monkeypatch.setenv("CARRYOVER_THREADS", "y")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["CARRYOVER_PORT", "CARRYOVER_THREADS"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("s.yaml", "prot: 1", "prot: expected one of the settings' names"),
        ("s.yaml", "- a", "expected settings as .yaml"),
        ("s.yaml", "port: [1", "expected settings as .yaml"),
        ("s.toml", "port ==", "expected settings as .toml"),
        ("s.toml", 'port = "x"', "port: expected a valid integer, got 'x'"),
        ("s.env", "CARRYOVER_PROT=1", "prot: expected one of the settings' names"),
        ("s.json", "{}", "expected a .yaml, .yml, .toml or .env file"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=r"^[^\n]*$") as caught:
        load_settings(written(tmp_path, name, text))
    assert says in str(caught.value)


def test_a_missing_file_and_an_unknown_override_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"which does not exist"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match=r"colour: expected one of"):
        load_settings(colour="red")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]
