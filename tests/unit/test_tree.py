"""Rules about the source itself, which reviews would otherwise have to repeat."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {"service": 2, "tuner": 1, "profiles": 0}  # imports go to the same or a smaller number
LONGEST_FILE = 350  # lines; measured codebases that stay readable have a median of 130
IMPURE = {"time", "logging", "asyncio", "random", "os", "subprocess", "socket"}
# what the data plane must be able to live without, at any depth
HEAVY = {"optuna", "sqlmodel", "sqlalchemy", "alembic", "pynvml", "psutil", "vllm", "torch"}
STORE = {"profiles.store", "profiles.database", "profiles.tables", "profiles.schema"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users|tmp/work)/")


def python(*folders):
    """The Python files of these folders."""
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


SOURCES = python(*LAYERS)


def name_of(path):
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imports(path):
    """The dotted names that a module imports, lazily or not, and their possible submodules."""
    package = name_of(path).split(".")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package if path.name == "__init__.py" else package[:-1]
                start = above[: len(above) - node.level + 1]
                base = ".".join([*start, *([node.module] if node.module else [])])
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def reachable(start):
    """Every name that modules import, directly or through ours, packages on the way included."""
    seen, waiting = set(), list(start)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            waiting += imports(MODULES[name])
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return seen


def typed_only(path):
    """`random`, when the module names `random.Random` as a type but never makes one or calls it.

    A pure module takes its generator as an argument, and has to import the name of its type.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    made = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random"
    }
    return {"random"} if used == {"Random"} and "random.Random" not in made else set()


def functions(path):
    """The test functions of a file, those of classes included."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    ]


def label(path):
    """A path as pytest shows it."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_imports_point_one_way(path):
    """`service` may use `tuner`, `tuner` may use `profiles`, and never the other way."""
    mine = LAYERS[path.relative_to(ROOT).parts[0]]

    wrong = {name for name in imports(path) if LAYERS.get(name.split(".")[0], mine) > mine}
    assert set() == wrong


def test_the_gateway_can_live_without_the_rest():
    """The data plane imports no search, no SQL and no sensors, at any depth."""
    gateway = {
        name for name in MODULES if name == "service.gateway" or name.startswith("service.gateway.")
    }
    assert gateway, "there is no service.gateway"

    found = reachable(gateway)
    assert set() == {name for name in found if name.split(".")[0] in HEAVY or name in STORE}


def test_reaching_finds_what_is_hidden_behind_another_module():
    """The walk itself works: the store reaches SQLAlchemy, and the classes do not."""
    assert "sqlalchemy" in reachable({"profiles.store"})
    assert "profiles" in reachable({"profiles.store"})
    assert not {"sqlalchemy", "pydantic"} & reachable({"profiles.classes"})


@pytest.mark.parametrize("path", [*SOURCES, *python("scripts")], ids=label)
def test_no_source_file_is_too_long_to_read(path):
    """A file that grows beyond the limit is two files."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_a_module_that_promises_to_be_pure_is(path):
    """P in the first line: no clock, no chance, no I/O, no log."""
    promise = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    if not promise.startswith("P:"):
        return

    assert set() == ({name.split(".")[0] for name in imports(path)} & IMPURE) - typed_only(path)


def test_some_modules_promise_to_be_pure():
    """The rule above has something to look at."""
    promising = [path for path in SOURCES if '"""P: ' in path.read_text(encoding="utf-8")[:20]]

    assert {"knobs", "classes"} <= {path.stem for path in promising}


@pytest.mark.parametrize("path", python("tests"), ids=label)
def test_every_test_says_in_a_sentence_what_it_shows(path):
    """A failing test can be understood without reading its code."""
    silent = [node.name for node in functions(path) if not ast.get_docstring(node)]

    assert [] == silent


def test_test_files_have_different_names():
    """Files without packages are collected by their base name."""
    names = [path.name for path in python("tests") if path.name.startswith("test_")]

    assert len(names) == len(set(names))


def test_no_process_is_killed_by_a_pattern():
    """We end what we started, by its id: a pattern ends other people's work."""
    forbidden = ("p" + "kill", "kill" + "all")
    files = [
        *python(*LAYERS, "scripts", "tests"),
        *(
            path
            for folder in ("scripts", "systemd", "docs", ".ci")
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix in {"", ".sh", ".md", ".service", ".socket"}
        ),
        *ROOT.glob("*.md"),
    ]

    assert [] == [
        label(path)
        for path in files
        if any(word in path.read_text(encoding="utf-8") for word in forbidden)
    ]


def test_the_documentation_names_no_path_of_a_machine():
    """What is written for everybody works on everybody's machine."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]

    assert [] == [
        f"{label(page)}: {line.strip()}"
        for page in pages
        for line in page.read_text(encoding="utf-8").splitlines()
        if MACHINE_PATH.search(line)
    ]
