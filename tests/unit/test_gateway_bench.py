"""The parts of `scripts/bench gateway` that every figure goes through."""

import asyncio
import random
import time

import pytest

from tests.benchmark_modules import module

gateway = module("gateway")
beside = module("gateway_beside")
load = module("gateway_load")
measure = module("gateway_measure")
memory = module("gateway_memory")
sustained = module("gateway_sustained")
upstream = module("gateway_upstream")


def test_a_chunk_carries_its_time_and_is_as_long_as_a_real_one():
    """The client finds the moment of sending in what the upstream writes."""
    before = time.monotonic_ns()
    chunk = upstream.event(3, last=False)
    found = load.SENT.search(chunk)

    assert before <= int(found[1]) <= time.monotonic_ns()
    assert upstream.CHUNK_BYTES == len(chunk.split(b"\r\n")[1].rstrip(b"\n"))


async def test_delays_are_taken_of_every_chunk_and_lost_chunks_are_seen():
    """Two streams of five chunks: two first delays and eight others; a cut stream is lost."""
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = load.Load(f"http://127.0.0.1:{port}", {})
    await client.run(2, 5, 0.01)

    assert (2, 8, 10, 0) == (
        len(client.firsts), len(client.delays), client.chunks, client.failed
    )  # fmt: skip
    assert all(delay >= 0 for delay in client.delays)
    late = load.Load(f"http://127.0.0.1:{port}", {}, settle_s=60.0)
    await late.run(2, 5, 0.01)

    assert ([], 10) == (late.delays, late.chunks)
    server.close()

    async def cut(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(upstream.HEAD + upstream.event(0, last=False))
        writer.close()

    cutting = await asyncio.start_server(cut, "127.0.0.1", 0)
    port = cutting.sockets[0].getsockname()[1]
    client = load.Load(f"http://127.0.0.1:{port}", {})
    await client.run(1, 5, 0.01)
    cutting.close()

    assert (1, 0, 1) == (len(client.firsts), len(client.delays), client.failed)


def test_the_table_shows_mean_and_interval():
    """Three rounds become a mean and Student's t; one round has no interval."""
    run = {key: 1.0 for key, _, _ in gateway.COLUMNS}
    rows = list(gateway.report({"8 x 100/s": {"direct": [run, {**run, "cpu_us": 3.0}]}}))

    assert rows[-1].startswith("| direct | 2.0 ± 12.7 | 1.00 ± 0.00 |")
    assert "1.5" == measure.shown([1.5], 1)


async def test_streams_follow_each_other_until_the_time_is_over():
    """A steady load keeps its number of streams; every one of them is whole."""
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = load.Load(f"http://127.0.0.1:{port}", {})
    await client.run(3, 4, 0.01, lasting_s=0.3)
    server.close()

    assert 0 == client.failed
    assert 3 < len(client.firsts)
    assert 3 * len(client.firsts) == len(client.delays)


async def test_the_client_also_speaks_to_a_socket(tmp_path):
    """The direct way to a real engine."""
    path = str(tmp_path / "e.sock")
    server = await asyncio.start_unix_server(upstream.answer, path)
    client = load.Load(f"unix:{path}", {})
    await client.run(1, 3, 0.01)
    server.close()

    assert (1, 2, 0) == (len(client.firsts), len(client.delays), client.failed)


def test_a_line_without_noise_has_its_slope_and_no_interval():
    """52 MiB and 35 KiB a stream."""
    found = memory.fit([(n, 52 + n * 35 / 1024) for n in (0, 64, 128, 256)])

    assert pytest.approx(35 / 1024) == found.slope
    assert pytest.approx(0, abs=1e-9) == found.reach


def test_the_interval_of_a_flat_line_holds_zero_as_often_as_it_says():
    """Of 400 fits of noise, 95 % hold the truth; an interval too narrow would find growth."""
    rng = random.Random(3)
    found = [memory.fit([(t, rng.gauss(60, 1)) for t in range(20)]) for _ in range(400)]
    held = sum(abs(each.slope) <= each.reach for each in found)

    assert 365 <= held <= 395  # 380 +- 3.4 standard deviations


def test_blocks_are_means_and_the_unfinished_one_is_left_out():
    """Neighbouring seconds tell the same thing, so they count as one."""
    samples = [(float(t), float(t)) for t in range(25)]

    assert [(4.5, 4.5), (14.5, 14.5)] == memory.blocks(samples, 10.0)


def test_the_memory_page_says_what_was_seen():
    """Per stream, range and slope."""
    results = {
        "steps": [(n, 50 + n / 32) for n in (0, 64, 128)],
        "requests": 7,
        "samples": [(t - 15.0, 60.0 + t % 2) for t in range(200)],
    }
    lines = list(memory.report(results))

    assert "\nA stream takes 32.0 ± 0.0 KiB" == lines[0]
    assert "7 requests: 60.00 to 61.00 MiB, slope 0.00 ± 0.00 MiB/h" in lines[-1]


def rate_run(got, late_ms):
    return {"chunks_s": got, "chunk_p99_ms": late_ms, "cpu_share": 0.5, "chunk_p50_ms": 1.0}


@pytest.mark.parametrize(
    ("runs", "kept"),
    [
        (
            [rate_run(1600, 1), rate_run(1600, 1), rate_run(1600, 50)],
            True,
        ),  # one bad round of three
        ([rate_run(1600, 1), rate_run(1600, 50), rate_run(1600, 50)], False),  # late
        ([rate_run(1200, 1)] * 3, False),  # the rest never came
    ],
)
def test_a_rate_is_kept_up_when_most_rounds_did(runs, kept):
    """In time, and nearly all of it."""
    assert kept == sustained.sustained(runs, 1600)


def test_the_largest_rate_is_below_the_first_that_failed():
    """A rate above a failed one succeeded by luck."""
    good, bad = [rate_run(1e9, 1)], [rate_run(1e9, 99)]
    results = {str(rate): {"g": run} for rate, run in ((25, good), (50, bad), (75, good))}

    assert 25 * sustained.STREAMS == sustained.best(results, "g")
    assert sustained.best({"25": {"g": bad}}, "g") is None
    assert "| 1600 | g | 1000000000 | 50 | 1.00 | 1.0 | yes | 2000000000 |" in list(
        sustained.report(results)
    )


def test_what_moved_is_told_against_the_quiet_run_of_the_same_round():
    """A machine that is slow for a round moves both."""
    quiet = [{"chunk_p50_ms": 1.0, "chunk_p99_ms": 2.0}, {"chunk_p50_ms": 3.0, "chunk_p99_ms": 9.0}]
    hung = [{"chunk_p50_ms": 1.5, "chunk_p99_ms": 2.0}, {"chunk_p50_ms": 3.5, "chunk_p99_ms": 9.0}]
    runs = {"apart": {"quiet": quiet, "hung": hung}}
    lines = list(beside.report({"runs": runs, "search_steps_s": [0.5, 0.7]}))

    assert lines[-2].startswith("| apart | hung | 2.500 ±")
    assert "| 0.500 ± 0.000 |" in lines[-2]
    assert "\n2 search steps of 0.60 s on average, halts included" == lines[-1]
