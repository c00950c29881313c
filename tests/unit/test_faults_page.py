"""docs/faults.md against itself and the tests that it names."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
CASES = 90
STATES = ("tested", "partly", "open")
ROW = re.compile(
    r"^\| F(?P<number>\d+) \| (?P<case>[^|]+) \| (?P<does>[^|]+) \| (?P<state>\w+) "
    r"\| (?P<shown>[^|]+) \|$"
)
COUNT = re.compile(r"^\| (\w+) \| (\d+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
# longer than a dash or a word, which would be no reason
REASONS = {
    "partly": re.compile(r"; missing: \w.{15,}$"),
    "open": re.compile(r"^not tested: (?:cannot be tested here|not built yet): \w.{8,}$"),
}


def problems(page):
    """Everything that is wrong with a page, as sentences."""
    lines = [line for line in page.splitlines() if re.match(r"\|\s*F\d", line)]
    rows = [(line, ROW.match(line)) for line in lines]
    found = [f"no row: {line}" for line, row in rows if row is None]
    good = [row for _, row in rows if row is not None]
    times = Counter(int(row["number"]) for row in good)
    found += [f"F{n} is there {times[n]} times" for n in range(1, CASES + 1) if times[n] != 1]
    found += [f"F{n} is no case" for n in times if not 1 <= n <= CASES]
    counted = Counter(row["state"] for row in good)
    said = COUNT.findall(page)
    found += [] if [state for state, _ in said] == [*STATES] else ["the counts are not there"]
    found += [
        f"{state} is {counted[state]}, not {n}" for state, n in said if counted[state] != int(n)
    ]
    for row in good:
        found += [f"F{row['number']}: {problem}" for problem in row_problems(row)]
    return found


def row_problems(row):
    """What is wrong with one row."""
    state, tests = row["state"], TEST.findall(row["shown"])
    if state not in STATES:
        return [f"{state} is no state"]
    found = [f"{file} has no {name}" for file, name in tests if name not in names(file)]
    if (state == "open") == bool(tests):
        found.append(f"{state} with {len(tests)} tests")
    if state in REASONS and not REASONS[state].search(row["shown"]):
        found.append(f"{state} without a reason")
    if row["shown"].count("::") != len(tests):
        found.append("a test is not written as `tests/.../test_x.py::test_name`")
    return found


@cache
def names(file):
    """The tests of a file; none when there is no such file."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


def test_the_page_is_right():
    """Every case once, every named test there, the counts right, a reason where one is needed."""
    assert [] == problems(PAGE)


def test_the_page_has_rows_of_every_state():
    """The check above has something to look at."""
    assert set(STATES) == {row["state"] for row in map(ROW.match, PAGE.splitlines()) if row}


def line_of(state):
    """The first row of a state."""
    return next(
        line for line in PAGE.splitlines() if (row := ROW.match(line)) and row["state"] == state
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (line_of("tested"), "", "is there 0 times"),
        (line_of("tested"), f"{line_of('tested')}\n{line_of('tested')}", "is there 2 times"),
        ("| F90 |", "| F91 |", "F91 is no case"),
        ("| F90 |", "| F90", "no row: | F90"),
        ("::test_", "::test_no_such_", "has no test_no_such_"),
        ("`tests/unit/", "`tests/nowhere/", "tests/nowhere/"),
        ("`tests/", "`", "is not written as"),
        ("| tested | ", "| tested | 1", "tested is "),
        ("| open |", "| closed |", "the counts are not there"),
        ("; missing: ", "; ", "partly without a reason"),
        ("not tested: ", "", "open without a reason"),
        ("not built yet: ", "", "open without a reason"),
        (line_of("tested").rpartition(" | ")[2], "nothing |", "tested with 0 tests"),
    ],
)
def test_a_wrong_page_is_noticed(old, new, problem):
    """Each rule bites when the page is changed in one place, or in all of one kind."""
    changed = PAGE.replace(old, new)

    assert changed != PAGE
    assert any(problem in each for each in problems(changed)), problems(changed)
