"""P: what vLLM is started with, from configuration and knobs alone.

tunerd and the launcher of an engine's unit make the same command from it, each by itself.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiles.knobs import Knobs, render
from service.engine_record import KEEP_ENVIRON, TOKEN_VARIABLE
from service.engine_site import tuner_layout as layout
from tuner.config import Config

SCHEDULER = "tuner_scheduler.TunedScheduler"  # for --scheduler-cls; lies in engine_site
SITE = Path(__file__).resolve().parent / "engine_site"
# nothing leaves the host; an operator who wants vLLM's statistics sets these in engine.env
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
# of a service manager, meant for the process that it has started
NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC")
CACHE_VARIABLE = "VLLM_CACHE_ROOT"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One way to start vLLM."""

    command: tuple[str, ...]  # complete, but for --uds
    env: dict[str, str]  # added to that of the process

    @property
    def digest(self) -> str:
        """Hash of command and environment: a changed configuration is another engine."""
        return digest(self.command, self.env)


def launch_of(config: Config, knobs: Knobs, *, cache: Path, live: bool) -> Launch:
    """The launch of these knobs under this configuration; `live`: with tunerd's scheduler.

    Raises:
        InvalidKnobsError: nothing may be started with them.
    """
    engine = config.engine
    drafters = config.drafter_map
    # an engine with live knobs is the same one whatever its schedule and caps are
    rendered = (
        render(knobs.cold(), drafters, live_lengths=(0, *config.tuning.space.draft_lengths))
        if live
        else render(knobs, drafters)
    )
    command = (*engine.command, "--model", engine.model, *engine.args, *rendered.args)
    return Launch(
        command=(*command, "--scheduler-cls", SCHEDULER) if live else command,
        env={
            # one compile cache per drafter and draft length: vLLM's cache key lacks the draft
            # length and a shared cache can crash or mis-size the engine (vllm#53366)
            CACHE_VARIABLE: str(cache / "vllm" / _cache_key(config, knobs)),
            **engine.env,
            **rendered.env,
        },
    )


def digest(command: Sequence[str], env: Mapping[str, str]) -> str:
    """The first 12 hex digits of what identifies a launch."""
    text = json.dumps([list(command), dict(env)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment(
    inherited: Mapping[str, str], added: Mapping[str, str], *, token: str, socket: Path | None
) -> dict[str, str]:
    """The whole environment of an engine; with a socket it finds its live knobs beside it."""
    env = {**inherited, **QUIET, **added, **KEEP_ENVIRON, TOKEN_VARIABLE: token}
    if socket is not None:
        env |= live_environment(socket)
    # before vLLM: a repair of its CPU sampler, see engine_site/sitecustomize.py
    env["PYTHONPATH"] = ":".join(filter(None, [str(SITE), env.get("PYTHONPATH", "")]))
    for name in NOT_INHERITED:
        env.pop(name, None)
    return env


def live_environment(socket: Path) -> dict[str, str]:
    """What the scheduler in an engine needs to find its control file and its telemetry."""
    return {
        layout.CONTROL_VARIABLE: str(socket.with_suffix(".control")),
        layout.TELEMETRY_VARIABLE: str(socket.with_suffix(".telemetry")),
    }


def _cache_key(config: Config, knobs: Knobs) -> str:
    drafter = config.drafter_map.get(knobs.drafter or "")
    text = f"{config.engine.model}|{drafter}|{knobs.draft_length}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
