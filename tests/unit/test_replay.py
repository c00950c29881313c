"""Closed-loop load: what is sent, what is counted, and how it ends."""

import asyncio

import pytest
from scripted_engine import scripted_engine, until

from tuner.replay import SEED, Load, ReplayRequest, pinned, replay

LONG_S = 5.0  # nothing here takes that long


def request(text="a", endpoint="completions", **body):
    return ReplayRequest(endpoint, {"model": "demo", "prompt": text, "max_tokens": 12} | body)


def test_output_lengths_are_pinned():
    """The answer has exactly its limit, streams, and repeats its usage in every chunk."""
    expected = {
        "model": "demo",
        "prompt": "a",
        "max_tokens": 12,
        "min_tokens": 12,
        "ignore_eos": True,
        "n": 1,
        "seed": SEED,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "cache_salt": "s",
    }
    sent = request(n=4, best_of=4, stop=["\n"], min_tokens=1, request_id="r", stream=False)

    assert expected == pinned(sent, salt="s")


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        ("completions", {"max_tokens": None}, 16),
        ("completions", {"max_tokens": 900}, 100),
        ("chat/completions", {"max_tokens": None}, 100),
        ("chat/completions", {"max_completion_tokens": 7}, 7),
    ],
)
def test_the_length_is_the_requests_own_up_to_the_cap(endpoint, body, tokens):
    """Without a limit of its own the endpoint's default counts, and the cap bounds all."""
    sent = pinned(request(endpoint=endpoint, **body), cap=100)

    assert sent is not None
    assert (tokens, tokens) == (sent["max_tokens"], sent["min_tokens"])
    assert "max_completion_tokens" not in sent


@pytest.mark.parametrize(
    "body",
    [{"response_format": {"type": "json_object"}}, {"tools": [{}]}, {"guided_regex": "a+"}],
)
def test_a_grammar_decides_its_own_end(body):
    """A finished grammar allows only the end of text, which must then not be ignored."""
    sent = pinned(request(**body))

    assert sent is not None
    assert {"min_tokens", "ignore_eos"}.isdisjoint(sent)


def test_plain_text_is_no_grammar():
    """`response_format` text means no grammar at all."""
    sent = pinned(request(response_format={"type": "text"}))

    assert sent is not None
    assert sent["ignore_eos"]


@pytest.mark.parametrize("body", [{"min_p": 0.1}, {"logit_bias": {"5": 1}}])
def test_what_speculation_refuses_is_not_replayed(body):
    """These requests would fail for some candidates and not for others."""
    assert pinned(request(**body)) is None


@pytest.mark.parametrize(
    ("prompt", "one"), [(["a", "b"], "a"), ([[1, 2]], [1, 2]), ([1, 2], [1, 2])]
)
def test_a_batch_of_prompts_is_one_request(prompt, one):
    """Token ids are one prompt, a list of prompts is several."""
    sent = pinned(request(prompt))

    assert sent is not None
    assert one == sent["prompt"]


def test_a_request_does_not_show_its_text():
    """A traceback or a log line must not quote a user."""
    assert "secret" not in repr(request("secret"))


def test_nothing_to_replay_is_refused(tmp_path):
    """A load of nothing would measure an idle engine."""
    with pytest.raises(ValueError, match="no request"):
        Load(socket=tmp_path / "s", requests=[request(min_p=0.5)], concurrency=1)


async def test_tokens_are_counted_from_usage_not_from_chunks(tmp_path):
    """The count equals what the engine generated, at three tokens a chunk, and within a window."""
    async with (
        scripted_engine(tmp_path) as engine,
        Load(socket=engine.socket, requests=[request()], concurrency=3) as load,
    ):
        windows = [await load.window(0.15), await load.window(0.15)]
        counted, generated = load.tokens, engine.generated

    assert all(window.output_tokens > 50 for window in windows)
    # at most the chunks that are between the two processes' ends of the socket
    assert 0 <= generated - counted <= 3 * engine.tokens_per_chunk
    assert sum(window.output_tokens for window in windows) <= counted


async def test_concurrency_is_exact_and_lasts(tmp_path):
    """Exactly so many requests are in flight, from the first moment to the last."""
    async with scripted_engine(tmp_path) as engine:
        result = await replay(
            socket=engine.socket, requests=[request()], concurrency=4, seconds=0.3
        )

    assert 4 == engine.in_flight_max
    assert 3.7 < result.busy <= 4
    assert (0, 0) == (result.errors, result.refused)
    assert len(result.timings) == result.requests > 4


async def test_every_window_sends_the_same_order(tmp_path):
    """Two candidates see the same requests in the same order, whatever ran before."""
    requests = [request(str(number)) for number in range(50)]
    async with (
        scripted_engine(tmp_path) as engine,
        Load(socket=engine.socket, requests=requests, concurrency=2) as load,
    ):
        await load.window(0.15, salt="one", first=10)
        await load.window(0.15, salt="two", first=10)

    def order(salt):
        return [body["prompt"] for body in engine.bodies if body["cache_salt"] == f"{salt}-0"][:5]

    assert ["10", "11", "12", "13", "14"] == order("one") == order("two")


async def test_a_second_lap_finds_no_cached_prefix(tmp_path):
    """A faster candidate comes round sooner and must not earn cache hits for it."""
    async with (
        scripted_engine(tmp_path, token_s=0.001) as engine,
        Load(socket=engine.socket, requests=[request()], concurrency=1) as load,
    ):
        await load.window(0.1, salt="s")

    salts = [body["cache_salt"] for body in engine.bodies]
    assert len(salts) > 2
    assert len(set(salts)) == len(salts)


async def test_first_requests_end_at_different_times(tmp_path):
    """Requests of one length would prefill all at once for ever."""
    async with scripted_engine(tmp_path) as engine:
        await replay(socket=engine.socket, requests=[request()], concurrency=4, seconds=0.1)

    assert [3, 6, 9, 12] == sorted(body["max_tokens"] for body in engine.bodies[:4])


@pytest.mark.parametrize("fault", [{"status": 500}, {"error_event": True}, {"truncate": True}])
async def test_a_broken_answer_is_an_error(tmp_path, fault):
    """A server error, an error event before [DONE], and a stream without [DONE] are failures."""
    async with scripted_engine(tmp_path, **fault) as engine:
        result = await replay(
            socket=engine.socket, requests=[request()], concurrency=1, seconds=0.2
        )

    assert result.errors > 0
    assert 0 == result.requests


async def test_a_refused_request_is_not_the_engines_failure(tmp_path):
    """A 4xx answer is the request's fault and counted apart."""
    async with scripted_engine(tmp_path, status=400) as engine:
        result = await replay(
            socket=engine.socket, requests=[request()], concurrency=1, seconds=0.1
        )

    assert (0, 0) == (result.errors, result.requests)
    assert result.refused > 0


async def test_a_dead_engine_ends_the_load_early(tmp_path):
    """Nobody waits for the end of a block when the socket refuses connections."""
    async with asyncio.timeout(LONG_S):
        async with Load(socket=tmp_path / "none", requests=[request()], concurrency=8) as load:
            result = await load.window(60)

    assert load.gone
    assert result.seconds < LONG_S
    assert 0 == result.output_tokens


async def test_cancelling_ends_the_requests_at_once(tmp_path):
    """A daemon that stops does not leave work behind in the engine."""
    async with scripted_engine(tmp_path, token_s=0.05) as engine:
        running = asyncio.create_task(
            replay(socket=engine.socket, requests=[request()], concurrency=3, seconds=60)
        )
        await until(lambda: engine.in_flight == 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await until(lambda: not engine.in_flight)

    assert running.cancelled()
    assert 3 == engine.aborted


async def test_timings_are_of_tokens_not_of_the_first_chunk(tmp_path):
    """A chunk without a token, as chat sends first, is not the first token."""
    async with scripted_engine(tmp_path, token_s=0.02) as engine:
        result = await replay(
            socket=engine.socket, requests=[request()], concurrency=1, seconds=0.5
        )

    first = result.timings[0]
    assert first.ttft_s is not None
    assert first.tpot_s is not None
    assert first.ttft_s >= 0.02
    assert 12 == first.output_tokens
