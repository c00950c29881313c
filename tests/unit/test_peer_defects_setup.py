"""Defects of other tuners that ours must not have: package, configuration, command line."""

import ast
import asyncio
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from searching import row, small_space

from profiles import presets
from profiles.knobs import Drafter, Knobs, render
from service import __main__ as program
from service.notify import Notifier
from service.slot import Slot
from tuner import config_schema, doctor, doctor_engine, study
from tuner.config import Config, EngineConfig, SpaceConfig
from tuner.config_file import ConfigFileError, load
from tuner.design import design
from tuner.flags import Installed, VllmInfo
from tuner.nvml import GpuReading
from tuner.paths import Paths
from tuner.search import Budget, next_candidate
from tuner.space import build_space
from tuner.study import STARTUP, Row, suggest
from tuner.telemetry import Telemetry

ROOT = Path(__file__).parents[2]
INFO = VllmInfo(
    version="0.32.0",
    flags=frozenset({"--uds", "--speculative-config", "--max-num-seqs", "--model"}),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names in the wheel that would be released."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_p09_the_wheel_has_presets_migrations_and_engine_files(wheel):
    """vllm-tuner's wheel lacked its presets: `Unknown preset 'low_latency'. Available: []`."""
    data = [
        *(f"profiles/presets/{preset.name}.toml" for preset in presets.load()),
        *(
            str(path.relative_to(ROOT))
            for folder in ("profiles/migrations", "service/engine_site", "service/demo/pair")
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ),
        *(f"{package}/py.typed" for package in ("profiles", "tuner", "service")),
    ]

    assert len(data) > 20
    assert set() == set(data) - wheel


def config_of(folder, **more):
    """A configuration with its state in a folder."""
    engine = {"model": "org/name"} | more.pop("engine", {})
    return Config.model_validate({"engine": engine, "state_dir": str(folder / "s"), **more})


@pytest.mark.parametrize("argument", ["--swap-space", "--disable-log-requests"])
def test_p10_an_argument_that_vllm_refuses_is_named_before_anything_starts(tmp_path, argument):
    """vllm-tuner's configurations and auto_tune.sh pass flags that ended every trial of theirs."""
    config = config_of(tmp_path, engine={"args": [argument, "4"]})
    found = doctor_engine.flags(config, INFO)

    assert ("fail", f"vLLM 0.32.0 does not know {argument}.") == (found.state, found.sentence)


def test_p10_a_knob_that_vllm_has_no_flag_for_is_not_searched():
    """The same for the flags that the search itself would add: dropped with a sentence."""
    space = build_space(
        SpaceConfig(max_num_seqs=(16, 64), max_num_batched_tokens=(512,)), {}, INFO.flags, Knobs()
    )

    assert {None} == {point.max_num_batched_tokens for point in space.points()}
    assert any("--max-num-batched-tokens" in sentence for sentence in space.dropped)


def test_p19_every_option_is_read_somewhere():
    """vllm-tuner ignored `baseline.enabled`, `weight`, `warmup_requests` and others in silence."""
    sources = [
        path.read_text(encoding="utf-8")
        for package in ("profiles", "tuner", "service")
        for path in (ROOT / package).rglob("*.py")
        if not path.name.startswith("config")
    ]
    read = {
        node.attr
        for text in sources
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    quoted = set(re.findall(r'"(\w+)"', "\n".join(sources)))  # getattr, keys of tables
    properties = {"listen", "state_dir", "runtime_dir", "drafters"}  # read by those of Config
    keys = {each.path.rpartition(".")[2] for each in config_schema.settings()}

    assert set() == keys - read - quoted - properties


@pytest.mark.parametrize(
    "line", ["max_concurrent_trials = 4", "[tuning]\nwarmup_requests = 5", "[baseline]\nx = 1"]
)
def test_p19_an_option_that_nobody_reads_is_refused(tmp_path, line):
    """A misspelt or foreign key ends the start with its line, instead of being dropped."""
    path = tmp_path / "tuner.toml"
    path.write_text(f'{line}\n[engine]\nmodel = "org/name"\n')

    with pytest.raises(ConfigFileError):
        load(path)


class Cards:
    """Two cards with different power."""

    def read(self):
        return [
            GpuReading(
                uuid=f"GPU-{n}", power_w=100.0 * (n + 1), energy_j=None, temperature_c=50.0,
                memory_mib=1.0, utilization=0.5, reasons=(),
            )
            for n in range(2)
        ]  # fmt: skip

    def close(self):
        """Nothing is open."""


async def test_p20_the_chosen_card_limits_engine_and_sensors(tmp_path, monkeypatch):
    """vllm-tuner only counted its `device_ids`: engine and sensors saw every card."""
    config = config_of(tmp_path, engine={"env": {"CUDA_VISIBLE_DEVICES": "1"}, "exclusive": False})
    slot = Slot(config, Paths.of(config), SimpleNamespace())
    assert "1" == slot.plan(Knobs(), profile="p", purpose="trial").env["CUDA_VISIBLE_DEVICES"]

    made = []

    class Stopped(Exception):  # noqa: N818 - ends the composition early
        pass

    def sensors(**given):
        made.append(given)
        raise Stopped

    async def version(*_):
        return Installed(version="0.32.0", on_cpu=False)

    monkeypatch.setattr(program, "installed", version)
    monkeypatch.setattr(program, "gpus", lambda: [SimpleNamespace(uuid=f"GPU-{n}") for n in (0, 1)])
    monkeypatch.setattr(program, "Telemetry", sensors)
    with pytest.raises(Stopped):
        await program.serve(
            config, Paths.of(config), notifier=Notifier(), program=program.Program(Path("none"), [])
        )

    assert [{"uuids": frozenset({"GPU-1"})}] == made
    with Telemetry(open_gpus=Cards, period_s=0.01, **made[0]) as telemetry:
        while telemetry.snapshot().power_w is None:  # noqa: ASYNC110 - the sampler is a thread
            await asyncio.sleep(0.01)
        assert 200.0 == telemetry.snapshot().power_w


class Recorder:
    """Stands where a sampler is made, and keeps what it was given."""

    def __init__(self, sampler):
        self.sampler, self.given = sampler, []

    def __call__(self, **given):
        self.given.append(given)
        return self.sampler(**given)


@pytest.mark.parametrize("gaussian", [True, False])
def test_p23_start_up_trials_and_seed_reach_the_sampler(monkeypatch, gaussian):
    """auto-tune-vllm dropped `n_startup_trials` and the seed on their way to Optuna."""
    name = "GPSampler" if gaussian else "TPESampler"
    if gaussian:
        pytest.importorskip("torch")
    recorder = Recorder(getattr(study, name))
    monkeypatch.setattr(study, name, recorder)
    space = small_space(draft_lengths=(1, 3, 5, 8))
    rows = [
        Row(knobs=point, value=float(n), constraints={}) for n, point in enumerate(space.points())
    ]
    suggest(space, rows[:3], seed=77, refuse=lambda _: None, gaussian=gaussian)

    assert [(77, STARTUP)] == [(g["seed"], g["n_startup_trials"]) for g in recorder.given]


def test_p23_the_designed_starts_come_first_and_the_seed_is_kept():
    """As many designed starts as were planned; then equal seeds ask equally, others do not.

    Without a drafter: draft lengths have an order of their own, by tuner/ladder.py.
    """
    space = small_space(
        max_num_seqs=(16, 32, 64, 128), max_num_batched_tokens=(1024, 2048, 4096, 8192), names=()
    )
    starts = design(space, Knobs(), [], size=6)
    budget = Budget(trials=30, failures=9)
    history = []
    for number in range(6):
        found = next_candidate(history, space, starts, seed=3, budget=budget, gaussian=False)
        assert starts[number].knobs == found.knobs
        history.append(row(number + 1, found.knobs, rate=100.0 + 7 * number))
    asked = [
        next_candidate(history, space, starts, seed=seed, budget=budget, gaussian=False).knobs
        for seed in (1, 1, 2, 3, 4)
    ]

    assert asked[0] == asked[1]
    assert len(set(asked)) > 1


def test_p27_the_longest_context_is_never_a_knob(tmp_path):
    """vllm-optimizer tuned max_model_len, which breaks the clients that need the longer one."""
    assert "max_model_len" not in {*Knobs.model_fields, *SpaceConfig.model_fields}
    own = ("--max-model-len", "16384")
    config = config_of(
        tmp_path,
        engine={"args": list(own)},
        tuning={"space": {"max_num_seqs": [16], "gpu_memory_utilization": [0.8]}},
    )
    slot = Slot(config, Paths.of(config), SimpleNamespace())
    space = build_space(
        config.tuning.space,
        config.drafter_map,
        INFO.flags | {"--gpu-memory-utilization"},
        Knobs(),
    )

    for point in space.points():
        command = slot.plan(point, profile="p", purpose="trial").command
        assert own == command[command.index("--max-model-len") :][:2]
        assert "--max-model-len" not in render(point, config.drafter_map).args
    assert len(space.points()) > 10


def test_p28_a_missing_dependency_is_known_before_the_first_trial(monkeypatch):
    """`vllm bench sweep` ran to its end and only then missed pandas."""
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "torch" else object())
    found = doctor.sampler()

    assert "warn" == found.state
    assert "needs torch; the search uses TPE" in found.sentence
    assert "tunerd[gp]" in found.hint


def test_p28_a_search_without_the_optional_sampler_works(monkeypatch):
    """What is missing changes the model, it does not end the session at its first suggestion."""

    def missing(name):
        raise ImportError(name)

    study.has_gaussian_process.cache_clear()
    monkeypatch.setattr(study, "import_module", missing)
    try:
        space = small_space(draft_lengths=(1, 3, 5, 8))
        rows = [Row(knobs=p, value=1.0, constraints={}) for p in space.points()[:3]]
        found = suggest(space, rows, seed=1, refuse=lambda _: None)
    finally:
        study.has_gaussian_process.cache_clear()

    assert space.contains(found.knobs)


PAGE = (ROOT / "docs" / "peer-defects.md").read_text(encoding="utf-8")


def test_every_defect_has_a_row_whose_tests_exist():
    """The page is not a promise: each named test is in the named file."""
    rows = dict(re.findall(r"^\| P(\d+) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))
    named = {
        number: re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", cell)
        for number, cell in rows.items()
    }

    assert [str(n) for n in range(1, 30)] == list(rows)
    assert [] == [number for number, tests in named.items() if not tests]
    missing = [
        f"{file}::{test}"
        for tests in named.values()
        for file, test in tests
        if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert [] == missing
    prefixed = [
        (number, test)
        for number, tests in named.items()
        for _, test in tests
        if not test.startswith(f"test_p{int(number):02d}_")
    ]
    assert [] == prefixed


def test_every_test_of_a_defect_is_on_the_page():
    """And the other way round: no test of a peer's defect is missing from the table."""
    files = (ROOT / "tests").rglob("test_peer_defects*.py")
    tests = {
        name
        for path in files
        for name in re.findall(r"def (test_p\d\d_\w+)\(", path.read_text(encoding="utf-8"))
    }

    assert tests
    assert set() == {name for name in tests if f"::{name}`" not in PAGE}


def test_a_drafter_of_the_defaults_needs_no_model():
    """The quick start of P15 must not fetch anything."""
    (drafter,) = Config(engine=EngineConfig(model="org/m")).drafters

    assert Drafter(name="ngram", method="ngram") == drafter
