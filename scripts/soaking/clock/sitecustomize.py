"""A clock that can be set: what Python calls the time of day is wrong by what a file says.

The monotonic clock stays right, as it does when an operator or NTP sets a real clock.
"""

import os
import time

PATH = os.environ.get("SOAK_CLOCK", "")
LOOK_S = 0.2  # between two looks at the file

_right, _right_ns = time.time, time.time_ns
_offset_s, _looked = 0.0, -1.0


def _offset() -> float:
    global _offset_s, _looked  # noqa: PLW0603  there is one clock per process
    now = time.monotonic()
    if now - _looked > LOOK_S:
        _looked = now
        try:
            with open(PATH, encoding="ascii") as file:  # noqa: PTH123  before pathlib is there
                _offset_s = float(file.read() or 0.0)
        except (OSError, ValueError):
            _offset_s = 0.0
    return _offset_s


def wrong() -> float:
    """`time.time`, wrong by the offset."""
    return _right() + _offset()


def wrong_ns() -> int:
    """`time.time_ns`, wrong by the offset."""
    return _right_ns() + int(_offset() * 1e9)


if PATH:
    time.time, time.time_ns = wrong, wrong_ns
