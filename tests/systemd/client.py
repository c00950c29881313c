"""What tests ask of an installed tunerd from inside its system; the answer is one line.

Usage:  client.py complete|stream PROMPT TOKENS | direct SOCKET PROMPT TOKENS
                | load CLIENTS TOKENS | knock | ask SOCKET UID GID | crowd SOCKET UID UID
        (stream and load: a line more, `begun`, once every answer has begun;
         load and knock: go on until standard input ends)
"""

import collections
import http.client
import json
import os
import select
import socket
import sys
import threading

ADDRESS = ("127.0.0.1", 8000)
ANSWER_S = 120.0
PER_USER = 64  # connections, as tunerd's
HEADERS = {"Content-Type": "application/json"}


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=ANSWER_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(self.path)


def gateway():
    """A connection to the address that applications use."""
    return http.client.HTTPConnection(*ADDRESS, timeout=ANSWER_S)


def wanted(prompt, tokens):
    """The body of a streamed completion."""
    body = {"model": "demo", "prompt": prompt, "max_tokens": int(tokens), "temperature": 0}
    more = {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({**body, **more})


def asked(connection, prompt, tokens, begun):
    """Status, what came of the answer, and whether HTTP says that it is whole."""
    connection.request("POST", "/v1/completions", wanted(prompt, tokens), HEADERS)
    response = connection.getresponse()
    raw = response.readline()
    begun()
    try:
        while piece := response.read1():
            raw += piece
    except (OSError, http.client.HTTPException):
        return response.status, raw.decode(errors="replace"), False
    return response.status, raw.decode(), True


def events(text):
    """The events of a stream."""
    return [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]


def complete(prompt, tokens, *, connection=None, begun=lambda: None):
    """The text of a completion, sent as a stream and read to [DONE]."""
    status, text, whole = asked(connection or gateway(), prompt, tokens, begun)
    lines = events(text)
    if status != 200 or not whole or lines[-1:] != ["[DONE]"]:
        return f"{status} {lines[-3:] or text}"
    return "".join(c["text"] for line in lines[:-1] for c in json.loads(line)["choices"])


def stream(prompt, tokens):
    """The same, with a word when it has begun."""
    return complete(prompt, tokens, begun=lambda: print("begun", flush=True))


def direct(path, prompt, tokens):
    """The same of an engine, past the gateway."""
    return complete(prompt, tokens, connection=UnixConnection(path))


def outcome(prompt, tokens, begun):
    """What became of one request.

    `whole`, `said` (an error in words), `broken` (visibly cut), `refused`, or what must not be:
    `short` and `silent`, which look whole and are not.
    """
    try:
        status, text, whole = asked(gateway(), prompt, tokens, begun)
    except ConnectionRefusedError:
        return "refused"
    except (OSError, http.client.HTTPException):
        return "broken"
    if status != 200:
        return "said" if "message" in json.loads(text).get("error", ()) else f"status {status}"
    lines = events(text)
    if not whole and not text.endswith("\n"):
        lines = lines[:-1]  # cut within
    found = [json.loads(line) for line in lines if line != "[DONE]"]
    done = lines[-1:] == ["[DONE]"]
    if any("error" in event for event in found):
        return "said and done" if done else "said"
    if not whole:
        return "broken"
    count = sum((event.get("usage") or {}).get("completion_tokens", 0) for event in found)
    return ("whole" if count == int(tokens) else "short") if done else "silent"


def load(clients, tokens):
    """So many clients stream one answer after the other; how many requests had which outcome."""
    counts, stopping = collections.Counter(), threading.Event()
    first = threading.Barrier(int(clients) + 1)

    def client(number):
        waiting = [first.wait]  # with the first answer only
        while not stopping.is_set():
            prompt = f"def function_{number}(argument):\n    return"
            counts[outcome(prompt, tokens, lambda: waiting and waiting.pop()())] += 1

    threads = [threading.Thread(target=client, args=[n], daemon=True) for n in range(int(clients))]
    for thread in threads:
        thread.start()
    first.wait(ANSWER_S)
    print("begun", flush=True)
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join(ANSWER_S)
    return json.dumps(counts)


def knock():
    """Connect every 10 ms: how many connections, and how many were refused."""
    tried = refused = 0
    while not select.select([sys.stdin], [], [], 0.01)[0]:
        tried += 1
        try:
            socket.create_connection(ADDRESS, timeout=ANSWER_S).close()
        except ConnectionRefusedError:
            refused += 1
    return json.dumps({"tried": tried, "refused": refused})


def ask(path, uid, gid):
    """The status line of `GET /v1/status` on a unix socket as this user, or the error's name."""
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
    return status_line(path)


def crowd(path, first, second):
    """What a user is told that has as many connections as it may, and then another user."""
    held, told = [], []
    os.seteuid(int(first))
    for _ in range(PER_USER):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(path)
    told.append(status_line(path))
    os.seteuid(0)
    os.seteuid(int(second))
    told.append(status_line(path))
    return json.dumps(told)


def status_line(path):
    """The status line of `GET /v1/status`, or the error's name."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(ANSWER_S)
        try:
            link.connect(path)
        except OSError as error:
            return type(error).__name__
        link.sendall(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return link.recv(4096).decode(errors="replace").splitlines()[0]


VERBS = (complete, stream, direct, load, knock, ask, crowd)

if __name__ == "__main__":
    verbs = {each.__name__: each for each in VERBS}
    print(verbs[sys.argv[1]](*sys.argv[2:]), flush=True)
