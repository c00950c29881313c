"""A machine with scripted GPUs: the real pynvml on a stub of libnvidia-ml.so.1, compiled here."""

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"
SONAME = "libnvidia-ml.so.1"
# for this process it must not have that name: whatever asks for it later would be given the stub
INSIDE = "nvml_stub.so"
FLAGS = ("-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
SCRIPT_VARIABLE = "NVML_STUB"
CARD = {
    "name": "NVIDIA X", "power": 250_500, "temp": 61, "energy": 0, "energy_w": 200,
    "total": 81920, "used": 5, "util": 50, "reasons": "0x4", "sm": 1980, "mem": 2619, "mig": 0,
}  # fmt: skip


@dataclass
class Machine:
    """What the driver says, changed line by line while somebody watches."""

    folder: Path  # of the library
    script: Path
    lines: dict[str, object] = field(default_factory=dict)
    more: list[str] = field(default_factory=list)  # errors, hangs and processes

    def cards(self, count=1):
        """So many sound cards."""
        self.lines = {"count": count, "driver": "580.65"}
        for number in range(count):
            facts = {"uuid": f"GPU-{number}", **CARD}
            self.lines |= {f"{number}.{key}": value for key, value in facts.items()}
        return self.write()

    def set(self, **lines):
        """Change facts: `set(gpu0_temp=80)`; None takes the sensor away."""
        for name, value in lines.items():
            key = name.replace("gpu0_", "0.").replace("gpu1_", "1.")
            self.lines[key] = value
        return self.write()

    def say(self, *more):
        """These lines and no others about errors, hangs and processes."""
        self.more = list(more)
        return self.write()

    def write(self):
        """Put it into force, at once and whole."""
        known = [f"{key} {value}" for key, value in self.lines.items() if value is not None]
        fresh = self.script.with_suffix(".new")
        fresh.write_text("\n".join([*known, *self.more]) + "\n")
        fresh.replace(self.script)
        return self

    def environ(self):
        """What a process needs to find this driver instead of the real one."""
        path = os.environ.get("LD_LIBRARY_PATH")
        library_path = f"{self.folder}:{path}" if path else str(self.folder)
        return {"LD_LIBRARY_PATH": library_path, SCRIPT_VARIABLE: str(self.script)}


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """The folder of the compiled stub; without a C compiler the tests are skipped."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("There is no C compiler to build the stub of NVML with (apt install gcc).")
    folder = tmp_path_factory.mktemp("nvml")
    for name in (SONAME, INSIDE):
        command = [compiler, *FLAGS, f"-Wl,-soname,{name}", "-o", str(folder / name), str(SOURCE)]
        subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture
def elsewhere(driver, tmp_path):
    """A machine with one sound card, for processes that are started with its `environ`."""
    return Machine(folder=driver, script=tmp_path / "gpus.txt").cards()


@pytest.fixture
def machine(elsewhere, monkeypatch):
    """A machine with one sound card, for the real pynvml in this process."""
    monkeypatch.setenv(SCRIPT_VARIABLE, str(elsewhere.script))
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(elsewhere.folder / INSIDE)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    yield elsewhere
    elsewhere.say()  # whoever still hangs in the driver comes back
