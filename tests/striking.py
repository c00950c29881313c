"""Strikes at every point of the daemon's work, on stages that are shared by many of them.

A stage serves, a scenario makes tunerd pass the point, tunerd dies there by SIGKILL or of a
defect, the supervisor brings another one, and then everything has to be as it should be.
"""

import contextlib
import http.client
import json
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator

from stage import Stage, UnixConnection, staged, until
from vllm_tree import TREE

from service.inject import POINTS, VARIABLE, Point, before
from service.modes import Effect

WORKLOAD = "greedy.balanced.single"
REACHED_S = 60.0
# a child that lives for less than ten seconds counts as failed, and after five of them all ends
RUN = (
    "import sys; from service import run; run.OKAY_S = 0.0; run.RESTART_S = 0.05; "
    "sys.exit(max(run.main(), 0))"
)
EXPECTED = 4  # processes: supervisor, gateway, tunerd, engine
SHORT = {
    "auto": "off",
    "trials": 2,
    "warmup_s": 0.05,
    "block_s": 0.1,
    "blocks": 1,
    "pairs": 2,
    "space": {"draft_lengths": [3]},
}


class Struck:
    """One stage, and what happens to its tunerd."""

    def __init__(self, stage: Stage, action: str) -> None:
        self.stage, self.action = stage, action
        self.wrong: list[str] = []  # answers that were not
        self._file = stage.folder / "inject"
        self._bad = iter(range(15, 3, -1))  # draft lengths that do not start, each used once
        self._done = threading.Event()
        stage.environment[VARIABLE] = str(self._file)
        stage.code = RUN

    def serve(self) -> None:
        """Start, with engines of some draft lengths that never come up, and a client."""
        self.well()
        self.stage.start()
        self._client = threading.Thread(target=self._ask_on)
        self._client.start()

    def end(self) -> None:
        """No more requests; nothing of an engine may be left when everything was told to stop."""
        self._done.set()
        self._client.join()
        assert 0 == self.stage.stop()
        assert [] == self.stage.processes()

    def well(self) -> None:
        lengths = list(range(9, 16))
        self.stage.script(exit={"code": 1, "log": "flag", "draft_lengths": lengths})

    def strike(self, point: str, provoke: Callable[["Struck"], None]) -> list[str]:
        """What is not as it should be after a fault at this point."""
        self.stage.settled()
        self._file.write_text(f"{point} {self.action}", encoding="utf-8")
        with contextlib.suppress(OSError, http.client.HTTPException):
            provoke(self)  # tunerd may be gone before it has answered
        with contextlib.suppress(AssertionError):
            until(lambda: not self._file.exists(), point, REACHED_S)
        if self._file.exists():
            self._file.unlink()
            return [f"never reached; {self.stage.status()}"]
        (spent,) = self._file.parent.glob(f"{self._file.name}.*")
        spent.unlink()
        pid = int(spent.suffix[1:])
        self.well()
        self.stage.becomes("another tunerd", lambda s: s["pid"] != pid)
        self.stage.settled()
        return self.problems()

    def problems(self) -> list[str]:
        """Everything that disagrees while the stage serves."""
        stage, found = self.stage, []
        reply = stage.complete("after", 8)
        if not reply.right("after", 8):
            found.append(f"a request got {reply}")
        found += self.wrong
        self.wrong = []
        with contextlib.suppress(AssertionError):  # questions to the installed vLLM come and go
            until(lambda: len(stage.processes()) == EXPECTED, deadline_s=10.0)
        lines = [" ".join(process.cmdline()) for process in stage.processes()]
        if len(lines) != EXPECTED or len(stage.engines()) != 1:
            found.append(f"these run: {lines}")
        with contextlib.closing(sqlite3.connect(stage.store)) as database:
            whole = database.execute("PRAGMA quick_check").fetchone()[0]
            query = "SELECT profile FROM in_force ORDER BY id DESC LIMIT 1"
            stored = database.execute(query).fetchone()[0]
        if whole != "ok":
            found.append(f"the store is not whole: {whole}")
        status, record = stage.settled(), stage.record
        assert record is not None
        shown = status["profile"]["id"], status["engine"]["token"], status["engine"]["purpose"]
        if (stored, record.token, "serve") != shown or record.profile != stored:
            found.append(f"store {stored}, record {record}, status {shown}")
        knobs = json.loads(record.knobs)
        if any(knobs.get(name) != value for name, value in status["profile"]["knobs"].items()):
            found.append(f"{knobs} serves as {status['profile']}")
        shown_live = status["live"]["in_force"]
        if status["live"]["knobs"] == "live" and (
            shown_live is None
            or shown_live["schedule"]
            != status["profile"]["knobs"].get("draft_schedule", shown_live["schedule"])
        ):
            found.append(f"the engine was told {shown_live}")
        running = [t for t in stage.ask("GET", "/v1/trials")[1]["trials"] if t["status"] == "open"]
        return found + [f"a trial is open: {trial}" for trial in running]

    def _ask_on(self) -> None:
        number = 0
        while not self._done.wait(0.1):
            number += 1
            prompt = f"meanwhile {number}"
            try:
                reply = self.stage.complete(prompt, 4)
                refused = reply.status == 503 and "No engine stays up" in str(reply.error)
                if not refused and not reply.right(prompt, 4):
                    self.wrong.append(f"meanwhile: {reply}")
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(f"meanwhile: {error}")

    # --- what makes tunerd pass the points ------------------------------------------------------

    def switch(self) -> None:
        """Another profile than the one in force."""
        label = self.stage.settled()["profile"]["label"]
        self.stage.use(self.stage.profile(5 if "k=3" in label else 3))

    def fail_switch(self) -> None:
        """A profile that does not start, and was not barred yet."""
        self.stage.use(self.stage.profile(next(self._bad)))

    def serving(self, label: str | None = None) -> None:
        """Wait for the end of a probation."""
        self.stage.settled(label, modes={"serving"})

    def die(self) -> None:
        """The engine dies while it serves."""
        self.serving()
        self.stage.engines()[0].kill()

    def die_for_good(self) -> None:
        """The engine dies, and its profile does not start again."""
        self.stage.use(self.stage.profile(7))
        self.serving("ngram k=7")
        self.stage.script(exit={"code": 1, "log": "flag", "draft_lengths": [7]})
        self.die()

    def nothing_starts(self) -> None:
        """The engine dies, and none starts any more."""
        self.stage.use("default")  # another profile would be barred for it
        self.serving("off")
        self.stage.script(exit={"code": 1, "log": "no_kv"})
        self.die()

    def tune(self) -> None:
        """A session."""
        status, answered = self.stage.ask("POST", "/v1/tune", {"classes": [WORKLOAD]})
        assert status == 200, answered

    def stop_tuning(self) -> None:
        """A session that is stopped."""
        self.tune()
        self.stage.becomes("a session", lambda s: s["mode"] == "tuning")
        self.stage.ask("POST", "/v1/tune/stop", {})

    def reboot(self) -> None:
        """A tunerd that finds the engine of another one."""
        pid = self.stage.status()["pid"]
        next(p for p in self.stage.named("-m", "service") if p.pid == pid).kill()

    def stop(self) -> None:
        """`tuner stop`."""
        connection = UnixConnection(self.stage.folder / "run" / "control.sock")
        with contextlib.closing(connection):
            connection.request("POST", "/v1/stop", b"{}")

    def apply(self) -> None:
        """Another schedule, which the running engine can have."""
        label = self.stage.settled()["profile"]["label"]
        if "1-4" not in label:
            self.stage.use(self.schedule(3))
            label = self.stage.settled("ngram k=1-4: 3, 5+: 2")["profile"]["label"]
        self.stage.use(self.schedule(5 if "1-4: 3" in label else 3))

    def schedule(self, first: int) -> str:
        """The id of a profile with live knobs."""
        ranges = [[1, 4, first], [5, 128, 2]]
        knobs = {"drafter": "ngram", "draft_length": 8, "live": True, "draft_schedule": ranges}
        given = {"knobs": knobs, "platform": "x", "workload": WORKLOAD, "origin": "import"}
        return str(self.stage.ask("POST", "/v1/profiles/import", {"profile": given})[1]["id"])


ON_LIVE = {
    before(Effect.APPLY_LIVE): Struck.apply,
    Point.KNOBS_PUT: Struck.apply,
    Point.KNOBS_RECORDED: Struck.apply,
    Point.SELF_TESTED: Struck.switch,
}
WAYS = {
    # what is not named below lies on the way of every switch
    **{point: Struck.switch for point in POINTS if point not in ON_LIVE},
    Point.SWEPT: Struck.reboot,
    Point.REMEMBERED: Struck.reboot,
    Point.ADOPTED: Struck.reboot,
    before(Effect.CLOSE_GATE): Struck.die,
    before(Effect.RESTART_CURRENT): Struck.die,
    before(Effect.QUARANTINE_TARGET): Struck.fail_switch,
    Point.QUARANTINED: Struck.fail_switch,
    before(Effect.RESTORE_LAST_GOOD): Struck.fail_switch,
    before(Effect.RESTORE_DEFAULT): Struck.die_for_good,
    before(Effect.SCHEDULE_RETRY): Struck.nothing_starts,
    before(Effect.REFUSE): Struck.nothing_starts,
    before(Effect.BEGIN_TUNING): Struck.tune,
    Point.TRIAL_OPENED: Struck.tune,
    Point.TRIAL_STARTED: Struck.tune,
    Point.MEASURED: Struck.tune,
    Point.ROW_STORED: Struck.tune,
    Point.TRIAL_CLOSED: Struck.tune,
    Point.WINNER_STORED: Struck.tune,
    Point.PROMOTED: Struck.tune,
    before(Effect.ABORT_TUNING): Struck.stop_tuning,
    before(Effect.STOP_ALL): Struck.stop,
}


@contextlib.contextmanager
def served(action: str, *, live: bool) -> Iterator[Struck]:
    """A stage that serves, whose tunerd will be struck in one way."""
    overrides = {
        "tuning": SHORT,
        "live": {"learn": False, "enabled": live},
        "policy": {"probation_s": 0.5},
    }
    with staged(**overrides) as stage:
        stage.tree = TREE if live else {}
        struck = Struck(stage, action)
        struck.serve()
        try:
            yield struck
        finally:
            struck._done.set()


def lane(action: str, ways: dict[str, Callable[[Struck], None]], *, live: bool) -> dict[str, str]:
    """Strike in one way at these points, one after the other: what is wrong, by point."""
    found: dict[str, str] = {}
    left = dict(ways)
    while left:  # a stage that is of no more use is replaced by another
        try:
            with served(action, live=live) as struck:
                for point in list(left):
                    found[point] = "unfinished"
                    provoke = left.pop(point)
                    found[point] = "; ".join(struck.strike(point, provoke))
                struck.end()
        except Exception:  # noqa: BLE001 - it is the finding
            found[point] = traceback.format_exc()
    return found
