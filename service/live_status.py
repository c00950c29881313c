"""What `tuner status` shows of the live knobs."""

from typing import Any

from profiles import schedule
from service.live_loop import LiveLoop
from service.mixture import Mixture
from service.slot import Slot


def live_status(slot: Slot, loop: LiveLoop | None) -> dict[str, Any]:
    """Whether knobs are live, what is in force, and what is known of each mixture of classes."""
    engine = slot.engine
    link = None if engine is None else engine.link
    reading = None if link is None else link.read()
    wish = None if link is None else link.wish
    return {
        "knobs": "live" if link is not None else "by restart",
        "fault": slot.live_fault,
        "sentence": None if loop is None else loop.sentence,
        "in_force": None
        if wish is None
        else {
            "schedule": [list(each) for each in wish.lengths],
            "label": schedule.label(wish.lengths),
            "active": wish.active or None,
            "budget": wish.budget or None,
        },
        "counters": None
        if reading is None
        else {name: reading.fields[name] for name in ("generation", "rejected", "errors", "steps")},
        "mixture": None if loop is None or loop.mixture is None else loop.mixture.name,
        # this is read on another thread than the one that adds mixtures
        "mixtures": [] if loop is None else [_mixture(one) for one in list(loop.mixtures.values())],
    }


def _mixture(mixture: Mixture) -> dict[str, Any]:
    findings = mixture.learner.findings()
    allowance = mixture.allowance
    return {
        "name": mixture.name,
        "label": None if mixture.schedule is None else schedule.label(mixture.schedule),
        "schedule": None if mixture.schedule is None else [list(one) for one in mixture.schedule],
        "settled_at": mixture.settled_at,
        "rounds": len(mixture.learner.rounds),
        "arms": len(mixture.learner.arms),
        "left": len(mixture.learner.running()),
        # what the choice may lose against its strongest rival, by the present belief
        "expected_loss": max((each.risk for each in findings), default=None),
        "confidence": min((each.confidence for each in findings), default=None),
        "traffic_s": mixture.traffic_s,
        "explored_share": allowance.explored_share,
        "forgone_share": allowance.forgone_share,
        "reopened": mixture.reopened,
        "moved": mixture.moved or None,
        "why": mixture.why,
        "limits": mixture.limits.sentence or None,
    }
