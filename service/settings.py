"""The service's settings: one model, read once at start from the command line, the environment and a file.

The command line wins over the environment (`CARRYOVER_<NAME>`), the environment over the file, the file over the
defaults. An unknown `CARRYOVER_*` variable, an unknown key and a bad value are errors that name the setting and say
what was expected and what was got.
"""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from service.caller import is_loopback
from service.lifecycle.versions import VersionPolicy

PREFIX = "CARRYOVER_"
NOT_SETTINGS = frozenset({"CARRYOVER_DEBUG", "CARRYOVER_SETTINGS"})  # read by the command, not here
MOST_SESSIONS = 2**24
AUTO: Final = "auto"
RESERVED_SLOTS = 2  # 0 the initial state, 1 scratch
CPU_DEVICE: Final = "cpu"  # in place of the number of a GPU
MOST_DEVICES: Final = 64
_MOST_SHOWN: Final = 60  # characters of a list that is too long

_BOOL = TypeAdapter(bool)


class SettingsError(ValueError):
    """A setting is unknown or has an impossible value. One line a setting: name, expected, got."""


class Settings(BaseSettings):
    """How to serve. Every name is also an environment variable with the prefix `CARRYOVER_`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=False)

    repository: Path = Field(default=Path("repository"), description="folder of the model bundles")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8001, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    http: bool = Field(default=True, description="serve the Open Inference Protocol over HTTP too")
    http_port: int = Field(default=8000, ge=0, le=65535, description="port of that; 0 takes a free one")
    tls_certificate: Path | None = Field(default=None, description="PEM certificate chain; absent: no TLS")
    tls_private_key: Path | None = Field(default=None, description="PEM key of the certificate")
    provider: Literal["auto", "cuda", "cpu"] = Field(
        default="auto",
        description="auto: CUDA where it works, but for models measured to be no slower on the CPU; cuda: refuse to "
        "start without it",
    )
    devices: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="GPUs to serve each model on: numbers between commas, as 0,1; sessions are spread over them; "
        "absent: GPU 0; cpu,cpu: that many engines on the CPU, to try it",
    )
    runners: int = Field(
        default=0,
        ge=0,
        le=256,
        description="runs of a model side by side on a device; 0: one a core, or 1 on a GPU; "
        "always 1 where CUDA graphs are replayed",
    )
    threads: int = Field(default=1, ge=1, le=1024, description="intra-op threads of each run's arithmetic")
    cuda_graphs: bool = Field(
        default=True, description="whether a GPU replays the captured launches of a step where that can be done"
    )
    tf32: bool = Field(
        default=False,
        description="whether a GPU may round the factors of products to 10 bits of mantissa: quicker, and answers then "
        "differ from those of the export's checks",
    )

    event_loop: Literal["completion", "uvloop"] = Field(
        default="completion",
        description="completion: wait for gRPC's own queue, which costs least a message; uvloop: grpc.aio's server, "
        "which uses nothing of gRPC's inside",
    )
    max_message_bytes: int = Field(default=4 * 2**20, ge=1024, le=2**31 - 1, description="bytes of one request message")
    max_input_tokens: int = Field(default=512, ge=1, le=2**20, description="tokens of one sequence, source or prompt")
    max_word_characters: int = Field(default=64, ge=1, le=65536, description="characters of one word of a tagger")
    max_sentence_characters: int = Field(
        default=8192, ge=1, le=2**24, description="words of a tagger's sentence times characters of the longest"
    )
    max_output_tokens: int = Field(default=512, ge=1, le=2**20, description="tokens of one answer")
    max_sequences: int = Field(default=64, ge=1, le=65536, description="sequences of one Tag or Score request")

    num_slots: int = Field(default=1024, ge=8, le=2**20, description="state rows a model, the 2 reserved ones included")
    max_sessions: int = Field(
        default=0, ge=0, le=MOST_SESSIONS, description="open sessions a model; 0: as many as slots and host memory hold"
    )
    max_host_state_bytes: int = Field(
        default=2**30, ge=0, le=2**44, description="bytes of session states and marks a model keeps outside its slots"
    )
    max_marks: int = Field(default=8, ge=0, le=1024, description="marks of one session")
    kept_answers: int = Field(default=4, ge=0, le=1024, description="answers of a session kept for steps sent again")
    num_memory_rows: int = Field(
        default=16384, ge=64, le=2**24, description="attention-memory rows (source positions) a model"
    )
    max_waiting: int = Field(default=1024, ge=1, le=2**20, description="requests that may wait for a slot, a model")
    max_queue_delay_ms: float = Field(
        default=1000.0,
        gt=0,
        le=3_600_000,
        description="longest that a request may have to wait at the measured pace; more is refused at once",
    )
    fill_delay_ms: float = Field(
        default=0.0, ge=0, le=1000, description="longest that a step waits for others to share its run"
    )
    batching: Literal["step", "request"] = Field(
        default="step", description="step: join and leave at every step; request: to the end together, to compare"
    )
    max_batch_rows: int = Field(
        default=0, ge=0, le=65536, description="rows of one run of a graph; 0: measured when the model is loaded"
    )
    max_chunk: int = Field(
        default=0, ge=0, le=1024, description="most inputs of a session in one run; 0: measured, 1: always one"
    )
    max_batch_tokens: int = Field(
        default=0, ge=0, le=2**24, description="padded tokens of one sequence or encode run; 0: measured"
    )
    max_calls: int = Field(default=4096, ge=1, le=2**20, description="calls and streams being answered at a time")
    max_requests_in_flight_per_stream: int = Field(
        default=1024,
        ge=1,
        le=65536,
        description="unanswered requests of one Session, TagStream or ModelStreamInfer; then it is read no further",
    )
    slow_reader_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="seconds after which a stream is cut off whose caller does not read"
    )
    session_idle_timeout_s: float = Field(
        default=600.0, gt=0, le=7 * 86400, description="seconds after which a session without requests is closed"
    )
    sequence_idle_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=7 * 86400,
        description="seconds after which a sequence of the Open Inference Protocol without requests is ended",
    )
    shared_memory: bool | Literal["auto"] = Field(
        default="auto",
        description="whether callers of the Open Inference Protocol that come over loopback may name shared memory of "
        "this machine; auto: if loopback is all that is listened on",
    )

    model_control: Literal["fixed", "poll", "explicit"] = Field(
        default="fixed",
        description="fixed: what is there at start, and again on SIGHUP; poll: look regularly; explicit: on request",
    )
    poll_interval_s: float = Field(
        default=15.0, ge=0.05, le=86400, description="seconds between looks at the repository, with poll"
    )
    load_models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="models that are loaded at start, with explicit: names between commas; * is all"
    )
    version_policy: str = Field(
        default="latest 1", description="versions of a model that are served: latest N, specific N,N or all"
    )
    version_policies: dict[str, str] = Field(
        default={}, description="the same by model, as a JSON object, where it differs"
    )
    retire_timeout_s: float = Field(
        default=600.0,
        ge=0,
        le=7 * 86400,
        description="seconds that sessions may go on with a version that is served no more",
    )
    admin_token_file: Path | None = Field(
        default=None,
        description="file of the token that loading and unloading over the wire takes; absent: not allowed",
    )
    max_run_s: float = Field(
        default=30.0, gt=0, le=3600, description="seconds that one run of an imported model may take; then it is ended"
    )
    drain_timeout_s: float = Field(
        default=8.0, ge=0, le=3600, description="seconds that running requests get to finish after SIGTERM"
    )
    drain_idle_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="seconds without a request after which sessions and sequences are not waited for after SIGTERM",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least level logged")

    @field_validator("load_models", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("devices", mode="before")
    @classmethod
    def _between_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [name.strip() for name in value.split(",")] if value.strip() else []

    @field_validator("shared_memory", mode="before")
    @classmethod
    def _auto_or_bool(cls, value: object) -> object:
        try:
            return value if value == AUTO else _BOOL.validate_python(value)
        except ValidationError:
            raise ValueError(f"expected auto, true or false, got {value!r}") from None

    @field_validator("version_policy")
    @classmethod
    def _policy(cls, text: str) -> str:
        VersionPolicy.parse(text)
        return text

    @field_validator("version_policies")
    @classmethod
    def _policies(cls, texts: dict[str, str]) -> dict[str, str]:
        for name, text in texts.items():
            try:
                VersionPolicy.parse(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return texts

    @field_validator("devices")
    @classmethod
    def _devices(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if set(names) == {CPU_DEVICE} and len(names) <= MOST_DEVICES:
            return names  # as many engines beside each other, to try it without a GPU
        numbers = [int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 4]
        if len(set(numbers)) < len(names) or len(names) > MOST_DEVICES:
            got = ",".join(names)
            if len(got) > _MOST_SHOWN:
                got = f"{len(names)}: {got[:_MOST_SHOWN]}..."
            raise ValueError(
                f"expected up to {MOST_DEVICES} different numbers of GPUs between commas, as 0,1, or {CPU_DEVICE} as "
                f"many times, as {CPU_DEVICE},{CPU_DEVICE}, got {got!r}"
            )
        return tuple(map(str, numbers))

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        on_cpu = CPU_DEVICE in self.devices
        if self.devices and self.provider == ("cuda" if on_cpu else "cpu"):
            expected = CPU_DEVICE if not on_cpu else "numbers of GPUs"
            raise ValueError(
                f"devices: expected {expected} with provider {self.provider}, got {','.join(self.devices)}"
            )
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            raise ValueError("tls_certificate and tls_private_key: expected both or neither, got one")
        if self.load_models and self.model_control != "explicit":
            raise ValueError(f"load_models: expected model_control explicit with it, got {self.model_control}")
        if self.max_sentence_characters < self.max_word_characters:
            raise ValueError(
                f"max_sentence_characters: expected at least max_word_characters = {self.max_word_characters}, "
                f"got {self.max_sentence_characters}"
            )
        if self.num_memory_rows < 2 * self.max_input_tokens:
            raise ValueError(
                f"num_memory_rows: expected at least 2 * max_input_tokens = {2 * self.max_input_tokens}, "
                f"got {self.num_memory_rows}"
            )
        return self

    @property
    def address(self) -> str:
        """Where to listen, an IPv6 host in brackets; the port is still that of the settings."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def shares_memory(self) -> bool:
        """Whether callers may name shared memory of this machine.

        One who comes over loopback is on this machine, but need not be who it is about: a proxy beside the service, as
        in a pod, stands for everybody who reaches it. Where the service listens on other addresses too it is taken for
        one that has such company, until its operator says that it has none.
        """
        if self.shared_memory != AUTO:
            return self.shared_memory
        return self.host == "localhost" or is_loopback(self.host)

    @property
    def session_slots(self) -> int:
        """State rows that sessions may hold; the others are for requests, which are short."""
        return 3 * (self.num_slots - RESERVED_SLOTS) // 4

    def policy_of(self, name: str) -> VersionPolicy:
        """Which versions of a model are served."""
        return VersionPolicy.parse(self.version_policies.get(name, self.version_policy))

    def session_limit(self, state_bytes: int, num_devices: int = 1) -> int:
        """Open sessions that a model with so many bytes of state a session really takes, on all its devices."""
        host_bytes = self.max_host_state_bytes // num_devices
        most = num_devices * (self.session_slots + host_bytes // max(state_bytes, 1))
        return min(self.max_sessions or most, most, MOST_SESSIONS)


def load_settings(file: Path | None = None, **overrides: object) -> Settings:
    """Read the settings; see the module docstring for what wins.

    Args:
        file: `.yaml`/`.yml`, `.toml` or `.env` file; None is no file.
        overrides: Settings from the command line, by name; None means not given.

    Raises:
        SettingsError: Unknown names or bad values, one line each.
    """
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith(PREFIX)
        and name not in NOT_SETTINGS
        and name[len(PREFIX) :].lower() not in Settings.model_fields
    )
    if unknown:
        raise SettingsError(
            "\n".join(f"{name}: expected one of the settings' names, got an unknown one" for name in unknown)
        )
    given = {name: value for name, value in overrides.items() if value is not None}

    class _Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources = (init_settings, env_settings)
            return sources if file is None else (*sources, _file_source(settings_cls, file))

    try:
        # _Sourced has validated the values; validating them again as Settings would read the environment again, alone.
        return Settings.model_construct(**_Sourced(**given).model_dump())  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_line(detail, given) for detail in error.errors())) from None


def _file_source(settings: type[BaseSettings], file: Path) -> PydanticBaseSettingsSource:
    """Choose a reader by the file's suffix; whatever it cannot read is a SettingsError."""
    if not file.is_file():
        raise SettingsError(f"settings file: expected a file, got {file} which does not exist")
    try:
        if file.suffix in (".yaml", ".yml"):
            return YamlConfigSettingsSource(settings, file)
        if file.suffix == ".toml":
            return TomlConfigSettingsSource(settings, file)
        if file.suffix == ".env" or file.name == ".env":
            return DotEnvSettingsSource(settings, file)
    except Exception as error:  # each reader has its own errors; all mean that the file is not what its name says
        reason = " ".join(str(error).split())
        raise SettingsError(f"{file}: expected settings as {file.suffix}, got {reason}") from None
    raise SettingsError(f"{file}: expected a .yaml, .yml, .toml or .env file, got suffix {file.suffix!r}")


def _line(detail: ErrorDetails, given: dict[str, object]) -> str:
    """Turn one validation error into `name: expected ..., got ...`."""
    if not detail["loc"]:  # written by _consistent, whole already
        return detail["msg"].removeprefix("Value error, ")
    name = str(detail["loc"][0])
    where = name if name in given or f"{PREFIX}{name.upper()}" not in os.environ else f"{PREFIX}{name.upper()}"
    if detail["type"] == "extra_forbidden":
        return f"{name}: expected one of the settings' names, got an unknown one"
    if detail["type"] == "value_error":  # written by one of ours, with expected and got
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}"
    expected = detail["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return f"{where}: expected {expected}, got {detail['input']!r}"
