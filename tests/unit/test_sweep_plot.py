"""The plot of a sweep."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from test_sweep_report import answer, cell, off

from tuner import sweep_plot

SVG = "{http://www.w3.org/2000/svg}"
WHITE, DARK = "#ffffff", "#0d1117"  # GitHub's pages


def drawn(data):
    """The picture as a tree."""
    return ET.fromstring(sweep_plot.svg(data))


def labels(tree):
    """Every text in it."""
    return [element.text for element in tree.iter(f"{SVG}text")]


def points(line):
    """The corners of a polyline."""
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def luminance(color):
    """Relative luminance, as WCAG defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    """The contrast of two colours, 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_one_line_per_concurrency():
    """The corners are the measured cells: right is longer, up is faster."""
    tree = drawn(answer(lengths=[0, 1, 3], cells=answer()["cells"][:3], off=[]))
    [line] = tree.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1), (x3, y3) = points(line)

    assert x1 - x0 == pytest.approx((x3 - x1) / 2, abs=0.2)
    assert y0 > y1 > y3
    assert (551 - 400) / (400 - 228) == pytest.approx((y1 - y3) / (y0 - y1), abs=0.01)


def test_a_missing_cell_is_a_gap():
    """No line is drawn across a draft length without a rate; its neighbours are points."""
    cells = [cell(1, k, None if k == 2 else 100.0 + k) for k in range(5)]
    tree = drawn(answer(lengths=[0, 1, 2, 3, 4], cells=cells, off=[], concurrencies=[1]))

    assert [2, 2] == [len(points(line)) for line in tree.iter(f"{SVG}polyline")]
    inside = sweep_plot.WIDTH - sweep_plot.RIGHT  # the legend, with a dot of its own, is beyond
    dots = [
        c for c in tree.iter(f"{SVG}circle") if c.get("r") == "3" and float(c.get("cx")) <= inside
    ]
    assert 4 == len(dots)


def test_whiskers_are_the_interval():
    """A whisker spans low to high around its point; a cell without an interval has none."""
    data = [cell(1, 0, 500.0, half_width=100.0), cell(1, 1, 400.0) | {"low_tok_s": None}]
    tree = drawn(answer(lengths=[0, 1], cells=data, off=[], winners=[], concurrencies=[1]))
    color = sweep_plot.COLORS[0]
    lines = [line for line in tree.iter(f"{SVG}line") if line.get("stroke") == color]
    upright = [line for line in lines if line.get("x1") == line.get("x2")]
    caps = [line for line in lines if float(line.get("x2")) - float(line.get("x1")) == 6]
    [first, *_] = [points(line)[0] for line in tree.iter(f"{SVG}polyline")]

    assert 1 == len(upright)
    assert 2 == len(caps)
    ends = sorted(float(upright[0].get(name)) for name in ("y1", "y2"))
    assert first[1] == pytest.approx(sum(ends) / 2, abs=0.2)


def test_off_is_a_dashed_line():
    """The rate without speculation lies across the plot, where it was measured."""
    tree = drawn(answer())
    across = [x for x in tree.iter(f"{SVG}line") if x.get("stroke-dasharray")]
    wide = [x for x in across if float(x.get("x2")) - float(x.get("x1")) > 100]

    assert 2 == len(wide)
    assert float(wide[0].get("y1")) > float(wide[1].get("y1"))
    none = drawn(answer(off=[]))
    assert [] == [x for x in none.iter(f"{SVG}line") if x.get("stroke-dasharray")]


def test_the_winner_has_a_ring_and_its_figure():
    """The legend names each concurrency with its best; off as the winner has no point to ring."""
    tree = drawn(answer())
    rings = [c for c in tree.iter(f"{SVG}circle") if c.get("class") == "best"]

    assert 1 == len(rings)
    assert "off 231, best 3: 551 tok/s" in labels(tree)
    assert "off 1 090, best off: 1 090 tok/s" in labels(tree)
    assert "best 3: 551 tok/s" in labels(drawn(answer(off=[])))


def test_axes_have_names_and_units():
    """What is drawn is said on it: units, machine, version, n, and what the whiskers are."""
    found = labels(drawn(answer(confidence=0.95)))

    assert {"draft length (tokens)", "output rate (tok/s)", "0", "1", "3"} <= set(found)
    assert "dflash on org/name" in found
    below = "1x RTX 5090 32GB, vLLM 0.32.0, replayed traffic, 8 rounds, whiskers: 95 % interval"
    assert f"{below}, 2026-11-23 10:33 UTC" in found


@pytest.mark.parametrize("highest", [0.0, 0.03, 1.0, 7.0, 99.0, 578.0, 1460.0, 123_456.0])
def test_ticks_are_round_and_reach_the_top(highest):
    """The highest whisker is inside, and at least half of the height is used."""
    top = sweep_plot._step(highest) * sweep_plot.TICKS

    assert highest <= top
    assert top <= max(5.0, highest * 2)


def test_everything_is_inside():
    """Thirty batch sizes and a long list of draft lengths stay within the picture."""
    cells = [cell(at, k, 10.0 * at + k) for at in range(1, 31) for k in range(65)]
    data = answer(source="live", concurrencies=[], lengths=list(range(65)), cells=cells, off=[])
    tree = drawn(data)
    _, _, width, height = map(float, tree.get("viewBox").split())

    for text in tree.iter(f"{SVG}text"):
        assert 0 <= float(text.get("x")) <= width
        assert 0 <= float(text.get("y")) <= height
    assert "batch size 30" in labels(tree)
    ticks = [t for t in labels(tree) if t.isdecimal()]
    assert len(ticks) <= sweep_plot.LABELS + sweep_plot.TICKS + 1


@pytest.mark.parametrize("page", [WHITE, DARK])
def test_readable_on_white_and_on_dark(page):
    """The picture has no ground of its own; text has a contrast of 4 and lines one of 3."""
    assert contrast(sweep_plot.TEXT, page) >= 4
    assert min(contrast(color, page) for color in sweep_plot.COLORS) >= 3


def test_neighbours_differ():
    """No two of the colours are the same."""
    assert all(a != b for a, b in itertools.combinations(sweep_plot.COLORS, 2))


@pytest.mark.parametrize("odd", ["<b>&\"'", "]]>", "a\x00b\x1b[31m\ud800\ufffe", "x" * 500])
def test_text_of_others_is_escaped(odd):
    """Names make neither tags nor broken XML, and a long one is cut."""
    found = sweep_plot.svg(answer(drafter=odd, machine=odd, model=odd, vllm_version=odd))
    tree = ET.fromstring(found.encode())

    assert {"svg", "title", "text", "line", "polyline", "circle"} == {
        element.tag.removeprefix(SVG) for element in tree.iter()
    }
    assert max(len(text) for text in labels(tree)) <= 130  # of 11 px, which is the width


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"cells": [], "concurrencies": [1], "lengths": [0]},
        {"cells": [cell(1, 4, 100.0)]},
        {"cells": [cell(1, 0, 0.0, half_width=0.0)]},
        {"off": [off(1, 100.0)]},
    ],
    ids=["nothing", "no cells", "one cell", "a rate of 0", "only off"],
)
def test_a_picture_of_little(odd):
    """One cell, one rate or none are drawn without dividing by nothing."""
    tree = drawn(odd)

    assert "draft length (tokens)" in labels(tree)
    assert [] == list(tree.iter(f"{SVG}polyline"))
