"""The configuration: one TOML file, typed, frozen, unknown keys refused."""

import contextlib
import ipaddress
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from profiles.knobs import Drafter, Knobs

Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A table of the file: frozen, and no key that nobody reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GatewayConfig(Section):
    """The data plane."""

    # hashes of the keys that clients need, one application each, mode 0600 (`tuner keys add`);
    # systemd's credential `gateway-keys` is read instead when there is one
    keys_file: Path | None = None
    # host:port; other than a loopback address only with keys_file; in use: exit 69
    listen: str = "127.0.0.1:8000"
    # names the application of a request, unless its key does
    application_header: str = "X-Tuner-Application"
    # open at once; beyond it the oldest that asks for nothing is closed, or the new one gets 503;
    # lowered at start to what the limit of open files is enough for (two for each, and 64)
    connections: PositiveInt = 4096
    connections_per_address: PositiveInt = 1024  # the same for one client address
    # from connecting, or from the first byte of a further request, to the end of its headers;
    # then 408
    header_timeout_s: PositiveFloat = 15.0
    # without a byte of a body, then 408; beyond this time a body must come at 1 KiB/s
    body_timeout_s: PositiveFloat = 30.0
    # without the client reading what is ready for it (80 KiB and what is under way); then it
    # counts as gone, and the engine stops
    write_timeout_s: PositiveFloat = 120.0
    max_body_mib: PositiveInt = 64  # larger bodies get 413
    # bodies of all running requests together, as far as they have come; beyond it further ones get
    # 503 with Retry-After; not below max_body_mib
    bodies_mib: PositiveInt = 512
    # requests held while an engine is replaced; further ones get 503 with Retry-After
    hold_requests: PositiveInt = 512
    hold_mib: PositiveInt = 64  # their bodies together; beyond it 503 with Retry-After
    hold_s: PositiveFloat = 180.0  # longest hold of one request, then 503 with Retry-After
    # a held request with `stream: true` gets 200 and comments (`: ...`) in its event stream, so no
    # proxy gives up; a later failure is an `error` event then, and no status
    hold_comments: bool = False
    hold_comment_s: PositiveFloat = 10.0  # before the first such comment and between two
    # running answers get this long before an engine is stopped, then they are cut
    drain_s: PositiveFloat = 120.0
    idle_timeout_s: PositiveFloat = 600.0  # silence of the engine within one answer, then 504

    @property
    def host_port(self) -> tuple[str, int]:
        """The listening address split into host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @model_validator(mode="after")
    def _one_fits(self) -> Self:
        if self.bodies_mib < self.max_body_mib:
            raise ValueError(
                f"bodies_mib = {self.bodies_mib} is below max_body_mib = {self.max_body_mib}: "
                "the largest body would never fit, so raise the one or lower the other"
            )
        return self

    @field_validator("listen")
    @classmethod
    def _loopback(cls, listen: str, info: ValidationInfo) -> str:
        host, port = listen.rpartition(":")[::2]
        # isascii: int() also reads other scripts' digits, and isdigit() is true for a superscript
        digits = port.isascii() and port.isdigit()
        if not digits or not 0 <= int(port) <= 65535 or not host:
            raise ValueError(f'listen = "{listen}" is not host:port')
        bare = host.strip("[]")
        loopback = bare == "localhost"
        with contextlib.suppress(ValueError):
            loopback = loopback or ipaddress.ip_address(bare).is_loopback
        if not loopback and info.data.get("keys_file") is None:
            raise ValueError(
                f'listen = "{listen}" is not a loopback address; other machines need keys, '
                "so set gateway.keys_file too"
            )
        return listen


class EngineConfig(Section):
    """How vLLM is started, before any knob."""

    model: str  # path (starts with /, ./, ../ or ~) or hub id; a missing path is refused
    # `python -m vllm...` works with the CPU build too, whose console script is broken
    command: tuple[str, ...] = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    args: tuple[str, ...] = ()  # passed as they are; flags that tunerd sets are refused
    env: dict[str, str] = Field(default_factory=dict)  # added to the daemon's own environment
    start_timeout_s: PositiveFloat = 900.0  # from spawn to a passed canary, then the start failed
    stall_timeout_s: PositiveFloat = 600.0  # without a new log line while starting, then it failed
    stop_timeout_s: PositiveFloat = 20.0  # after SIGTERM, then SIGKILL to the group
    # requests run and none of vLLM's counters moves, or a short completion has no answer: then it
    # is killed and started again; longer than any step, the compiling of a new kernel included
    hang_s: PositiveFloat = 120.0
    canary_s: PositiveFloat = 300.0  # without a request, then such a completion of 4 tokens
    # no other tunerd may use the same GPUs or, without any, this host; taken: exit 75
    exclusive: bool = True
    default: Knobs = Knobs()  # the operator's own configuration: what a profile has to beat


class SpaceConfig(Section):
    """Candidate values of each knob; an empty list leaves the knob at its default."""

    # tokens; those above a drafter's own maximum are left out, and off is always tried
    draft_lengths: tuple[PositiveInt, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 15)
    max_num_seqs: tuple[PositiveInt, ...] = ()  # requests running together
    max_num_batched_tokens: tuple[PositiveInt, ...] = ()  # tokens of one step
    gpu_memory_utilization: tuple[Fraction, ...] = ()  # share of the GPU's memory
    cpu_kv_gib: tuple[PositiveInt, ...] = ()  # KV cache of the CPU build
    max_active_seqs: tuple[PositiveInt, ...] = ()  # requests admitted together; live
    max_scheduled_tokens: tuple[PositiveInt, ...] = ()  # tokens of one step; live
    # vLLM's own presets
    performance_mode: tuple[Literal["balanced", "interactivity", "throughput"], ...] = ()


class LimitsConfig(Section):
    """What a configuration must keep to be recommended; a limit that is not set limits nothing."""

    ttft_p95_s: PositiveFloat | None = None  # time to the first token, 95 % of requests
    # time per output token of a request after its first, 99 % of requests; chunks of a stream are
    # no tokens when vLLM speculates
    itl_p99_s: PositiveFloat | None = None
    temperature_c: PositiveFloat | None = None  # degrees Celsius of the hottest GPU
    power_w: PositiveFloat | None = None  # watts of all GPUs together, mean of a measurement
    # of requests; a measurement with any failed request is void, above this share the
    # configuration is to blame
    error_rate: Annotated[float, Field(ge=0, le=1)] | None = None


class TuningConfig(Section):
    """What a search may cost and what it must prove."""

    auto: Literal["off", "idle"] = "idle"  # search by itself when no request came for idle_s
    idle_s: PositiveFloat = 300.0  # silence before a search by itself
    sampling: Literal["memory", "off"] = "memory"  # prompts stay in memory, or are not kept at all
    sample_requests: PositiveInt = 64  # per class
    sample_s: PositiveFloat = 1800.0  # age at which a sample is forgotten
    trials: PositiveInt = 12  # engine starts of one search
    failures: PositiveInt = 4  # failed starts of one search, then only tried points
    sweep_s: PositiveFloat = 30.0  # of visits to draft lengths within one start, at most
    warmup_s: PositiveFloat = 4.0  # of load before the first block, not counted
    block_s: PositiveFloat = 8.0  # of one timed block
    blocks: PositiveInt = 3  # timed blocks of one measurement
    pairs: int = Field(default=3, ge=2)  # start pairs of a promotion
    # 0: exactly `pairs`; more: judged after every pair, until it is clear or there are so many
    most_pairs: int = Field(default=0, ge=0, le=40)
    min_gain: float = Field(default=0.03, ge=0)  # point gain below which nothing is promoted
    seed: int = 0  # of every random choice of a search
    # what is maximised; p95_latency is minimised: from sending a request to its last token
    objective: Literal["tok_s", "tok_per_joule", "p95_latency"] = "tok_s"
    limits: LimitsConfig = LimitsConfig()  # what must be kept meanwhile
    space: SpaceConfig = SpaceConfig()  # what is searched

    @model_validator(mode="after")
    def _enough_pairs(self) -> Self:
        least = max(self.pairs, 4)  # an interval that is valid at every look is infinite below
        if self.most_pairs and self.most_pairs < least:
            raise ValueError(f"most_pairs must be 0 or at least {least}")
        return self


class LiveConfig(Section):
    """How knobs are changed and learned inside the running engine."""

    enabled: bool = True  # false: engines run vLLM's own scheduler, every change is a restart
    learn: bool = True  # false: schedules come from `tuner tune` and `tuner sweep` only
    interval_s: PositiveFloat = 1.0  # between decisions about the traffic of the moment
    slice_s: PositiveFloat = 0.25  # of one visit to a draft length
    # share of the engine's busy time that visits may lose against the schedule in force
    explore: Fraction = 0.05
    burst_s: PositiveFloat = 20.0  # lost seconds that the first learning of a mixture may take
    # visits to every draft length before a question counts as undecided
    rounds: PositiveInt = 40


class PolicyConfig(Section):
    """When a profile is put in force."""

    interval_s: PositiveFloat = 5.0  # between decisions
    window_s: PositiveFloat = 300.0  # of traffic that has a class
    min_requests: PositiveInt = 30  # in the window before it has a class
    dwell_s: PositiveFloat = 120.0  # at least this long between two switches
    switches_per_hour: PositiveInt = 4  # at most; `tuner use` does not wait for it
    patience: PositiveFloat = 1.5  # accumulated gain over restart cost before a switch
    probation_s: PositiveFloat = 600.0  # of real traffic after a switch
    # speculation stays off this long after a request that vLLM refuses while it is on
    plain_s: PositiveFloat = 1800.0


class Config(Section):
    """Everything an operator can set."""

    engine: EngineConfig  # how vLLM is started
    # store, logs, caches; not writable: exit 74; used by another daemon: exit 75
    state_dir: Path = Path("~/.local/state/tuner")
    runtime_dir: Path | None = None  # sockets; default: `run` in the state directory
    # ngram copies from the prompt and needs no model, so that a model alone can be tuned
    drafters: tuple[Drafter, ...] = (Drafter(name="ngram", method="ngram"),)
    gateway: GatewayConfig = GatewayConfig()
    tuning: TuningConfig = TuningConfig()
    live: LiveConfig = LiveConfig()
    policy: PolicyConfig = PolicyConfig()

    @property
    def state(self) -> Path:
        """The state directory, `~` expanded."""
        return self.state_dir.expanduser().absolute()

    @property
    def run(self) -> Path:
        """The directory of the sockets."""
        return (self.runtime_dir or self.state / "run").expanduser().absolute()

    @property
    def drafter_map(self) -> dict[str, Drafter]:
        """Drafters by name."""
        return {drafter.name: drafter for drafter in self.drafters}

    @model_validator(mode="after")
    def _known_drafter(self) -> Self:
        names = [drafter.name for drafter in self.drafters]
        if len(set(names)) != len(names):
            raise ValueError("two drafters have the same name")
        wanted = self.engine.default.drafter
        if wanted is not None and wanted not in names:
            raise ValueError(f"engine.default.drafter = {wanted!r} is not among the drafters")
        return self
