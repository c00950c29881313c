"""Search steps without end, as tunerd computes them: a Gaussian process over a large study."""

import random
import time

from profiles.knobs import PLAIN_FLAGS, SPECULATIVE_FLAG, Drafter, Knobs
from tuner.config import SpaceConfig
from tuner.space import Space, build_space
from tuner.study import Row, suggest

ROWS = 200  # engine starts; a search of tunerd has a dozen
SEED = 5


def large_space() -> Space:
    """Thousands of points on four axes."""
    drafter = Drafter(name="d", method="eagle3", model="m", max_draft_length=15)
    lists = SpaceConfig(
        max_num_seqs=(8, 16, 32, 64, 128, 256),
        max_num_batched_tokens=(512, 1024, 2048, 4096, 8192),
        gpu_memory_utilization=(0.8, 0.85, 0.9, 0.95),
    )
    flags = frozenset({*PLAIN_FLAGS.values(), SPECULATIVE_FLAG})
    return build_space(lists, {"d": drafter}, flags, Knobs())


def study(space: Space, rng: random.Random) -> list[Row]:
    """Measured points of this space."""
    points = rng.sample(list(space.points()), ROWS)
    return [Row(knobs=point, value=rng.gauss(7, 0.2), constraints={}) for point in points]


def main() -> None:
    """Compute until ended; a line with its seconds for each step."""
    rng, space = random.Random(SEED), large_space()
    rows = study(space, rng)
    for seed in range(10**9):
        began = time.monotonic()
        suggest(space, rows, seed=seed, refuse=lambda _: None)
        print(f"{time.monotonic() - began:.3f}", flush=True)


if __name__ == "__main__":
    main()
