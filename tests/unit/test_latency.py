"""Statistics of per-request timings."""

import pytest

from tuner.latency import Timing, mean, percentile, summarise


def timing(sent_s, first_s, last_s, tokens):
    return Timing(sent_s=sent_s, first_token_s=first_s, last_token_s=last_s, output_tokens=tokens)


@pytest.mark.parametrize(("share", "expected"), [(0, 1.0), (0.5, 2.5), (0.95, 3.85), (1, 4.0)])
def test_quantiles_are_linear_between_neighbours(share, expected):
    """The order of the values does not matter."""
    assert expected == pytest.approx(percentile([4.0, 1.0, 3.0, 2.0], share))


def test_nothing_has_no_quantile_and_no_mean():
    """Missing is None, never 0."""
    assert (None, None) == (percentile([], 0.5), mean([]))


def test_a_share_beyond_one_is_refused():
    """A percentage instead of a share is a mistake of the caller."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile([1.0], 95)


def test_time_per_token_leaves_out_the_first():
    """The first token is the prompt's time; the others share the rest."""
    one = timing(10.0, 10.5, 12.5, 5)

    assert (0.5, 0.5) == (one.ttft_s, one.tpot_s)


def test_one_token_has_no_time_per_token():
    """With nothing after the first token there is nothing to share."""
    assert timing(0.0, 1.0, 1.0, 1).tpot_s is None


def test_a_block_is_summarised_over_what_is_known():
    """A request without tokens adds nothing, instead of a zero."""
    figures = summarise([timing(0.0, 1.0, 3.0, 3), timing(0.0, None, None, 0)])

    assert (1.0, 1.0, 1.0) == (figures.ttft_p50_s, figures.ttft_p95_s, figures.tpot_mean_s)
    assert (1.0, 3.0) == (figures.tpot_p99_s, figures.latency_p95_s)


def test_the_tails_of_a_block_are_those_of_its_slowest_requests():
    """99 % of the times per token, 95 % of the times to the last one."""
    figures = summarise([timing(0.0, 0.1, 0.1 + n, 11) for n in range(101)])

    assert 9.9 == pytest.approx(figures.tpot_p99_s)
    assert 95.1 == pytest.approx(figures.latency_p95_s)


def test_tokens_that_arrive_together_are_not_fast():
    """A chunk of a speculating engine holds several tokens; each of them took its share."""
    one = timing(0.0, 1.0, 2.0, 11)  # ten tokens in two chunks half a second apart

    assert 0.1 == pytest.approx(summarise([one]).tpot_p99_s)
