"""P: whether an engine still works, judged by what it counts; /health says nothing of it.

vLLM answers /health with 200 while its core is frozen (vllm#39863). A core that works moves its
counters with every step: the histogram of iterations when a step gave tokens, and the share of
the KV cache when it only read a piece of a long prompt, which the histogram does not count
(v1/engine/async_llm.py:852).
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Finding(StrEnum):
    """What has to be done about an engine."""

    HUNG = "hung"  # requests run, and nothing has moved for too long
    ASK = "ask"  # nothing shows whether it works: a short completion does


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was seen of an engine at one moment."""

    at: float  # monotonic seconds
    token: str  # which engine
    signs: str | None  # its counters; None when it did not show them
    running: bool  # it has requests, by its own account
    in_flight: bool  # the gateway has sent it requests
    generated: int  # bytes of generated text that the gateway has had


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """The last look, and since when nothing has moved."""

    look: Look
    moved_at: float  # a counter moved, or text came

    def silent_s(self, now: float) -> float:
        """Seconds without a sign of life."""
        return now - self.moved_at


def felt(before: Pulse | None, look: Look) -> Pulse:
    """The pulse after one more look."""
    if before is None or before.look.token != look.token:
        return Pulse(look=look, moved_at=look.at)
    last = before.look
    moved = look.generated != last.generated or (
        look.signs is not None and look.signs != last.signs
    )
    if look.signs is None:  # what it last said still holds
        look = replace(look, signs=last.signs)
    return Pulse(look=look, moved_at=look.at if moved else before.moved_at)


def finding(pulse: Pulse, *, readable: bool, hang_s: float, canary_s: float) -> Finding | None:
    """What to do; None while it is well, or just slow."""
    silent_s = pulse.silent_s(pulse.look.at)
    if pulse.look.running and readable:
        return Finding.HUNG if silent_s >= hang_s else None
    # it says that it has nothing to do, as a core does that froze before the requests came; or it
    # is too busy to say anything, which is no crime
    limit_s = hang_s if pulse.look.in_flight else canary_s
    return Finding.ASK if silent_s >= limit_s else None
