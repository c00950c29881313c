"""`python -m service.child [--listen FD] -- COMMAND...`: become a child that dies with its parent.

Sets the parent-death signal and, with a socket, the environment of systemd's socket activation,
then becomes the command. A preexec function could do the same, but runs between fork and exec.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
LISTEN_FD = 3  # where systemd puts the first socket


def main(argv: list[str]) -> None:
    """Never returns."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or parent == 1:
        sys.exit(0)  # the parent died before the signal was set
    split = argv.index("--")
    options, command = argv[:split], argv[split + 1 :]
    if options:
        listener = int(options[1])
        if listener == LISTEN_FD:
            os.set_inheritable(listener, True)
        else:
            os.dup2(listener, LISTEN_FD)
        os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
