"""The order of the faults: a pure function of the seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from soaking.faults import Fault

GAP_S = (3.0, 9.0)  # between two faults, beside what the first one needs to heal
HEAL_S = 4.0
BURST = (4, 7)  # faults between two lulls
LULL_S = (10.0, 25.0)  # without traffic before a fault strikes into the search
SPARED = 2  # one lull of so many is spared and long, so that a search can end
LONG_LULL_S = (50.0, 80.0)
REST_S = (4.0, 9.0)  # without traffic after it
LEAD_S = 10.0  # of undisturbed traffic at the start
TAIL_S = 12.0  # the same at the end
WATCHED = 0.5  # of the time, the last part of it, in which gateway and tunerd live on
LONG_S = 480.0  # a shorter soak watches no memory: half of it is too short for a line


@dataclass(frozen=True, kw_only=True)
class Step:
    """What happens next, and not before this second."""

    at_s: float
    kind: str  # "fault", "lull" (traffic ends, a search begins) or "traffic" (it is back)
    fault: str = ""
    lasts_s: float = 0.0
    number: int = 0


def schedule(seed: int, length_s: float, faults: Sequence[Fault]) -> list[Step]:
    """Every fault once per round, each round in another order, lulls between them.

    In the last part of a long soak no fault ends gateway or tunerd, so that their memory can be
    watched over a long life.
    """
    draw = random.Random(seed)
    watched_s = length_s * (1 - WATCHED) if length_s >= LONG_S else length_s
    steps: list[Step] = []
    deck: list[Fault] = []
    at_s, left, lulls, lull = LEAD_S, draw.randint(*BURST), 0, False
    while faults:
        if left == 0:
            left, lulls = draw.randint(*BURST), lulls + 1
            lull = lulls % SPARED != 0
            back_s = at_s + draw.uniform(*(LULL_S if lull else LONG_LULL_S))
            if back_s + TAIL_S > length_s:
                lull = False
                break
            steps.append(Step(at_s=at_s, kind="lull"))
            at_s = back_s
            if not lull:
                steps.append(Step(at_s=at_s, kind="traffic"))
                at_s += draw.uniform(*GAP_S)
        fault = _next(draw, deck, faults, ends=at_s < watched_s)
        if fault is None:
            break
        lasts_s = draw.uniform(*fault.lasts_s)
        if at_s + lasts_s + HEAL_S + TAIL_S > length_s:
            break
        steps.append(
            Step(at_s=at_s, kind="fault", fault=fault.name, lasts_s=lasts_s, number=len(steps))
        )
        at_s += lasts_s + HEAL_S + draw.uniform(*GAP_S)
        left -= 1
        if lull:
            # rest and gap after the last fault may be longer than what is left
            at_s = min(at_s + draw.uniform(*REST_S), length_s - TAIL_S)
            steps.append(Step(at_s=at_s, kind="traffic"))
            lull = False
    if lull:
        steps.append(Step(at_s=at_s, kind="traffic"))
    return steps


def _next(
    draw: random.Random, deck: list[Fault], faults: Sequence[Fault], *, ends: bool
) -> Fault | None:
    """Take the next fault that may strike now off the deck; a new round when none is left."""
    usable = [fault for fault in faults if ends or not fault.ends]
    if not usable:
        return None
    if not any(fault in usable for fault in deck):
        deck[:] = draw.sample(list(faults), len(faults))
    found = next(fault for fault in deck if fault in usable)
    deck.remove(found)
    return found
