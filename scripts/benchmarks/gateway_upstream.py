"""A scripted engine for `bench gateway`: paced SSE chunks that carry the time of their sending."""

import argparse
import asyncio
import json
import time

import uvloop

CHUNK_BYTES = 260  # what vLLM sends for a token of a chat
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def framed(data: bytes) -> bytes:
    """A chunk of the transfer encoding."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(index: int, *, last: bool) -> bytes:
    """A chunk of a chat completion, as long as a real one; its word is the clock in ns."""
    reason = '"stop"' if last else "null"
    text = (
        f'data: {{"id":"chatcmpl-{index:08d}","object":"chat.completion.chunk",'
        f'"created":1790000000,"model":"m","choices":[{{"index":0,'
        f'"delta":{{"role":"assistant","content":"{time.monotonic_ns()}"}},"logprobs":null,'
        f'"finish_reason":{reason}}}]}}'
    )
    return framed(text.ljust(CHUNK_BYTES).encode() + b"\n\n")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection: streams of `max_tokens` chunks, one every `token_s`."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.lower().split(b"\r\n")
            length = next(
                (int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0
            )
            body = json.loads(await reader.readexactly(length) or b"{}")
            await stream(writer, int(body["max_tokens"]), float(body["temperature"]))
            if b"connection: close" in lines:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def stream(writer: asyncio.StreamWriter, count: int, token_s: float) -> None:
    """Send the chunks at fixed times, whatever the ones before took."""
    writer.write(HEAD)
    began = time.monotonic()
    for index in range(count):
        await asyncio.sleep(max(0.0, began + (index + 1) * token_s - time.monotonic()))
        writer.write(event(index, last=index + 1 == count))
        await writer.drain()
    writer.write(framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await writer.drain()


async def main() -> None:
    """Listen on a unix socket and on a port until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    first = await asyncio.start_unix_server(answer, options.uds, backlog=1024)
    second = await asyncio.start_server(answer, "127.0.0.1", options.port, backlog=1024)
    print("ready", flush=True)
    await asyncio.gather(first.serve_forever(), second.serve_forever())


if __name__ == "__main__":
    uvloop.run(main())
