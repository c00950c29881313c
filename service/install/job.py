"""One run of the installer: where, what was done, what is left to do, and how it is said."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from profiles.errors import ExitCode
from service.install import host, units
from service.install.plan import Change


@dataclass(kw_only=True)
class Job:
    """One run: where, and what is said at its end."""

    options: argparse.Namespace
    root: Path
    real: bool  # for this machine, and its systemd runs
    notes: list[str] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)

    def do(self, *command: str, timeout_s: float = host.COMMAND_S) -> None:
        """Run a command of systemd now; where it does not run, leave it to the reader."""
        if self.real and not self.options.dry_run:
            host.run(*command, timeout_s=timeout_s)
        else:
            self.commands.append(list(command))

    def tell_systemd(self, files: Mapping[str, str | None]) -> None:
        """Have systemd make users and folders, and read the units again."""
        if files[units.SYSUSERS] is not None:
            self.do("systemd-sysusers", f"/{units.SYSUSERS}")
        self.do("systemd-tmpfiles", "--create", f"/{units.TMPFILES}")
        self.do("systemctl", "daemon-reload")

    def finished(self, changes: list[Change]) -> int:
        """Say what was done; a dry run that would change something is a no, as with diff."""
        options = self.options
        if options.json:
            answer = {
                "v": 1,
                "dry_run": options.dry_run,
                "files": [{"path": str(c.path), "what": c.what, "diff": c.diff()} for c in changes],
                "commands": self.commands,
                "notes": self.notes,
            }
            out(json.dumps(answer, indent=2))
        else:
            for change in changes:
                out(change.diff() if options.dry_run else f"{change.what} {change.path}")
            if not changes:
                out("Every file is as it should be.")
            for command in self.commands:
                out(f"{'would run' if options.dry_run else 'to be run'}: {' '.join(command)}")
            for note in self.notes:
                out(note)
        return int(ExitCode.NEGATIVE) if options.dry_run and changes else 0


def out(text: str) -> None:
    """One answer on standard output."""
    sys.stdout.write(f"{text}\n")
