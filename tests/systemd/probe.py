"""What a unit's sandbox allows, asked from within it; one line of JSON.

Usage:  probe.py opens PATH... | reaches ADDRESS:PORT... | memory | compiles | sandbox PATH...
"""

import errno
import json
import mmap
import os
import socket
import sys
from pathlib import Path

CONNECT_S = 2.0  # a filter drops what it refuses, so only patience tells


def said(attempt):
    """`yes`, or the name of the error."""
    try:
        attempt()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "yes"


def opens(*paths):
    """Whether each file can be opened for reading and writing, or folder for reading."""

    def attempt(path):
        os.close(os.open(path, os.O_RDONLY if Path(path).is_dir() else os.O_RDWR))

    return {path: said(lambda path=path: attempt(path)) for path in paths}


def reaches(*addresses):
    """Whether each address can be connected to."""

    def connect(text):
        host, _, port = text.rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()

    return {text: said(lambda text=text: connect(text)) for text in addresses}


def memory():
    """Whether memory can be had that is both written and executed, as just-in-time compilers do."""
    wanted = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    return {"write and execute": said(lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=wanted).close())}


def sandbox(*paths):
    """The first and the third of these at once, and which network devices there are."""
    devices = Path("/proc/self/net/dev").read_text(encoding="utf-8").splitlines()
    links = sorted(line.partition(":")[0].strip() for line in devices if ":" in line)
    return {**opens(*paths), **memory(), "links": links}


def compiles():
    """Whether torch.compile does what the function does; with an error of its own if it cannot."""
    import torch

    def function(x):
        return (x.sin() + 2) * x.exp()

    given = torch.linspace(0, 1, 64)
    return {"compiled": torch.allclose(function(given), torch.compile(function)(given))}


if __name__ == "__main__":
    verbs = {each.__name__: each for each in (opens, reaches, memory, compiles, sandbox)}
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])), flush=True)
