"""The client of `bench gateway`: many streams at once, and how late each chunk came."""

import argparse
import asyncio
import json
import re
import sys
import time
from urllib.parse import urlsplit

import uvloop

PATH = "/v1/chat/completions"
SENT = re.compile(rb'"content": ?"(\d+)"')  # what the upstream's word is


class Load:
    """Streams through one address; delays in s, one per chunk, the first ones apart."""

    def __init__(self, url: str, headers: dict[str, str], settle_s: float = 0.0) -> None:
        parts = urlsplit(url)
        self.socket = parts.path if parts.scheme == "unix" else None
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.headers = headers
        self.firsts: list[float] = []
        self.delays: list[float] = []
        self.failed = 0
        self.chunks = 0
        self.counts_from = time.monotonic() + settle_s  # delays of before are the start's

    async def stream(self, count: int, token_s: float) -> None:
        """One request; the first chunk is late by what it took beyond one interval."""
        body = json.dumps(
            {
                "model": "m",
                "messages": [{"role": "user", "content": "hello"}],
                "stream": True,
                "max_tokens": count,
                "temperature": token_s,  # the pace, in the one number that every proxy passes on
            }
        ).encode()
        head = [f"POST {PATH} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        reader, writer = await self._connect()
        began = time.monotonic()
        writer.write("\r\n".join([*head, "Connection: close", "", ""]).encode() + body)
        seen = 0
        async for line in reader:
            now = time.monotonic()
            if not line.startswith(b"data: {"):
                continue
            found = SENT.search(line)
            if found is None:
                continue  # what a proxy adds of its own
            if seen == 0:
                self.firsts.append(now - began - token_s)
            elif now >= self.counts_from:
                self.delays.append(now - int(found[1]) / 1e9)
            seen += 1
            self.chunks += 1
        self.failed += seen != count
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.socket is not None:
            return await asyncio.open_unix_connection(self.socket, limit=1 << 20)
        return await asyncio.open_connection(self.host, self.port, limit=1 << 20)

    async def run(self, streams: int, count: int, token_s: float, lasting_s: float = 0.0) -> None:
        """So many streams, each followed by another until the time is over.

        They begin spread over one interval, so that chunks do not come in step, or over the length
        of a stream when they are followed by others.
        """
        spread_s = token_s * (count if lasting_s else 1)
        end = time.monotonic() + lasting_s

        async def one(index: int) -> None:
            await asyncio.sleep(index * spread_s / streams)
            await self.stream(count, token_s)
            while time.monotonic() < end:
                await self.stream(count, token_s)

        await asyncio.gather(*(one(index) for index in range(streams)))


async def main() -> None:
    """Print the delays as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--token-s", type=float, required=True)
    parser.add_argument("--lasting-s", type=float, default=0.0)
    parser.add_argument("--settle-s", type=float, default=0.0)
    options = parser.parse_args()
    headers = dict(line.split(": ", 1) for line in options.header)
    load = Load(options.url, headers, options.settle_s)
    began = time.monotonic()
    await load.run(options.streams, options.tokens, options.token_s, options.lasting_s)
    json.dump(
        {
            "firsts": load.firsts,
            "delays": load.delays,
            "chunks": load.chunks,
            "failed": load.failed,
            "wall_s": time.monotonic() - began,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    uvloop.run(main())
