"""The parts of `scripts/bench gateway` that every figure goes through."""

import asyncio
import time

from tests.benchmark_modules import module

gateway = module("gateway")
load = module("gateway_load")
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

    assert (2, 8, 0) == (len(client.firsts), len(client.delays), client.failed)
    assert all(delay >= 0 for delay in client.delays)
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
    assert "1.5" == gateway.shown([1.5], 1)
