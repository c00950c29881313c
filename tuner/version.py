"""The version of this installation."""

from importlib import metadata

DISTRIBUTION = "tunerd"


def version() -> str:
    """The installed version; `0+unknown` in a checkout that is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+unknown"
