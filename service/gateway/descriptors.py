"""How many connections the descriptors of this process are enough for."""

import logging
import resource

log = logging.getLogger(__name__)

PER_CONNECTION = 2  # the client's, and one to the engine while its request runs
# an idle gateway had 17 open; the rest is for admin connections, the keys file and refusals
RESERVE = 64


def fitting(wanted: int, descriptors: int) -> int:
    """The largest number of connections up to the wanted one; at least one."""
    return max(min(wanted, (descriptors - RESERVE) // PER_CONNECTION), 1)


def needed(connections: int) -> int:
    """Descriptors for so many connections."""
    return connections * PER_CONNECTION + RESERVE


def connections(wanted: int) -> int:
    """The wanted number, or what this process can have, with a warning.

    The soft limit is raised first: it is often 1024 for the sake of select(), unused here.
    """
    need = needed(wanted)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _enough(soft, need):
        best = need if _enough(hard, need) else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
        except (OSError, ValueError):  # the unit's SystemCallFilter= refuses it
            log.debug("The limit of open files stays at %s.", soft)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if _enough(soft, need):
        return wanted
    found = fitting(wanted, soft)
    log.warning(
        "Only %s of gateway.connections = %s are accepted: %s open files are allowed. "
        "Set LimitNOFILE=%s in the unit (without systemd: `ulimit -n %s`), or lower "
        "gateway.connections.",
        found,
        wanted,
        soft,
        need,
        need,
    )
    return found


def _enough(limit: int, need: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= need
