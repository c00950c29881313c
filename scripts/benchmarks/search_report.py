"""The tables of `scripts/bench search`, as Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from search_engine import MEASURE_S, RESTART_S
from search_score import Run, by_family, family_p90, interval, off_is_best, p90, quantile, within

AFTER = (1, 2, 3, 4, 5, 6, 8)  # starts
Results = Mapping[str, Sequence[Run]]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(value: float, digits: int = 1) -> str:
    """A share as text."""
    return f"{100 * value:.{digits}f}"


def headline(results: Results, names: Sequence[str]) -> str:
    """P90 of true regret with its interval over families, pooled and by family."""
    rows = []
    for name in names:
        found = results[name]
        longer = [run for run in found if len(run.landscape.lengths) > 4]
        low, high = interval(found, p90)
        flow, fhigh = interval(found, family_p90)
        rows.append(
            [
                name,
                str(len(found)),
                f"{percent(p90(found))} [{percent(low)}, {percent(high)}]",
                f"{percent(family_p90(found))} [{percent(flow)}, {percent(fhigh)}]",
                percent(p90(longer)) if longer else "-",
                percent(statistics.fmean(run.regret() for run in found), 2),
                f"{_measured(found):.1f}, {max(run.lengths for run in found)}",
            ]
        )
    head = ["method", "runs", "p90 regret %, pooled", "every family alike", "over 4 lengths"]
    return table([*head, "mean %", "lengths measured: mean, most"], rows)


def by_starts(results: Results) -> str:
    """Median and p90 of true regret after every number of starts."""
    rows = []
    for name, found in results.items():
        cells = []
        for n in AFTER:
            values = [run.regret(n) for run in found]
            cells.append(f"{percent(quantile(values, 0.5))} / {percent(quantile(values, 0.9))}")
        starts = statistics.fmean(run.starts for run in found)
        rows.append([name, str(len(found)), *cells, f"{starts:.1f}"])
    cold = RESTART_S + MEASURE_S
    ends = [f"{n} ({n * cold / 60:.0f} min)" for n in AFTER]
    return table(["median / p90 regret %, after starts", "runs", *ends, "starts made"], rows)


def at_the_end(results: Results, afterwards: Mapping[str, Sequence[float]]) -> str:
    """Share within 2 %, and what is left after the promotion."""
    rows = []
    for name, found in results.items():
        left = afterwards[name]
        cost = statistics.fmean(run.starts for run in found) * (RESTART_S + MEASURE_S)
        rows.append(
            [
                name,
                percent(within(found, 4)),
                percent(within(found)),
                f"{cost:.0f}",
                f"{percent(quantile(left, 0.5))} / {percent(quantile(left, 0.9))}",
                percent(statistics.fmean(left), 2),
            ]
        )
    head = ["method", "within 2 % after 4 starts, %", "at the end, %", "seconds of search"]
    return table([*head, "after promotion: median / p90 %", "mean %"], rows)


def off(parts: Mapping[str, Results]) -> str:
    """How often speculation off is chosen where it is best."""
    rows = []
    for kind, results in parts.items():
        for name, found in results.items():
            here = off_is_best(found)
            if here:
                places = {run.landscape.name for run in here}
                chosen = statistics.fmean(run.choice == 0 for run in here)
                worst = max(run.regret() for run in here)
                rows.append([kind, name, str(len(places)), percent(chosen), percent(worst)])
    head = ["landscapes", "method", "with k = 0 best", "chosen, % of runs", "worst regret %"]
    return table(head, rows)


def ablations(parts: Mapping[str, Results]) -> str:
    """The ladder with one part taken away at a time."""
    rows = []
    for kind, results in parts.items():
        for name, found in results.items():
            early = [run.regret(2) for run in found]
            here = off_is_best(found)
            rows.append(
                [
                    kind,
                    name,
                    str(len(found)),
                    percent(quantile(early, 0.9)),
                    percent(quantile([run.regret(4) for run in found], 0.9)),
                    percent(p90(found)),
                    percent(statistics.fmean(run.regret() for run in found), 2),
                    percent(within(found)),
                    f"{statistics.fmean(run.starts for run in found):.1f}",
                    percent(statistics.fmean(run.choice == 0 for run in here)) if here else "-",
                ]
            )
    head = ["landscapes", "ladder", "runs", "p90 % after 2", "after 4", "at the end", "mean %"]
    return table([*head, "within 2 %", "starts", "k = 0 where best, %"], rows)


def families(found: Sequence[Run]) -> str:
    """Where it fails: every family's own figures, the worst first."""
    rows = []
    parts = sorted(by_family(found).values(), key=lambda part: (-p90(part), -_mean(part)))
    for part in parts:
        names = sorted({run.landscape.name.split(" ")[0] for run in part})
        shown = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        worst = max(part, key=lambda run: run.regret())
        rows.append(
            [
                shown,
                str(len({run.landscape.name for run in part})),
                percent(p90(part)),
                percent(_mean(part), 2),
                f"{percent(worst.regret())} (k={worst.choice}, best {worst.landscape.best})",
            ]
        )
    head = ["family", "landscapes", "p90 regret %", "mean %", "worst run %"]
    return table(head, rows)


def _measured(found: Sequence[Run]) -> float:
    return statistics.fmean(run.lengths for run in found)


def _mean(found: Sequence[Run]) -> float:
    return statistics.fmean(run.regret() for run in found)
