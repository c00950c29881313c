"""Optuna's TPE with one engine start per trial, measured by our own replay client."""

import asyncio
import os
from pathlib import Path

import optuna
from peers_candidates import Budget, candidates
from peers_process import watched
from peers_result import Found, Trial, best, now
from peers_stage import FailedStartError, measured
from peers_venv import ours

STARTUP_TRIALS = 4
BLOCKS = 3


def optuna_tpe(budget: Budget, folder: Path) -> Found:  # noqa: ARG001  every part has a folder
    """The loop that anybody would write: suggest, start, measure, tell."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found, trials, began = candidates(budget.lengths), [], now()
    with watched({}) as watch:
        os.environ.update(watch.env)
        for _ in range(budget.trials):
            trial = study.ask()
            label = trial.suggest_categorical("configuration", list(found))
            block_s = budget.seconds / BLOCKS
            try:
                seen = asyncio.run(measured(found[label], block_s=block_s, blocks=BLOCKS))
            except FailedStartError:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                trials.append(Trial(label=label, tok_s=None, failed=True))
            else:
                study.tell(trial, seen.tok_s)
                trials.append(Trial(label=label, tok_s=seen.tok_s))
    first = best(trials)
    return Found(
        tool="Optuna TPE, restart per trial",
        versions=ours("optuna"),
        measured="our requests by our replay client",
        wall_s=watch.wall_s,
        starts=len(trials),
        trials=trials,
        winner=None if first is None else found[first.label].given(),
        winner_label=None if first is None else first.label,
        claimed_tok_s=None if first is None else first.tok_s,
        left_behind=watch.left_behind,
        began_at=began,
    )
