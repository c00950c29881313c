"""Reading the configuration file: every mistake has its sentence."""

import os
import tomllib

import pytest

from profiles.errors import ConfigError, ExitCode
from tuner import config_text
from tuner.config_file import ConfigFileError, find, load, load_paths

MODEL = '[engine]\nmodel = "org/name"\n'


def written(folder, text):
    """A file with this content."""
    path = folder / "tuner.toml"
    path.write_text(text)
    return path


def problems(folder, text):
    """The sentences about a file, with their lines."""
    with pytest.raises(ConfigFileError) as caught:
        load(written(folder, text))
    assert ExitCode.CONFIG == caught.value.exit_code
    return [str(problem) for problem in caught.value.problems]


def test_minimal_file(tmp_path):
    """A model is enough."""
    assert "org/name" == load(written(tmp_path, MODEL)).engine.model


def test_relative_paths_start_at_the_file(tmp_path, monkeypatch):
    """The same file means the same paths from every working directory."""
    (tmp_path / "models" / "drafter").mkdir(parents=True)
    monkeypatch.chdir("/")
    config = load(
        written(
            tmp_path,
            'state_dir = "state"\nruntime_dir = "/run/tuner"\n'
            '[engine]\nmodel = "./models"\ncommand = ["./bin/python", "./stays"]\n'
            '[[drafters]]\nname = "d"\nmethod = "dflash"\nmodel = "./models/drafter"\n'
            '[[drafters]]\nname = "hub"\nmethod = "eagle3"\nmodel = "org/drafter"\n',
        )
    )

    assert str(tmp_path / "models") == config.engine.model
    assert (str(tmp_path / "bin/python"), "./stays") == config.engine.command
    assert [str(tmp_path / "models/drafter"), "org/drafter"] == [d.model for d in config.drafters]
    assert tmp_path / "state" == config.state
    assert "/run/tuner" == str(config.run)


def test_home_is_expanded(tmp_path, monkeypatch):
    """`~` in a model path is the home of the daemon's user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()

    assert str(tmp_path / "m") == load(written(tmp_path, '[engine]\nmodel = "~/m"\n')).engine.model


def test_unknown_home_is_a_path_that_does_not_exist(tmp_path):
    """`~nobody-here` is no traceback."""
    found = problems(tmp_path, '[engine]\nmodel = "~no-such-user/m"\n')

    assert 1 == len(found)
    assert "does not exist" in found[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[engine\n", "line 1: column 8: not valid TOML"),
        ("[engine]\nmodel = ", "line 2: column 9: not valid TOML"),
        ('[engine]\nmodel = "x', "line 2: column 11: not valid TOML"),
    ],
)
def test_malformed_toml_has_line_and_column(tmp_path, text, sentence):
    """The place of a syntax error is named, also at the end of the file."""
    found = problems(tmp_path, text)

    assert 1 == len(found)
    assert found[0].startswith(sentence)


SENTENCES = [
    ("", "engine is missing; it is a table and has no default."),
    ("[engine]\n", "line 1: engine.model is missing; it is a string and has no default."),
    (
        MODEL + "stop_timout_s = 3\n",
        "line 3: engine.stop_timout_s is not a known key; the nearest is engine.stop_timeout_s.",
    ),
    (
        "drain_s = 3\n" + MODEL,
        "line 1: drain_s is not a known key; the nearest is gateway.drain_s.",
    ),
    ("engin = 3\n" + MODEL, "line 1: engin is not a known key; the nearest is engine."),
    (MODEL + "[zzz]\n", "line 3: zzz is not a known key."),
    (
        MODEL + "[engine.default]\ndraft_len = 3\n",
        (
            "line 4: engine.default.draft_len is not a known key; "
            "the nearest is engine.default.draft_length."
        ),
    ),
    (
        MODEL + "[gateway]\nhold_s = -1\n",
        "line 4: gateway.hold_s must be a number above 0, not -1.",
    ),
    (
        MODEL + '[tuning]\ntrials = "12"\n',
        'line 4: tuning.trials must be a whole number above 0, not "12".',
    ),
    (
        MODEL + "[tuning]\ntrials = true\n",
        "line 4: tuning.trials must be a whole number above 0, not true.",
    ),
    (
        MODEL + "[tuning]\npairs = 1\n",
        "line 4: tuning.pairs must be a whole number at least 2, not 1.",
    ),
    (
        MODEL + '[tuning]\nsampling = "disk"\n',
        'line 4: tuning.sampling must be one of "memory", "off", not "disk".',
    ),
    (
        MODEL + '[engine.default]\ndraft_length = "on"\n',
        'line 4: engine.default.draft_length must be "off" or a whole number above 0, not "on".',
    ),
    (
        MODEL + "[engine.default]\ngpu_memory_utilization = 1.5\n",
        (
            "line 4: engine.default.gpu_memory_utilization must be a number above 0 and at most 1, "
            "not 1.5."
        ),
    ),
    (
        MODEL + 'command = "python"\n',
        'line 3: engine.command must be a list, each item a string, not "python".',
    ),
    (
        MODEL + "command = []\n",
        "line 3: engine.command is empty; it starts vLLM's API server.",
    ),
    (MODEL + "env = {HF_TOKEN = 7}\n", "line 3: engine.env.HF_TOKEN must be a string."),
    (
        MODEL + "[tuning.space]\ndraft_lengths = [1, 0]\n",
        "line 4: tuning.space.draft_lengths[1] must be a whole number above 0, not 0.",
    ),
    (
        MODEL + '[gateway]\nlisten = "0.0.0.0:80"\n',
        (
            'line 4: gateway.listen = "0.0.0.0:80" is not a loopback address; other machines '
            "need keys, so set gateway.keys_file too."
        ),
    ),
    (
        MODEL + "[engine.default]\ndraft_length = 3\n",
        (
            "line 3: engine.default: a drafter and a draft length belong together; "
            'write draft_length = "off" without a drafter to turn speculation off.'
        ),
    ),
    (
        MODEL + '[[drafters]]\nname = "a"\nmethod = "ngram"\n[[drafters]]\nname = "b"\n',
        "line 6: drafters[1].method is missing; it is a string and has no default.",
    ),
    (
        MODEL + '[[drafters]]\nname = "A"\nmethod = "ngram"\n',
        'line 4: drafters[0].name must be a string matching ^[a-z0-9][a-z0-9_-]*$, not "A".',
    ),
    (
        MODEL + "[policy]\nwindow_s = inf\n",
        "line 4: policy.window_s is a date, a time or no finite number.",
    ),
    (
        "state_dir = 1979-05-27\n" + MODEL,
        "line 1: state_dir is a date, a time or no finite number.",
    ),
    (
        '[engine]\nmodel = "/no/such/model"\n',
        "line 2: engine.model is /no/such/model, which does not exist.",
    ),
    (
        MODEL + '[[drafters]]\nname = "a"\nmethod = "dflash"\nmodel = "/no/drafter"\n',
        "line 6: drafters[0].model is /no/drafter, which does not exist.",
    ),
    (
        MODEL + 'env = {VLLM_CPU_KVCACHE_SPACE = "4"}\n',
        "line 3: engine.env must not set VLLM_CPU_KVCACHE_SPACE; use engine.default.cpu_kv_gib.",
    ),
    (
        MODEL + 'args = ["--max-num-seqs", "8"]\n',
        "line 3: engine.args must not set --max-num-seqs; use engine.default.max_num_seqs.",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), SENTENCES)
def test_sentences(tmp_path, text, sentence):
    """Each mistake alone gives exactly one sentence, with key, expectation and line."""
    assert [sentence] == problems(tmp_path, text)


def test_all_problems_are_listed(tmp_path):
    """One run of `config check` is enough to repair a file."""
    text = (
        'engin = 1\n[engine]\nmodel = "/no/model"\nargs = ["--uds=/x"]\n'
        '[gateway]\nhold_s = "long"\nlisten = "0.0.0.0:1"\n[tuning]\npairs = 0\n'
    )
    keys = {
        sentence.split(": ", 1)[1].split(" ")[0].rstrip(":")
        for sentence in problems(tmp_path, text)
    }

    assert {
        "engin",
        "engine.model",
        "engine.args",
        "gateway.hold_s",
        "gateway.listen",
        "tuning.pairs",
    } == keys


def test_socket_paths_must_fit(tmp_path):
    """A unix socket path has 107 bytes; deeper state directories need a runtime_dir."""
    text = f'state_dir = "{tmp_path / ("d" * 100)}"\n' + MODEL

    assert "a unix socket takes 107" in problems(tmp_path, text)[0]


def test_secret_values_are_not_repeated(tmp_path):
    """A wrong value of the environment may be a token, so it is not printed."""
    found = problems(tmp_path, MODEL + "env = {HF_TOKEN = [7654321]}\n")

    assert not any("7654321" in sentence for sentence in found)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    """A file without read permission says so."""
    path = written(tmp_path, MODEL)
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load(path)


def test_not_a_file(tmp_path):
    """A folder in the place of the file says so."""
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_not_utf8(tmp_path):
    """Bytes that are no text are named by their place."""
    path = tmp_path / "tuner.toml"
    path.write_bytes(b"a\xff")
    with pytest.raises(ConfigError, match="byte 1 is not UTF-8"):
        load(path)


def test_find_takes_the_named_file_first(tmp_path, monkeypatch):
    """--config wins over $TUNER_CONFIG, which wins over the working directory."""
    monkeypatch.chdir(tmp_path)
    here = written(tmp_path, MODEL)
    (other := tmp_path / "other.toml").write_text(MODEL)
    environ = {"TUNER_CONFIG": str(other)}

    assert here == find(here, environ=environ)
    assert other == find(None, environ=environ)
    assert here == find(None, environ={})


def test_find_looks_in_the_users_configuration(tmp_path, monkeypatch):
    """Without a file here, the user's own one is used."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    (tmp_path / "tuner").mkdir()
    own = written(tmp_path / "tuner", MODEL)

    assert own == find(None, environ={"XDG_CONFIG_HOME": str(tmp_path)})


def test_named_file_must_exist(tmp_path):
    """A named file that is missing is an error, not a reason to take another one."""
    with pytest.raises(ConfigError, match="named by --config, does not exist"):
        find(tmp_path / "no.toml", environ={})
    with pytest.raises(ConfigError, match=r"named by \$TUNER_CONFIG, does not exist"):
        find(None, environ={"TUNER_CONFIG": str(tmp_path / "no.toml")})


def test_no_file_at_all(tmp_path, monkeypatch):
    """The sentence lists where a file was looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find(None, environ={"XDG_CONFIG_HOME": str(tmp_path / "x")})

    assert str(tmp_path / "tuner.toml") in caught.value.message
    assert "--config" in caught.value.hint


def test_paths_survive_other_mistakes(tmp_path):
    """A daemon stays reachable while its file is being edited."""
    path = written(tmp_path, 'state_dir = "s"\nengin = 1\n')

    assert tmp_path / "s" / "run" / "status.sock" == load_paths(path).status_socket


def test_paths_of_a_wrong_state_directory(tmp_path):
    """A state_dir of the wrong type is not guessed."""
    with pytest.raises(ConfigError, match="state_dir must be a string"):
        load_paths(written(tmp_path, "state_dir = 7\n" + MODEL))


def test_shown_configuration_is_the_configuration(tmp_path):
    """What `config show` prints is TOML, and reads back as the same configuration."""
    config = load(
        written(
            tmp_path,
            'state_dir = "s\\u007f"\n[engine]\nmodel = "o/\\"n\\\\"\n'
            'env = {"a.b" = "1\\t\U0001f600"}\n'
            '[[drafters]]\nname = "n"\nmethod = "ngram"\noptions = {prompt_lookup_max = 4}\n'
            '[engine.default]\ndrafter = "n"\ndraft_length = 4\n',
        )
    )
    text = config_text.to_toml(config_text.redacted(config.model_dump(mode="json")), config)
    again = load(written(tmp_path, text))

    assert config == again
    assert "gateway.drain_s = 120.0  # default" in text.splitlines()
    assert 'engine.default.drafter = "n"' in text.splitlines()
    assert "runtime_dir" not in tomllib.loads(text)


def test_objective_and_limits_are_read(tmp_path):
    """Limits are a table of their own; one that is not set limits nothing."""
    text = (
        f'{MODEL}[tuning]\nobjective = "p95_latency"\n'
        "[tuning.limits]\nttft_p95_s = 0.5\nerror_rate = 0\n"
    )
    tuning = load(written(tmp_path, text)).tuning

    assert "p95_latency" == tuning.objective
    assert {"ttft_p95_s": 0.5, "error_rate": 0.0} == tuning.limits.model_dump(exclude_none=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('[tuning]\nobjective = "latency"', 'one of "tok_s", "tok_per_joule", "p95_latency"'),
        ("[tuning.limits]\nttft_p95_s = 0", "above 0"),
        ("[tuning.limits]\npower_w = -1", "above 0"),
        ("[tuning.limits]\nerror_rate = 1.5", "at most 1"),
        ("[tuning.limits]\ntemperature = 80", "temperature_c"),
        ("[limits]\nttft_p95_s = 1", "limits"),
    ],
)
def test_an_objective_or_limit_that_cannot_be_is_named(tmp_path, line, words):
    """A limit that is silently dropped would be worse than none."""
    (said,) = problems(tmp_path, f"{MODEL}{line}\n")

    assert words in said
