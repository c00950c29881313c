"""P: buckets of batch sizes, 1, 2, 3-4, 5-8, 9-16 and so on, and the k(b) ranges made of them."""

from collections.abc import Mapping

from tuner.cells import Cells


def bucket(batch: int) -> int:
    """The bucket that a batch size belongs to.

    Raises:
        ValueError: the batch is empty.
    """
    if batch < 1:
        raise ValueError(f"no bucket holds a batch of {batch} requests")
    return (batch - 1).bit_length()


def span(number: int) -> tuple[int, int]:
    """The smallest and the largest batch size of a bucket."""
    return (1 << number - 1) + 1 if number else 1, 1 << number


def busiest(cells: Cells) -> int | None:
    """The bucket with the most steps, the smaller one of equals; None without a step."""
    steps: dict[int, int] = {}
    for (batch, _), cell in cells.items():
        steps[bucket(batch)] = steps.get(bucket(batch), 0) + cell.steps
    busy = [number for number, count in steps.items() if count > 0]
    return min(busy, key=lambda number: (-steps[number], number), default=None)


def assemble(
    best: Mapping[int, int], *, ceiling: int, fallback: int
) -> tuple[tuple[int, int, int], ...]:
    """The ranges (low, high, k) from batch size 1 to the ceiling, from the k learned per bucket.

    Raises:
        ValueError: the ceiling holds no request.
    """
    ranges: list[tuple[int, int, int]] = []
    for number in range(bucket(ceiling) + 1):
        low, high = span(number)
        k = _nearest(best, number) if best else fallback
        if ranges and ranges[-1][2] == k:
            low = ranges.pop()[0]
        ranges.append((low, min(high, ceiling), k))
    return tuple(ranges)


def _nearest(best: Mapping[int, int], number: int) -> int:
    """The k of the nearest learned bucket, the smaller batch of two equally near."""
    if number in best:
        return best[number]
    k = best[min(best, key=lambda other: (abs(other - number), other))]
    below = [other for other in best if other < number]
    # A larger batch pays more for every drafted token, so the best k falls with it, and too long
    # a k costs more there than too short a one: what nobody tried is never longer than what was
    # found at the nearest smaller batch.
    return min(k, best[max(below)]) if below else k
