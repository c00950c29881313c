"""P: the answer of /v1/explain as plain sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tuner.cli import layout
from tuner.cli.render_tables import items, part
from tuner.cli.text import clock, counted, gain, number, safe, share, short

Item = Mapping[str, Any]
Rows = Iterator[tuple[str, str]]
UNTIL_RELEASED = "until it is released"
RULE = (
    "every planned pair usable, lower end above 0, mean above {asked}, no failed request, "
    "latencies within their limits"
)


def render_short(answer: Item) -> RenderableType:
    """One sentence per class."""
    rows = [("now", safe(answer.get("why")))]
    rows += [(safe(c.get("workload")), safe(c.get("sentence"))) for c in items(answer, "classes")]
    if len(rows) == 1:
        rows.append(("", "No class is known yet; send traffic, or name one to `tuner tune`."))
        return layout.pairs(rows)
    return Group(layout.pairs(rows), Text("`tuner explain CLASS` says what is behind it."))


def render_full(found: Sequence[Item], *, now: float) -> RenderableType:
    """Everything behind the decision about each class."""
    blocks: list[RenderableType] = []
    for item in found:
        blocks += [Text(safe(item.get("workload")), style="bold"), layout.pairs(_rows(item, now))]
        blocks.append(Text(""))
    return Group(*blocks[:-1])


def _rows(item: Item, now: float) -> list[tuple[str, str]]:
    """Label and text; a label is shown once for all of its lines."""
    rows = [*_decision(item, now), *_search(part(item, "tried")), *_proof(item)]
    rows += [*_noise(part(item, "noise")), *_live(item, now), *_bars(item, now)]
    rows += [("would change it", safe(text)) for text in _texts(item, "change")]
    shown: list[tuple[str, str]] = []
    before = ""
    for label, text in rows:
        shown.append(("" if label == before else label, text))
        before = label
    return shown


def _decision(item: Item, now: float) -> Rows:
    yield "answer", safe(item.get("sentence"))
    runs = safe(item.get("label"))
    if item.get("decided_at") is not None:
        runs += f", decided {clock(item['decided_at'], now)}, profile {short(item.get('profile'))}"
    yield "runs", runs


def _search(tried: Item) -> Rows:
    if not tried.get("starts"):
        yield "tried", "nothing"
    else:
        starts = counted(tried.get("starts"), "engine start")
        text = f"{starts} of {counted(tried.get('configurations'), 'configuration')}"
        left = tried.get("open")
        if left:
            text += f"; {number(left)} more were not tried, and nothing speaks against them"
        elif left == 0:
            text += "; nothing else is left to try"
        yield "tried", text
    for one in items(tried, "top"):
        yield "believed", _believed(one)
    for one in items(tried, "failed"):
        where = "live" if one.get("trial") is None else f"trial {safe(one['trial'])}"
        yield "failed", f"{where}, {safe(one.get('label'))}: {safe(one.get('sentence'))}"
    for one in items(tried, "excluded"):
        yield "not tried", _excluded(one)
    for reason, count in part(tried, "invalid").items():
        yield "invalid", f"{counted(count, 'measurement')}: {safe(reason)}"


def _believed(one: Item) -> str:
    rate, deviation = one.get("figure"), one.get("deviation")
    text = f"{safe(one.get('label'))}: {number(rate, digits=1)}"
    if isinstance(rate, int | float) and isinstance(deviation, int | float):
        text += f" ± {number(rate * deviation, digits=1)}"
    starts, best = counted(one.get("starts"), "start"), number(one.get("best"), digits=1)
    return f"{text} {safe(one.get('unit'))} by {starts}; best start {best}"


def _excluded(one: Item) -> str:
    names = [safe(name) for name in _texts(one, "examples")]
    count = one.get("count")
    more = count - len(names) if isinstance(count, int) else 0
    listed = "; ".join(names) + (f"; and {more} more" if more > 0 else "")
    return f"{safe(one.get('sentence')).removeprefix('not tried: ')}: {listed}"


def _proof(item: Item) -> Rows:
    proof = part(item, "proof")
    if not proof:
        return
    yield "pairs", f"default {safe(proof.get('default'))}, candidate {safe(proof.get('candidate'))}"
    for pair in items(proof, "pairs"):
        default, candidate = (number(pair.get(arm), digits=1) for arm in ("default", "candidate"))
        text = f"{safe(pair.get('number'))}: {default} and {candidate} {safe(proof.get('unit'))}"
        difference = pair.get("difference")
        if isinstance(difference, int | float):
            text += f", d = {difference:+.4f}"
        if pair.get("fault"):
            text += f"; not usable: {safe(pair['fault'])}"
        yield "pairs", text
    mean = gain(proof.get("gain"), proof.get("low"), proof.get("high"))
    yield "pairs", f"mean {mean} at {share(proof.get('confidence'))} confidence"
    asked = share(part(item, "noise").get("min_gain"), 1)
    yield "rule", RULE.format(asked=asked)
    for guard in items(proof, "guards"):
        default, candidate, limit = (
            _ms(guard.get(f"{name}_s")) for name in ("default", "candidate", "limit")
        )
        yield "latency", f"{safe(guard.get('name'))} {default} → {candidate}, limit {limit}"
    if proof.get("broken"):
        yield "limit", f"with the candidate {safe(proof['broken'])}"
    if proof.get("failed_requests"):
        yield "latency", f"{counted(proof['failed_requests'], 'request')} failed with the candidate"


def _noise(noise: Item) -> Rows:
    if not noise:
        return
    scope = "" if noise.get("scope") == "class" else " (all classes of this platform)"
    yield "noise", f"{safe(noise.get('sentence'))}{scope}"
    again = part(noise, "default_again")
    if again:
        apart, largest = share(again.get("mean"), 1), share(again.get("largest"), 1)
        starts = counted(again.get("starts"), "start")
        text = f"your configuration against itself: {starts}, {apart} apart on average"
        yield "noise", f"{text}, {largest} at most"
    pairs = counted(noise.get("pairs"), "pair")
    if noise.get("provable_gain") is not None:
        yield "noise", f"{pairs} prove {share(noise['provable_gain'], 1)} in 4 of 5 promotions"
    if noise.get("false_promotions") is not None:
        wrong = share(noise["false_promotions"], 2)
        yield "noise", f"{pairs} promote what is no better in {wrong} of promotions"


def _live(item: Item, now: float) -> Rows:
    for one in items(item, "learned"):
        when = "" if one.get("at") is None else f", {clock(one['at'], now)}"
        yield "live", f"{safe(one.get('sentence'))}{when}"


def _bars(item: Item, now: float) -> Rows:
    for one in items(item, "bars"):
        until = UNTIL_RELEASED if one.get("until") is None else f"until {clock(one['until'], now)}"
        yield safe(one.get("kind")), f"{safe(one.get('sentence'))}; {until}"


def _texts(item: Item, key: str) -> list[str]:
    value = item.get(key)
    return [str(each) for each in value] if isinstance(value, list | tuple) else []


def _ms(seconds: Any) -> str:
    return number(seconds * 1e3, "ms") if isinstance(seconds, int | float) else number(None)
