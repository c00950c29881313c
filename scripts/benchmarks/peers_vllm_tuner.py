"""vllm-tuner from PyPI: its command, its configuration file, and what its files say.

Its port is fixed, its client sends one random prompt per trial and counts a chunk of the stream as
a token, and a trial that crashed is a completed one with the value 0.
"""

import json
from pathlib import Path
from typing import Any

from peers_candidates import CONCURRENCY, TOKENS, Budget, candidates, label_of, option
from peers_process import port_is_free, run, watched
from peers_read import STUDY, crashes_told_as_zero, exported, tuner_trials
from peers_result import Found, now
from peers_stage import CPU_ENV, DRAFTERS, PAIR, PEERS, code_texts
from peers_venv import STARTS, VLLM_TUNER, base_env, commands, starts, venv, versions

PORT = 8000
CHARS_PER_TOKEN = 4  # by which it makes a prompt of the length that was asked for


def study(options: list[str], folder: Path, budget: Budget, prompt_chars: int) -> dict[str, Any]:
    """Its configuration; JSON is YAML."""
    return {
        "model": str(PAIR.target),
        "study": {"name": STUDY},
        "optimization": {
            "objectives": [{"metric": "output_tokens_per_sec", "direction": "maximize"}],
            "sampler": "tpe",
            "n_trials": budget.trials,
            "n_startup_trials": 4,
        },
        "hardware": {"accelerator": "cpu"},
        "parameters": [{"name": "speculative_config", "options": options}],
        "static_parameters": {"max_model_len": 1024, "enforce_eager": True, "dtype": "float32"},
        "benchmark": {
            "provider": "http",
            "prompt_tokens": round(prompt_chars / CHARS_PER_TOKEN),
            "output_tokens": TOKENS,
            "max_seconds": round(budget.seconds),
            "concurrent_requests": CONCURRENCY,
            "warmup_requests": 0,
        },
        "output": {"directory": str(folder)},
    }


def vllm_tuner(budget: Budget, folder: Path) -> Found:
    """Run it as its users do: `run`, then `export`.

    Raises:
        SystemExit: something listens on its port, which it would measure.
    """
    if not port_is_free(PORT):
        raise SystemExit(
            f"Cannot run vllm-tuner: something answers on port {PORT}, and it would measure that. "
            "Stop it and run this part again."
        )
    python = venv(PEERS / "vllm-tuner", VLLM_TUNER)
    texts = code_texts()
    options = [option(k, DRAFTERS) for k in candidates(budget.lengths).values()]
    chars = sum(map(len, texts)) // len(texts)
    config, best = folder / "study.yaml", folder / "best.json"
    config.write_text(json.dumps(study(options, folder, budget, chars), indent=1), encoding="utf-8")
    env = {**base_env(), **CPU_ENV, STARTS: str(folder / "starts")}
    env["PATH"] = f"{commands(PEERS / 'bin')}:{env['PATH']}"
    tool, began = (str(python), "-m", "vllm_tuner.cli.main"), now()
    with watched(env) as watch:
        log = folder / "run.log"
        run([*tool, "run", "--config", str(config)], watch.env, log=log, limit_s=2400)
    storage = f"sqlite:///{folder / 'study.db'}"
    words = ("--study_name", STUDY, "--storage", storage, "--format", "json")
    run([*tool, "export", *words, "--output", str(best)], watch.env, log=log, limit_s=120)
    trials = tuner_trials(folder)
    label = label_of(exported(best))
    zeros = crashes_told_as_zero(folder / "study.db")
    return Found(
        tool="vllm-tuner",
        versions=versions(python, "vllm-tuner", "optuna"),
        measured=f"one prompt of random letters per trial ({chars} characters), counting chunks",
        wall_s=watch.wall_s,
        starts=starts(folder / "starts"),
        trials=trials,
        winner=candidates(budget.lengths)[label].given(),
        winner_label=label,
        claimed_tok_s=max((t.tok_s or 0.0 for t in trials if t.label == label), default=None),
        left_behind=watch.left_behind,
        note=f"{zeros} crashed trials were told to its sampler as complete with the value 0",
        began_at=began,
    )
