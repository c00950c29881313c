"""What the peers need: virtual environments of their own, a `vllm` command, and a start counter."""

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

STARTS = "TUNERD_BENCH_STARTS"  # file that gets a line per engine start
VLLM_TUNER = ("vllm-tuner[http,report]==0.1.6",)
# what `vllm bench sweep` imports beyond vLLM; beside the engine's packages, not among them
SWEEP_EXTRAS = ("pandas==2.3.3", "python-dateutil==2.9.0.post0", "six==1.17.0", "pytz==2025.2",
                "tzdata==2025.2")  # fmt: skip


def venv(folder: Path, packages: tuple[str, ...]) -> Path:
    """The interpreter of an environment that holds these packages; made once."""
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = "\n".join(packages)
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _pip(python, *packages)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def beside(folder: Path, packages: tuple[str, ...]) -> Path:
    """A folder with these packages and none of their needs, to put on PYTHONPATH."""
    stamp, wanted = folder / ".installed", "\n".join(packages)
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        _pip(Path(sys.executable), "--target", str(folder), "--no-deps", "--upgrade", *packages)
        stamp.write_text(wanted, encoding="utf-8")
    return folder


def _pip(python: Path, *words: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--progress-bar", "off")
    subprocess.run([str(python), "-m", "pip", "install", *quiet, *words], check=True)


def commands(folder: Path) -> Path:
    """A folder for PATH with `vllm` and `python` of the engine, which count engine starts."""
    folder.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).with_name("vllm_command.py")
    python = shlex.quote(sys.executable)
    _command(folder / "vllm", '"${1-}" = serve', f"{python} {shlex.quote(str(script))}")
    _command(folder / "python", '" $* " = *" --model "*', python)
    return folder


def _command(path: Path, starts_engine: str, target: str) -> None:
    path.write_text(
        "#!/usr/bin/env bash\n"
        f'if [[ {starts_engine} && -n "${{{STARTS}-}}" ]]; then date +%s >> "${STARTS}"; fi\n'
        f'exec {target} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)


def starts(path: Path) -> int:
    """How many engines were started."""
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def versions(python: Path, *names: str) -> dict[str, str]:
    """Versions of distributions in an environment."""
    code = (
        "import json, sys, importlib.metadata as m;"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run(
        [str(python), "-c", code, *names], check=True, capture_output=True, text=True
    )
    return dict(json.loads(answer.stdout))


def ours(*names: str) -> dict[str, str]:
    """Versions of distributions in the project's own environment."""
    return {name: importlib.metadata.version(name) for name in names}


def base_env() -> dict[str, str]:
    """Our environment without what makes our own modules importable."""
    return {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
