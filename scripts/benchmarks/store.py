"""`scripts/bench store`: how soon a daemon is ready with very many trials in its store."""

import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from profiles.knobs import Knobs
from profiles.platform import fingerprint
from profiles.profile import default_profile
from profiles.store import Store

TRIALS, STAYS = 100_000, 100_000
ROUNDS = 5
HERE = fingerprint(vllm="0.32.0", model="org/m", model_revision=None, drafters={}, cpu="any")


def main() -> None:
    """Print what each question of a start takes, in an empty and in a large store, interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = (made(Path(folder) / name, size) for name, size in (("s", 0), ("l", 1)))
        taken: dict[str, list[tuple[float, float]]] = {}
        for _ in range(ROUNDS):
            each = [timed(path) for path in (small, large)]
            for name in each[0]:
                taken.setdefault(name, []).append((each[0][name], each[1][name]))
        print(
            f"{TRIALS} trials, {STAYS} stays, {large.stat().st_size / 1e6:.0f} MB; {ROUNDS} rounds"
        )
        print("\n| at a start | empty, ms (min to max) | large, ms (min to max) |\n|---|---|---|")
        for name, pairs in taken.items():
            spans = [
                f"{1e3 * min(one):.1f} to {1e3 * max(one):.1f}" for one in zip(*pairs, strict=True)
            ]
            print(f"| {name} | {spans[0]} | {spans[1]} |")


def made(path: Path, size: int) -> Path:
    """A store with that many rows, written past its own interface for speed."""
    with Store.open(path, now=1.0) as store:
        platform = store.ensure_platform(HERE, at=1.0)
        profile = default_profile(platform, Knobs())
        store.put_profile(profile)
    link, knobs = sqlite3.connect(path), Knobs().canonical()
    with link:
        link.executemany(
            "INSERT INTO trial(study, platform, workloads, knobs, why, status, opened_at)"
            " VALUES (?, ?, '[]', ?, 'because', 'done', ?)",
            ((f"s{n // 40}", platform, knobs, float(n)) for n in range(size * TRIALS)),
        )
        link.executemany(
            "INSERT INTO in_force(profile, why, applied_at, kind, lost_tokens, served_tokens,"
            " gained_tokens, avoided) VALUES (?, 'because', ?, 'restart', 1, 1, 1, 0)",
            ((profile.id, float(n)) for n in range(size * STAYS)),
        )
    link.close()
    return path


def timed(path: Path) -> dict[str, float]:
    """Seconds of each step of a start."""
    found: dict[str, float] = {}

    def step(name: str, ask: Callable[[], object]) -> None:
        begun = time.perf_counter()
        ask()
        found[name] = time.perf_counter() - begun

    begun = time.perf_counter()
    with Store.open(path, now=2.0) as store:
        found["open and check"] = time.perf_counter() - begun
        platform = HERE.digest
        step("sweep open trials", lambda: store.sweep_open_trials("ended", at=1.0))
        step("promotions", lambda: store.promotions(platform))
        step("in force", store.in_force)
        step("latest trials and events", lambda: (store.trials(), store.events()))
        step("accounts (on demand)", lambda: store.accounts(platform))
    return found


if __name__ == "__main__":
    main()
