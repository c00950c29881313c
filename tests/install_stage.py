"""The files of an installation on a machine where nothing is special."""

from pathlib import Path

from service.install import units


def tree(root):
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(root)): path.read_text(encoding="utf-8")
        for path in root.rglob("*")
        if path.is_file()
    }


def wanted(**more):
    """An installation on a machine where nothing is special."""
    usual = {
        "python": "/opt/tuner/bin/python",
        "imports": None,
        "config": "/etc/tuner/tuner.toml",
        "user": "tuner",
        "group": "tuner",
        "listen": "127.0.0.1:8000",
    }
    return units.Wanted(**{**usual, **more})


def rendered(**more):
    """The files of such an installation, by name."""
    return {
        Path(path).name: text
        for path, text in units.files(wanted(**more), units.templates()).items()
        if text is not None
    }


def settings(text, key):
    """The values of a key in a unit, in their order."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]
