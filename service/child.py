"""`python -m service.child --parent PID [--listen FD] -- COMMAND...`: dies with its parent.

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
    split = argv.index("--")
    options, command = dict(zip(argv[:split:2], argv[1:split:2], strict=True)), argv[split + 1 :]
    # a program that wants to hear SIGHUP says so itself; until then it is no reason to end
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # pid 1 is a fine parent (a container), so only its own word tells whether it still lives
    if os.getppid() != int(options["--parent"]):
        sys.exit(0)  # the parent died before the signal was set
    if "--listen" in options:
        listener = int(options["--listen"])
        if listener == LISTEN_FD:
            os.set_inheritable(listener, True)
        else:
            os.dup2(listener, LISTEN_FD)
        os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
