"""The link to one engine: a generation that is always new, confirmation, and its self-test."""

import pytest
import scheduler_double as double
from scheduler_double import LONGEST, add, live, step

from profiles.schedule import checked, constant
from service import live_link
from service.engine_site import tuner_layout as layout
from service.live_files import ControlFile, LiveKnobs
from service.live_link import LiveLink

module = double.module  # a fixture
WISH = LiveKnobs(lengths=checked([(1, 2, 3), (3, 9, 1)]), active=4)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(live_link, "POLL_S", 0.001)


@pytest.fixture
def socket(tmp_path):
    return tmp_path / "engine-1.sock"


@pytest.fixture
def link(socket):
    made = LiveLink(socket)
    made.put(WISH)
    return made


@pytest.fixture
def engine(module, link, monkeypatch):
    """Starts a scheduler with the files of the link."""

    def start(base=double.Base, **more):
        for name, value in link.environment.items():
            monkeypatch.setenv(name, value)
        stage = type("Live", (module.Tuned, base), {"tuner_trims": True})(**more)
        stage.tuner_begin()
        stage.clock = module.clock
        return stage

    return start


class Client:
    """Asks a scheduler for the canary's four tokens."""

    def __init__(self, stage=None, wrong=None):
        self.stage, self.wrong, self.asked = stage, wrong, 0

    async def canary(self):
        self.asked += 1
        if self.stage is not None:
            add(self.stage, f"cmpl-canary{self.asked}", max_tokens=4)
            while self.stage.requests:
                step(self.stage)
        return self.wrong


def said(socket):
    """What the control file says now."""
    raw = socket.with_suffix(".control").read_bytes()
    return layout.decode_control(
        raw[: layout.CONTROL_HEAD.size], lambda size, at: raw[at : at + size]
    )


# --- generations ----------------------------------------------------------------------------------


def test_an_adopted_link_goes_on_above_what_was_written(socket, link):
    """The scheduler looks at changes only: an old generation would be no news."""
    for _ in range(4):
        link.put(WISH)
    assert 5 == link.generation
    again = LiveLink.adopted(socket)

    assert again.put(WISH) > 5
    assert again.generation == said(socket).generation


def test_an_adopted_link_goes_on_above_what_was_confirmed(socket, link, engine):
    """The control file is lost, and its engine has obeyed generation 9 already."""
    for _ in range(8):
        link.put(WISH)
    stage = engine()
    socket.with_suffix(".control").unlink()
    again = LiveLink.adopted(socket)
    generation = again.put(live(constant(2)))
    stage.clock.now += 2 * layout.LOOK_NS
    step(stage)

    assert generation > 9
    assert [2] * stage.max_num_running_reqs == stage.dynamic_sd_lookup[1:]


@pytest.mark.parametrize("left", [b"", b"TUNERDC", b"\xff" * layout.CONTROL_SIZE])
def test_a_damaged_file_does_not_hinder_an_adoption(socket, left):
    """Its generation is not believed when no counter could hold it."""
    socket.with_suffix(".control").write_bytes(left)
    link = LiveLink.adopted(socket)
    generation = link.put(WISH)

    assert 0 < generation < 1 << 32
    assert generation == said(socket).generation


def test_nothing_at_all_can_be_adopted(socket):
    """No file is there: the first wish makes one."""
    assert LiveLink.adopted(socket).put(WISH) > 0


# --- confirmation ---------------------------------------------------------------------------------


async def test_a_wish_is_confirmed_once_the_engine_has_obeyed(link, engine):
    """The counters of that moment come with it."""
    stage = engine()
    generation = link.put(live(constant(1)))
    assert await link.confirmed(generation, timeout_s=0.0) is None
    stage.schedule()

    found = await link.confirmed(generation, timeout_s=5.0)
    assert generation == found.fields["generation"]


async def test_the_confirmation_of_another_wish_does_not_count(link, engine):
    """The engine obeys the last wish; the one before was never in force."""
    stage = engine()
    first = link.put(live(constant(1)))
    second = link.put(live(constant(2)))
    stage.schedule()

    assert await link.confirmed(first, timeout_s=0.003) is None
    assert await link.confirmed(second, timeout_s=0.003) is not None


async def test_an_engine_that_takes_no_step_confirms_nothing(link):
    """No telemetry: it is waited for, and not for ever."""
    assert await link.confirmed(link.generation, timeout_s=0.003) is None


async def test_a_confirmation_may_come_late(link, engine, monkeypatch):
    """The link looks again until the time is over."""
    stage = engine()
    generation = link.put(live(constant(1)))
    looks, read = [], link.read

    def counted():
        looks.append(1)
        if len(looks) == 3:
            stage.schedule()
        return read()

    monkeypatch.setattr(link, "read", counted)

    assert await link.confirmed(generation) is not None
    assert 3 == len(looks)


# --- self-test ------------------------------------------------------------------------------------


async def test_a_scheduler_that_does_all_of_it_passes(link, engine, socket):
    """The shortest and the longest draft are seen in the counters, then the wish is back."""
    stage = engine()
    client = Client(stage)

    assert await link.self_test(client) is None
    assert 2 == client.asked
    assert {(1, 1), (1, LONGEST)} == set(link.read().cells)
    assert (WISH, [(2, 3), (9, 1)]) == (link.wish, said(socket).ranges)
    step(stage)
    assert link.generation == link.read().fields["generation"]


async def test_without_a_table_only_the_length_that_it_has_is_tested(link, engine):
    """Plain decoding has one length, 0; its caps are live all the same."""
    client = Client(engine(longest=0, table=False))

    assert await link.self_test(client) is None
    assert (1, {(1, 0)}) == (client.asked, set(link.read().cells))


async def test_an_engine_without_telemetry_fails(link):
    """Its scheduler gave up before it began; nothing is asked of it."""
    client = Client()

    fault = await link.self_test(client)
    assert "The engine's scheduler writes no telemetry; its log may say why." == fault
    assert 0 == client.asked


async def test_an_engine_that_has_counted_an_error_fails(link, engine):
    """Its scheduler is vLLM's alone by now."""
    stage = engine()
    stage._tuner_fault()

    fault = await link.self_test(Client(stage))
    assert "The engine's scheduler gave up its live knobs; its log says why." == fault


async def test_an_error_during_the_test_fails_it(link, engine, module, monkeypatch):
    """The first table brings the defect to light: it is confirmed, and the error is counted."""
    stage = engine()
    account = module.Tuned._tuner_account

    def fail(*given, **more):
        account(*given, **more)
        raise KeyError

    monkeypatch.setattr(module.Tuned, "_tuner_account", fail)

    fault = await link.self_test(Client(stage))
    assert "The engine's scheduler gave up its live knobs; its log says why." == fault


async def test_an_engine_that_does_not_obey_fails(link, engine, socket, monkeypatch):
    """It answers, but looks at another control file: its wish is restored all the same."""
    monkeypatch.setattr(live_link, "CONFIRM_S", 0.003)
    monkeypatch.setattr(LiveLink.confirmed, "__kwdefaults__", {"timeout_s": 0.003})
    stage = engine()
    stage.tuner_control = layout.Control("")

    fault = await link.self_test(Client(stage))
    assert "The engine did not confirm draft length 1." == fault
    assert WISH == link.wish
    assert [(2, 3), (9, 1)] == said(socket).ranges


async def test_a_table_that_changes_nothing_fails(link, engine):
    """A vLLM that does not look at the table: the steps are of another length than asked for."""

    class Deaf(double.Base):
        def schedule(self, *args, **kwargs):
            output = super().schedule()
            output.num_spec_tokens_to_schedule = self.num_spec_tokens
            return output

    fault = await link.self_test(Client(engine(Deaf)))
    assert "The engine's counters show no step with draft length 1." == fault


async def test_steps_of_before_do_not_pass_a_test(link, engine):
    """A cell that was there already has to grow."""
    link.put(live(constant(1)))
    stage = engine()
    add(stage, "a", max_tokens=4)
    for _ in range(4):
        step(stage)
    assert {(1, 1)} == set(link.read().cells)

    class Silent(Client):
        async def canary(self):
            stage.schedule()  # obeys and confirms, but takes no step

    fault = await link.self_test(Silent())
    assert "The engine's counters show no step with draft length 1." == fault


async def test_a_wrong_canary_is_the_fault(link, engine):
    """What the engine answers is wrong: nothing else matters."""
    fault = await link.self_test(Client(engine(), wrong="The canary was wrong."))

    assert "The canary was wrong." == fault
    assert WISH == link.wish


# --- the rest -------------------------------------------------------------------------------------


def test_the_engine_is_told_where_the_files_are(link, socket):
    """Beside its socket, so that every engine has its own."""
    assert {
        "TUNER_CONTROL": str(socket.with_suffix(".control")),
        "TUNER_TELEMETRY": str(socket.with_suffix(".telemetry")),
    } == link.environment


def test_admission_is_live_only_where_the_engine_says_so(link, engine):
    """Versions of vLLM before 0.31 lack it; an engine that says nothing cannot."""

    class Older(double.Base):
        def __init__(self, **more):
            super().__init__(**more)
            del self.max_num_active_reqs

    assert not link.can_admit
    engine(Older)
    assert not link.can_admit
    engine()
    assert link.can_admit


def test_both_files_go_with_their_engine(link, engine, socket):
    """Nothing is left in the run folder, and a second removal is no error."""
    engine()
    assert {".control", ".telemetry"} == {path.suffix for path in socket.parent.iterdir()}
    link.remove()
    link.remove()

    assert [] == list(socket.parent.iterdir())


def test_a_wish_of_the_link_is_that_of_its_file(link, socket):
    """There is one writer."""
    assert (1, WISH) == (link.generation, link.wish)
    assert ControlFile(socket.with_suffix(".control")).wish is None
