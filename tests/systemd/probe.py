"""What a unit's sandbox allows, asked from within it; one line of JSON.

Usage:  probe.py opens PATH... | sandbox PATH... | reaches ADDRESS:PORT... | compiles
"""

import errno
import json
import mmap
import os
import socket
import sys
from functools import partial
from pathlib import Path

CONNECT_S = 2.0  # a filter drops what it refuses, so only patience tells


def said(attempt, success):
    """The success, or the name of the error."""
    try:
        attempt()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return success


def opens(*paths):
    """What opening each file for writing, or each folder, says."""

    def opened(path):
        os.close(os.open(path, os.O_RDONLY if Path(path).is_dir() else os.O_RDWR))

    return {path: said(partial(opened, path), "opened") for path in paths}


def sandbox(*paths):
    """What a unit lets its process do: open these paths, run what it has written, use a network."""
    wanted = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC  # as a just-in-time compiler does
    code = said(lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=wanted).close(), "executable")
    devices = Path("/proc/self/net/dev").read_text(encoding="utf-8").splitlines()
    links = sorted(line.partition(":")[0].strip() for line in devices if ":" in line)
    return {**opens(*paths), "memory": code, "links": links}


def reaches(*addresses):
    """Whether each address can be connected to."""

    def connect(text):
        host, _, port = text.rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()

    return {text: said(partial(connect, text), "reached") for text in addresses}


def compiles():
    """Whether torch.compile does what the function does; with an error of its own if it cannot."""
    import torch

    def function(x):
        return (x.sin() + 1) * x.exp()

    given = torch.arange(64, dtype=torch.float32)
    return {"compiled": torch.allclose(function(given), torch.compile(function)(given))}


if __name__ == "__main__":
    verbs = {each.__name__: each for each in (opens, sandbox, reaches, compiles)}
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])), flush=True)
