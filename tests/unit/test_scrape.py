"""Counters of an engine from its Prometheus text."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.scrape import EngineCounters, difference, parse_counters

# lines of a real vLLM 0.32 with ngram speculation, four draft tokens
REAL = """\
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="demo"} 906.0
# HELP vllm:spec_decode_num_drafts_created Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_created gauge
vllm:spec_decode_num_drafts_created{engine="0",model_name="demo"} 1.795440050602752e+09
# TYPE vllm:spec_decode_num_draft_tokens_total counter
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="demo"} 3117.0
# TYPE vllm:spec_decode_num_accepted_tokens_total counter
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="demo"} 2332.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos_total counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="demo",position="0"} 771.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="demo",position="1"} 604.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="demo",position="2"} 534.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="demo",position="3"} 423.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="demo"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="demo"} 1.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="demo",reason="capacity"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="demo"} 0.25
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="demo"} 2.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="demo"} 18417.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="demo"} 7636.0
# TYPE vllm:request_generation_tokens histogram
vllm:request_generation_tokens_count{engine="0",model_name="demo"} 121.0
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="demo"} 2511.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="demo"} 5234.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="demo"} 92.5
"""
PLAIN = "\n".join(line for line in REAL.splitlines() if "spec_decode" not in line)


def counters(**changes):
    plan = {
        "generation_tokens": 100, "prompt_tokens": 200, "running": 0, "waiting": 0,
        "drafts": 10, "draft_tokens": 40, "accepted_tokens": 15, "accepted_per_position": (9, 6),
        "step_seconds_sum": 2.0, "step_count": 50, "preemptions": 0, "kv_usage": 0.1,
    }  # fmt: skip
    return EngineCounters(**(plan | changes))


def test_a_real_page_is_read():
    """Every figure comes from its own series, not from one with a similar name."""
    expected = EngineCounters(
        generation_tokens=7636,
        prompt_tokens=18417,
        running=4,
        waiting=1,
        drafts=906,
        draft_tokens=3117,
        accepted_tokens=2332,
        accepted_per_position=(771, 604, 534, 423),
        step_seconds_sum=92.5,
        step_count=5234,
        preemptions=2,
        kv_usage=0.25,
        models=frozenset({"demo"}),
    )

    assert expected == parse_counters(REAL)


def test_ranks_are_summed_and_the_fullest_counts():
    """With data parallelism each rank has its own series."""
    other = REAL.replace('engine="0"', 'engine="1"').replace("} 0.25", "} 0.75")

    both = parse_counters(REAL + other)

    assert (2 * 7636, 10468, 0.75) == (both.generation_tokens, both.step_count, both.kv_usage)
    assert (1542, 1208, 1068, 846) == both.accepted_per_position


def test_without_speculation_acceptance_is_missing_not_zero():
    """An engine without a drafter has no such series."""
    plain = parse_counters(PLAIN)

    assert (None, None, None, ()) == (
        plain.drafts,
        plain.draft_tokens,
        plain.accepted_tokens,
        plain.accepted_per_position,
    )


@pytest.mark.parametrize("text", ["", "python_info 1.0\n", "<html>not found</html>"])
def test_another_page_is_refused(text):
    """A page without vLLM's counters must not read as an idle engine."""
    with pytest.raises(ValueError, match="not a vLLM engine"):
        parse_counters(text)


def test_a_window_is_the_difference():
    """Tokens, steps and acceptance between two readings."""
    after = counters(
        generation_tokens=160,
        prompt_tokens=230,
        drafts=30,
        draft_tokens=120,
        accepted_tokens=45,
        accepted_per_position=(26, 19),
        step_seconds_sum=3.0,
        step_count=70,
    )

    window = difference(counters(), after)

    assert window is not None
    assert (60, 30, 0.05) == (
        window.generation_tokens,
        window.prompt_tokens,
        pytest.approx(window.step_mean_s),
    )
    assert window.acceptance is not None
    assert (20, (17, 13), 2.5) == (
        window.acceptance.drafts,
        window.acceptance.accepted_per_position,
        window.acceptance.mean_length,
    )


@pytest.mark.parametrize(
    "field", ["generation_tokens", "prompt_tokens", "drafts", "accepted_tokens", "step_count"]
)
def test_a_falling_counter_is_another_engine(field):
    """Counters only grow; a smaller one belongs to a new process."""
    assert difference(counters(), counters(**{field: 1})) is None


def test_speculation_that_vanished_is_another_engine():
    """An engine does not lose its drafter while it runs."""
    assert difference(counters(), counters(drafts=None)) is None


def test_a_window_without_steps_has_no_step_time():
    """No step is no zero."""
    window = difference(counters(), counters())

    assert window is not None
    assert window.step_mean_s is None


def test_an_engine_without_the_histogram_has_no_step_time():
    """A missing series stays missing in the window."""
    empty = counters(step_seconds_sum=None, step_count=None)

    window = difference(empty, empty)

    assert window is not None
    assert (None, None, None) == (window.step_seconds, window.steps, window.step_mean_s)


CACHE = """\
vllm:prefix_cache_queries_total{engine="0",model_name="demo"} 600.0
vllm:prefix_cache_queries_total{engine="1",model_name="demo"} 400.0
vllm:prefix_cache_hits_total{engine="0",model_name="demo"} 250.0
process_start_time_seconds 1.79e+09
"""


def test_who_the_engine_is_and_what_it_had_cached():
    """The start of the server, the name of its model, and the prefix cache over all ranks."""
    found = parse_counters(PLAIN + "\n" + CACHE)
    without = parse_counters("vllm:generation_tokens_total 5\n")

    assert (1000, 250) == (found.cache_queries, found.cache_hits)
    assert (1.79e9, frozenset({"demo"})) == (found.started_at, found.models)
    assert (0, None, frozenset()) == (without.cache_queries, without.started_at, without.models)


@pytest.mark.parametrize(
    ("after", "share"), [((300, 130), 0.3), ((100, 100), None), ((110, 120), 1.0)]
)
def test_the_share_of_cached_prompt_tokens(after, share):
    """Hits of queries in between; without queries, as with the cache off, it is unknown."""
    before = counters(cache_queries=100, cache_hits=70)
    queries, hits = after
    hits = max(hits, 70)
    found = difference(before, counters(cache_queries=queries, cache_hits=hits))

    assert share == found.cache_hits


@pytest.mark.parametrize("fallen", [{"cache_queries": 99}, {"cache_hits": 69}])
def test_a_prefix_cache_that_counts_backwards_is_another_engine(fallen):
    """These counters fall as little as the others do."""
    before = counters(cache_queries=100, cache_hits=70)

    assert (
        difference(before, counters(**({"cache_queries": 200, "cache_hits": 80} | fallen))) is None
    )


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e400"])
@pytest.mark.parametrize(
    "series", ["generation_tokens_total", "inter_token_latency_seconds_sum", "num_requests_running"]
)
def test_a_counter_that_is_no_number_is_refused(series, value):
    """F82: an infinite counter was an OverflowError, which no measurement expects."""
    page = re.sub(rf"^(vllm:{series}{{.*}}) .*$", rf"\1 {value}", REAL, flags=re.MULTILINE)
    assert page != REAL

    with pytest.raises(ValueError, match=f"{series} is .*: this is no count"):
        parse_counters(page)


def test_a_share_that_is_no_number_is_unknown():
    """F82: how full the cache is is only shown; without it the counters are as good."""
    found = parse_counters(REAL.replace("} 0.25", "} NaN"))

    assert (7636, None) == (found.generation_tokens, found.kv_usage)


@pytest.mark.parametrize("label", ["", ',position="x"', ',place="0"'])
def test_a_position_that_is_none_is_refused(label):
    """F82: a renamed label was a KeyError, which no measurement expects."""
    page = REAL.replace(',position="0"', label)

    with pytest.raises(ValueError, match="invalid literal"):
        parse_counters(page)


def test_a_share_under_its_old_name_is_unknown():
    """F82: vLLM renamed gpu_cache_usage_perc once; what is not there is None and no zero."""
    found = parse_counters(REAL.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"))

    assert (7636, None) == (found.generation_tokens, found.kv_usage)


@given(st.text(max_size=60), st.sampled_from(REAL.splitlines()[2:]), st.integers(0, 200))
def test_no_page_raises_anything_but_a_value_error(text, line, place):
    """F82: whatever an engine answers, the measurement hears of it in one way."""
    page = f"{REAL}{line[:place]}{text}{line[place:]}\n"

    with contextlib.suppress(ValueError):
        parse_counters(page)
