"""The table of faults: what is done, for how long, what requests may notice, when all is well."""

from dataclasses import dataclass

# what a request may meet instead of its answer
CUT = "cut"  # a stream that ends with an error event
BROKEN = "broken"  # a connection that ends without a word
REFUSED = "refused"  # an HTTP error of OpenAI's shape

NONE: frozenset[str] = frozenset()
SOME = frozenset({CUT, REFUSED})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault."""

    name: str
    act: str  # method of `acts.Acts`
    target: str = ""  # role of a process
    lasts_s: tuple[float, float] = (0.0, 0.0)  # it is kept up for, drawn between
    # from its end until everything serves again, on a busy machine; tunerd pauses for up to 60 s
    bound_s: float = 150.0
    running: frozenset[str] = NONE  # allowed for requests that it meets under way
    later: frozenset[str] = NONE  # allowed for those that come until everything serves again
    real: frozenset[str] | None = None  # for both, on a real vLLM, where it differs
    ends: frozenset[str] = NONE  # processes that do not survive it: memory is then not watched
    fells: bool = False  # it ends the engine: see ROW_S
    needs: str = ""  # what the machine must have: "mount"


# an engine that dies again before it has served for 300 s is started after a pause, which grows
# with each death up to 60 s, and everybody gets 503 meanwhile; with time to heal and to strike
ROW_S = 450.0

GATEWAY, TUNERD = frozenset({"gateway"}), frozenset({"tunerd"})

FAULTS = (
    Fault(
        name="kill gateway", act="kill", target="gateway", running=frozenset({BROKEN}), ends=GATEWAY
    ),
    Fault(name="kill tunerd", act="kill", target="tunerd", ends=TUNERD),
    # a stream is cut; what has no byte of an answer yet goes to the next engine
    Fault(name="kill engine", act="kill_engine", running=frozenset({CUT}), fells=True),
    # a worker that does nothing; with a real vLLM it is the engine's core
    Fault(name="kill engine child", act="kill_child", real=SOME),
    Fault(name="stop gateway", act="stop", target="gateway", lasts_s=(2.0, 6.0)),
    Fault(name="stop tunerd", act="stop", target="tunerd", lasts_s=(4.0, 12.0)),
    Fault(name="stop supervisor", act="stop", target="supervisor", lasts_s=(4.0, 12.0)),
    Fault(name="stop engine", act="stop", target="engine", lasts_s=(1.0, 4.0)),
    # longer than the gateway waits for a silent engine
    Fault(
        name="stop engine for long",
        act="stop",
        target="engine",
        lasts_s=(18.0, 22.0),
        running=SOME,
        later=SOME,
        fells=True,
    ),
    Fault(
        name="engine fails to start",
        act="bad_start",
        lasts_s=(4.0, 9.0),
        running=SOME,
        later=SOME,
        fells=True,
    ),
    Fault(
        name="engine dies in streams",
        act="die",
        lasts_s=(0.0, 3.0),
        running=SOME,
        later=SOME,
        fells=True,
    ),
    # /health says 200 all the time. When it meets an engine that starts, tunerd waits 120 s for the
    # first answer, because a real vLLM may compile kernels for it
    Fault(
        name="engine hangs",
        act="hang",
        lasts_s=(3.0, 6.0),
        running=SOME,
        later=SOME,
        fells=True,
        bound_s=200.0,
    ),
    Fault(name="choice of the operator", act="choose"),
    Fault(name="holder is killed", act="hold", target="chat", lasts_s=(6.0, 10.0)),
    Fault(name="store locked", act="lock_store", lasts_s=(10.0, 12.0)),
    Fault(name="store gone", act="hide_store", lasts_s=(4.0, 8.0)),
    Fault(name="disk full", act="fill_disk", lasts_s=(8.0, 14.0), needs="mount"),
    Fault(name="clock jumps", act="jump", lasts_s=(4.0, 8.0)),
    Fault(name="slow heads and bodies", act="slowloris", lasts_s=(8.0, 12.0)),
    Fault(name="status never read", act="never_read", lasts_s=(8.0, 12.0)),
    Fault(name="configuration edited", act="edit", ends=TUNERD),
    # a restart in the midst of it; the gateway and the engine go on
    Fault(
        name="kill engine on a full disk",
        act="fill_disk_and_kill",
        target="engine",
        lasts_s=(6.0, 12.0),
        running=SOME,
        later=SOME,
        fells=True,
        needs="mount",
    ),
    Fault(
        name="kill tunerd on a full disk",
        act="fill_disk_and_kill",
        target="tunerd",
        lasts_s=(6.0, 12.0),
        ends=TUNERD,
        needs="mount",
    ),
    Fault(
        name="kill tunerd with a broken configuration",
        act="break_config_and_kill",
        target="tunerd",
        lasts_s=(4.0, 8.0),
        ends=TUNERD,
    ),
    # moved aside, and the copy of tunerd's first start takes its place
    Fault(
        name="kill tunerd with a damaged store",
        act="damage_store_and_kill",
        target="tunerd",
        ends=TUNERD,
    ),
    Fault(name="configuration broken", act="break_config", lasts_s=(3.0, 6.0)),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


def felled(fault: Fault, *, real: bool) -> bool:
    """Whether it ends an engine; a fake one does without its child."""
    return fault.fells or (real and fault.real is not None)


def allowed(fault: Fault, *, met: bool, real: bool) -> frozenset[str]:
    """What a request may notice of a fault that it met under way, or that it came after."""
    if real and fault.real is not None:
        return fault.real
    return fault.running | fault.later if met else fault.later
