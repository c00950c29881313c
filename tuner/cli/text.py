"""P: words and figures for people; what is not known is `n/a`, never 0."""

import datetime as dt
import unicodedata
from collections.abc import Mapping
from typing import Any

MISSING = "n/a"
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # control, bidi, line separators


def safe(value: object) -> str:
    """Text of others for a terminal: control characters are escaped, so that no name draws."""
    if value is None or value == "":
        return MISSING
    return "".join(
        char.encode("unicode_escape", "backslashreplace").decode()
        if unicodedata.category(char) in HIDDEN
        else char
        for char in str(value)
    )


def number(value: Any, unit: str = "", digits: int = 0) -> str:
    """A figure with its unit, or `n/a`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING
    return f"{value:,.{digits}f}".replace(",", " ") + (f" {unit}" if unit else "")


def share(value: Any, digits: int = 0) -> str:
    """A fraction as percent, or `n/a`."""
    return number(value * 100, "%", digits) if isinstance(value, int | float) else MISSING


def gain(value: Any, low: Any = None, high: Any = None) -> str:
    """A relative gain with its interval: `+150 % [142, 158]`."""
    if not isinstance(value, int | float):
        return MISSING
    digits = 0 if abs(value) >= 0.095 else 1
    text = f"{value * 100:+.{digits}f} %"
    if isinstance(low, int | float) and isinstance(high, int | float):
        text += f" [{low * 100:.{digits}f}, {high * 100:.{digits}f}]"
    return text


def span(seconds: Any) -> str:
    """A duration in its two largest units: `3 d 4 h`."""
    if not isinstance(seconds, int | float) or seconds < 0:
        return MISSING
    left = int(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def clock(at: Any, now: float) -> str:
    """A moment in local time: the clock today, the date before."""
    if not isinstance(at, int | float):
        return MISSING
    moment = dt.datetime.fromtimestamp(at).astimezone()
    today = dt.datetime.fromtimestamp(now).astimezone().date()
    return moment.strftime("%H:%M" if moment.date() == today else "%Y-%m-%d %H:%M")


def short(identity: Any) -> str:
    """The first characters of a profile's id, enough to type."""
    return f"#{safe(identity)[:8]}" if identity else MISSING


def sentence(answer: Mapping[str, Any], otherwise: str) -> str:
    """What the daemon said that it did; `otherwise` from one that says nothing."""
    said = answer.get("sentence")
    return safe(said) if said else otherwise


def counted(count: Any, noun: str) -> str:
    """`1 request`, `2 requests`, `2 switches`."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number(count)} {noun}{ending}"


def tokens(count: Any) -> str:
    """A number of tokens to three digits: `950`, `41 k`, `1.2 M`."""
    if not isinstance(count, int | float):
        return MISSING
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if abs(count) >= 0.9995 * size:
            return f"{count / size:.{1 if abs(count) < 9.95 * size else 0}f}{unit}"
    return f"{count:.0f}"
