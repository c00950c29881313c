"""What tests ask of an installed tunerd from inside its system; the answer is one line.

Usage:  client.py complete|stream PROMPT TOKENS | ask SOCKET UID GID | knock SECONDS | opens PATH...
        (stream: a line more, `begun`, with the first of the answer)
"""

import errno
import http.client
import json
import os
import socket
import sys
import time

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


def opens(*paths: str) -> str:
    """What opening each file says: the name of the error, or `opened`."""
    found = {}
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError as error:
            found[path] = errno.errorcode[error.errno or 0]
        else:
            found[path] = "opened"
    return json.dumps(found)


if __name__ == "__main__":
    verbs = {"complete": complete, "stream": stream, "ask": ask, "knock": knock, "opens": opens}
    print(verbs[sys.argv[1]](*sys.argv[2:]), flush=True)
