"""What tests ask of an installed tunerd from inside its system; the answer is one line.

Usage:  client.py complete|stream PROMPT TOKENS | ask SOCKET UID GID | knock SECONDS | opens PATH...
                  | load SECONDS PROMPT TOKENS | sandbox PATH...
        (stream, load: a line more, `begun`, with the first of the answer)
"""

import errno
import http.client
import json
import mmap
import os
import socket
import sys
import time
from pathlib import Path

ADDRESS = ("127.0.0.1", 8000)
ANSWER_S = 120.0


def complete(prompt: str, tokens: str, *, begun: bool = False) -> str:
    """The text of a completion, sent as a stream and read to [DONE]."""
    body = {"model": "fake", "prompt": prompt, "max_tokens": int(tokens), "temperature": 0}
    connection = http.client.HTTPConnection(*ADDRESS, timeout=ANSWER_S)
    connection.request(
        "POST",
        "/v1/completions",
        json.dumps({**body, "stream": True}),
        {"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    first = response.readline()
    if begun:
        print("begun", flush=True)
    raw = first + response.read()
    lines = [line[5:].strip() for line in raw.decode().splitlines() if line]
    if response.status != 200 or lines[-1:] != ["[DONE]"]:
        return f"{response.status} {lines[-3:]}"
    return "".join(c["text"] for line in lines[:-1] for c in json.loads(line)["choices"])


def stream(prompt: str, tokens: str) -> str:
    """The same, with a word when it has begun."""
    return complete(prompt, tokens, begun=True)


def ask(path: str, uid: str, gid: str) -> str:
    """The status line of `GET /v1/status` on a unix socket as this user, or the error's name."""
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ANSWER_S)
        try:
            link.connect(path)
        except OSError as error:
            return type(error).__name__
        link.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return link.recv(4096).decode(errors="replace").splitlines()[0]


def knock(seconds: str) -> str:
    """Connect every 10 ms for so long: how many connections, and how many were refused."""
    tried = refused = 0
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        tried += 1
        try:
            socket.create_connection(ADDRESS, timeout=ANSWER_S).close()
        except ConnectionRefusedError:
            refused += 1
        time.sleep(0.01)
    return json.dumps({"tried": tried, "refused": refused})


def load(seconds: str, prompt: str, tokens: str) -> str:
    """One completion after the other for so long; how often each text or error was the answer."""
    found: dict[str, int] = {}
    end = time.monotonic() + float(seconds)
    print("begun", flush=True)
    while time.monotonic() < end:
        try:
            text = complete(prompt, tokens)
        except (OSError, http.client.HTTPException) as error:
            text = type(error).__name__
        found[text] = found.get(text, 0) + 1
    return json.dumps(found)


def sandbox(*paths: str) -> str:
    """What a unit lets its process do: open these paths, run what it has written, use a network."""
    code = "executable"
    try:
        mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except OSError as error:
        code = errno.errorcode[error.errno or 0]
    devices = Path("/proc/self/net/dev").read_text(encoding="utf-8").splitlines()
    links = sorted(line.partition(":")[0].strip() for line in devices if ":" in line)
    found = {**json.loads(opens(*paths)), "memory": code, "links": links}
    return json.dumps(found)


def opens(*paths: str) -> str:
    """What opening each file says: the name of the error, or `opened`."""
    found = {}
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY if Path(path).is_dir() else os.O_RDWR))
        except OSError as error:
            found[path] = errno.errorcode[error.errno or 0]
        else:
            found[path] = "opened"
    return json.dumps(found)


if __name__ == "__main__":
    verbs = (complete, stream, ask, knock, opens, load, sandbox)
    print({verb.__name__: verb for verb in verbs}[sys.argv[1]](*sys.argv[2:]), flush=True)
