"""The `tuner` command line: a client of the control API, and the starter of the daemon."""

from tuner.cli import (
    config_commands,
    daemon_commands,
    doctor_command,
    hold_commands,
    install_commands,
    keys_command,
    pin_commands,
    profile_commands,
    status_commands,
    sweep_command,
    tune_commands,
)
from tuner.cli.app import main

for _group in (
    daemon_commands,
    status_commands,
    profile_commands,
    pin_commands,
    hold_commands,
    tune_commands,
    sweep_command,
    doctor_command,
    install_commands,
    keys_command,
    config_commands,
):
    for _command in _group.COMMANDS:
        main.add_command(_command)

__all__ = ["main"]
