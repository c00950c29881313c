import json
from pathlib import Path

import pytest
import search
from search_computed import computed, step_s
from search_engine import Engine, Noise
from search_landscapes import Landscape, load
from search_methods import METHODS
from search_score import Run, family_p90, interval, p90, quantile, runs

INVENTED = Path(__file__).parents[1] / "data" / "invented"
SILENT = Noise(start=0, block=0, slow=0, tokens=0)


@pytest.fixture(scope="module")
def atlas():
    return load(INVENTED)


def named(atlas, name):
    """The landscape of this name."""
    return next(one for one in (*atlas.landscapes, *atlas.switches) if one.name == name)


def test_every_concurrency_is_a_landscape(atlas):
    """The best length moves with the load, so one file is several questions."""
    assert {
        "drafters concurrency=1 eagle3": 8,
        "peak concurrency=1": 3,
        "peak concurrency=8": 0,
        "ragged": 4,
    } == {one.name: one.best for one in atlas.landscapes}


def test_phases_and_drafters_with_two_lengths_are_switches(atlas):
    """Off or on; off belongs to every drafter, and ratios give a rate where none was published."""
    rates = {one.name: dict(one.rates) for one in atlas.switches}

    assert {0: 100.0, 15: 190.0} == rates["phases concurrency=1 phase=high"]
    assert {0: 100.0, 9: 210.0} == rates["drafters concurrency=1 dflash"]


def test_failed_lengths_can_be_started_and_fail(atlas):
    """They cost a start, as they would; a point that is only missing is left out."""
    ragged = named(atlas, "ragged")
    reading = Engine(landscape=ragged, seed=0).measure(6)

    assert (2, 3, 4, 6) == ragged.lengths
    assert reading.log_tok_s is None


def test_everything_left_out_is_said(atlas):
    """Policies, missing rates, doubles and files of another kind each have a sentence."""
    text = "\n".join(atlas.skipped)

    for sentence in ("policy 'adaptive'", "without a rate", "same numbers", "not a landscape",
                     "1 draft length"):  # fmt: skip
        assert sentence in text


def test_repeats_are_averaged_and_acceptance_is_kept(atlas):
    """The second run of a cell is as true as the first."""
    assert 315.0 == named(atlas, "peak concurrency=8").rates[3]
    assert {1: 1.9, 2: 2.5} == dict(named(atlas, "peak concurrency=1").tokens)


def test_directory_without_landscapes_is_refused(tmp_path):
    """The sentence says what to give."""
    with pytest.raises(SystemExit, match="Cannot find a landscape"):
        load(tmp_path)


def test_computed_landscapes_know_their_histograms():
    """A start at 15 speaks of every shorter length."""
    found = computed(INVENTED)
    reading = Engine(landscape=found[0], seed=0, noise=SILENT).measure(15)

    assert 4 == len(found)
    assert {1, 2, 3, 8, 15} <= set(reading.tokens)
    assert step_s("eagle", 5, 1) > step_s("ngram", 5, 1) > step_s("ngram", 0, 1)


def test_starts_are_the_same_for_every_method(atlas):
    """The n-th start of a length has its noise whatever was started before: methods are paired."""
    one, other = (Engine(landscape=named(atlas, "peak concurrency=1"), seed=3) for _ in range(2))
    one.measure(2)

    assert one.measure(3).log_tok_s == other.measure(3).log_tok_s
    assert one.measure(3).log_tok_s != other.readings[0].log_tok_s
    assert 3 * 130 == one.seconds


@pytest.mark.parametrize("method", METHODS[:8], ids=lambda method: method.name)
def test_methods_end_and_choose_what_they_started(method, atlas):
    """Every method on every landscape, without noise."""
    for run in runs(method, atlas.landscapes, 2, SILENT):
        assert run.starts == len(run.path)
        assert 0 <= run.regret() < 1


def test_our_search_solves_the_invented_landscapes(atlas):
    """Within 2 % on each of them, after at most four lengths."""
    for run in runs(METHODS[0], atlas.landscapes, 3, SILENT):
        assert run.regret() <= 0.02
        assert run.lengths <= 4


def test_quantiles_and_families():
    """Pooled, the large family decides; with families alike, the small one counts as much."""

    def run(family, lost):
        rates = {0: 1.0 - lost, 1: 1.0}
        landscape = Landscape(name=f"{family}{lost}", family=family, rates=rates)
        return Run(landscape=landscape, seed=0, path=(0,), starts=1, lengths=1)

    found = [*(run("large", 0.0) for _ in range(19)), run("small", 0.5)]

    assert 2 == quantile([3, 1, 2, 4], 0.5)
    assert 0.0 == p90(found)
    assert 0.5 == family_p90(found)
    assert (0.0, 0.5) == interval(found, p90, 100)


def test_benchmark_runs_on_any_directory(capsys, tmp_path, monkeypatch):
    """Two seeds from the loader to the last table, and the raw rows."""
    monkeypatch.setattr(search, "ROOT", tmp_path)
    out = tmp_path / "rows.json"

    assert 0 == search.main([str(INVENTED), "--seeds", "2", "--out", str(out)])

    text = capsys.readouterr().out
    for title in ("True regret", "By starts", "Speculation off", "Ablations", "A/A", "Families"):
        assert f"## {title}" in text
    rows = json.loads(out.read_text())
    assert {"choice", "starts"} == set(rows["runs"]["random"]["ragged"])
    assert 1 == len(list((tmp_path / ".cache" / "bench").glob("search-*.json")))
