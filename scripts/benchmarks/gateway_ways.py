"""The ways from the client to the upstream: direct, tunerd's gateway, nginx, LiteLLM."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from peers_process import end_group, free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COME_UP_S = 120.0  # LiteLLM imports for half a minute here
KEY = "sk-bench"


@dataclass(frozen=True, kw_only=True)
class Way:
    """An address, and the process whose cost it is."""

    name: str
    url: str
    pid: int
    headers: tuple[str, ...] = ()

    def _tree(self) -> list[psutil.Process]:
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time so far of the process and its children."""
        times = [process.cpu_times() for process in self._tree()]
        return sum(one.user + one.system for one in times)

    def pin(self, cores: Sequence[int]) -> None:
        """Keep its processes on these cores."""
        for process in self._tree():
            process.cpu_affinity(list(cores))

    def rss_mib(self) -> float:
        """Resident memory now."""
        return sum(process.memory_info().rss for process in self._tree()) / 2**20


def spawn(
    stack: contextlib.ExitStack, folder: Path, name: str, command: Sequence[str], **env: str
) -> int:
    """Start a process that ends with the stack, its whole group; its id."""
    log = stack.enter_context((folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        list(command),
        env={**os.environ, **env},
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    stack.callback(end_group, process)
    return process.pid


def reachable(port: int, what: str) -> None:
    """Wait until somebody listens.

    Raises:
        SystemExit: nobody does.
    """
    end = time.monotonic() + COME_UP_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"{what} did not come up within {COME_UP_S:.0f} s.")


def ways(
    stack: contextlib.ExitStack,
    folder: Path,
    litellm: Path | None = None,
    base: Path | None = None,
) -> list[Way]:
    """Start everything; the direct way first, and another checkout's gateway where one is named."""
    socket_path, port = folder / "upstream.sock", free_port()
    found = [upstream(stack, folder, socket_path, port), tunerd(stack, folder, socket_path)]
    if base is not None:
        before = tunerd(stack, folder, socket_path, root=base, name="tunerd gateway, before")
        found.append(before)
    if shutil.which("nginx"):
        found.append(nginx(stack, folder, socket_path))
    if litellm is not None:
        found.append(lite(stack, folder, litellm, port))
    return found


def upstream(stack: contextlib.ExitStack, folder: Path, socket_path: Path, port: int) -> Way:
    """The scripted engine, and the way past every proxy."""
    script = str(HERE / "gateway_upstream.py")
    command = [sys.executable, script, "--uds", str(socket_path), "--port", str(port)]
    pid = spawn(stack, folder, "upstream", command)
    reachable(port, "The upstream")
    return Way(name="direct", url=f"http://127.0.0.1:{port}", pid=pid)


def tunerd(
    stack: contextlib.ExitStack,
    folder: Path,
    engine: Path,
    *,
    root: Path = ROOT,
    name: str = "tunerd gateway",
) -> Way:
    """The gateway of a checkout, with the upstream as the engine in force."""
    port, own = free_port(), folder / name.replace(" ", "-").replace(",", "")
    own.mkdir()
    config = own / "tuner.toml"
    config.write_text(
        f'state_dir = "{own}"\nruntime_dir = "{own}/run"\n[engine]\nmodel = "m"\n'
        f'[gateway]\nlisten = "127.0.0.1:{port}"\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "service.gateway", "--config", str(config)]
    pid = spawn(stack, own, "gateway", command, PYTHONPATH=str(root.resolve()))
    reachable(port, "The gateway")
    route(own / "run" / "gateway.sock", engine)
    return Way(name=name, url=f"http://127.0.0.1:{port}", pid=pid)


def route(admin_socket: Path, engine: Path) -> None:
    """Put an engine in force.

    Raises:
        SystemExit: the gateway refused.
    """
    place = {"socket": str(engine), "token": "t", "profile": "p", "refuses_plain": False}
    wish = {"gate": "open", "reason": "bench", "eta_s": None, "ttl_s": None, "engine": place}
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as admin:
        admin.connect(str(admin_socket))
        body = json.dumps(wish).encode()
        admin.sendall(
            b"PUT /route HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        answer = admin.recv(65536)
    if b" 200 " not in answer.split(b"\r\n")[0]:
        raise SystemExit(f"The gateway refused the route: {answer.decode()}")


def nginx(stack: contextlib.ExitStack, folder: Path, upstream: Path) -> Way:
    """One worker, unbuffered, as its documentation advises for server-sent events."""
    port, config = free_port(), folder / "nginx.conf"
    user = "user root; " if os.geteuid() == 0 else ""  # else its worker may not enter the folder
    config.write_text(
        f"{user}daemon off; worker_processes 1; pid {folder}/nginx.pid;\n"
        f"error_log {folder}/nginx.err;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body;\n"
        f" proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;\n"
        f" uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f" upstream up {{ server unix:{upstream}; keepalive 512; }}\n"
        f" server {{ listen 127.0.0.1:{port};\n"
        "  location / { proxy_pass http://up; proxy_buffering off; proxy_http_version 1.1;\n"
        '   proxy_set_header Connection ""; proxy_read_timeout 600s; } } }\n',
        encoding="utf-8",
    )
    pid = spawn(stack, folder, "nginx", ["nginx", "-c", str(config), "-p", str(folder)])
    reachable(port, "nginx")
    return Way(name="nginx", url=f"http://127.0.0.1:{port}", pid=pid)


def lite(stack: contextlib.ExitStack, folder: Path, python: Path, upstream_port: int) -> Way:
    """LiteLLM's proxy with one worker and no database."""
    port, config = free_port(), folder / "litellm.yaml"
    config.write_text(
        "model_list:\n- model_name: m\n  litellm_params:\n    model: openai/m\n"
        f"    api_base: http://127.0.0.1:{upstream_port}/v1\n    api_key: {KEY}\n"
        f"general_settings:\n  master_key: {KEY}\n",
        encoding="utf-8",
    )
    command = [str(python.absolute().parent / "litellm"), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    pid = spawn(stack, folder, "litellm", command, LITELLM_LOCAL_MODEL_COST_MAP="True")
    reachable(port, "LiteLLM")
    with contextlib.suppress(OSError):  # it is up when this answers, whatever it says
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=60).read()
    return Way(
        name="LiteLLM",
        url=f"http://127.0.0.1:{port}",
        pid=pid,
        headers=(f"Authorization: Bearer {KEY}",),
    )
