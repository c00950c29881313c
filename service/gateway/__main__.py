"""`python -m service.gateway --config FILE`."""

import argparse
import asyncio
import faulthandler
import gc
import os
import sys
from pathlib import Path

import uvloop

from profiles.errors import ExitCode, TunerError
from service.gateway.listener import inherited
from service.gateway.server import serve
from service.logs import configure
from service.notify import Notifier
from tuner.config_file import load


def settle() -> None:
    """Take what the imports made out of the garbage collector's sight.

    A full collection walked these 50 000 objects: 20 ms in which no stream moved.
    """
    gc.collect()
    gc.freeze()


def main() -> int:
    """Run the gateway; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the configuration file")
    arguments = parser.parse_args()
    configure()
    faulthandler.enable()  # a watchdog's SIGABRT leaves the stacks
    try:
        config = load(arguments.config)
        settle()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            listener = inherited(os.environ, os.getpid())
            runner.run(serve(config, listener, Notifier.of(os.environ, os.getpid())))
    except TunerError as error:
        sys.stderr.write(f"{error.sentence()}\n")
        return error.exit_code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
