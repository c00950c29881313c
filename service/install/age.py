"""When the code of this environment was last changed."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("profiles", "tuner", "service")


def of_code() -> float:
    """Seconds since the epoch: the newest file of tunerd, or installation of a dependency.

    It is the change of the inode that counts: installers keep the time of the content.
    """
    return max((path.stat().st_ctime for path in _files()), default=0.0)


def _files() -> Iterator[Path]:
    ours = Path(__file__).resolve().parents[2]
    for name in PACKAGES:
        for path in (ours / name).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":  # written by whoever imports first
                yield path
    for kind in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        yield from Path(kind).glob("*.dist-info/RECORD")
