"""The repair of vLLM's CPU sampler."""

import importlib.util
import subprocess
import sys
import textwrap

import pytest

from service.launch import SITE

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def repair():
    spec = importlib.util.spec_from_file_location("repair_under_test", SITE / "sitecustomize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_values_are_repeated_into_the_output_itself(repair):
    """Three requests with 2, 0 and 3 drafted tokens; 0 (greedy) is replaced by 1."""
    output = torch.full((5,), float("nan"))
    repair.expand(output, torch.tensor([0.7, 0.5, 0.0]), torch.tensor([2, 2, 5]), 0.0, 1.0)

    expected = torch.tensor([0.7, 0.7, 1.0, 1.0, 1.0])
    assert torch.equal(expected, output)


def test_integers_keep_their_type(repair):
    """top_k is an int32 tensor and stays one."""
    output = torch.zeros(3, dtype=torch.int32)
    repair.expand(output, torch.tensor([5, 9], dtype=torch.int32), torch.tensor([1, 3]), 0, 0)

    assert [5, 9, 9] == output.tolist()
    assert output.dtype == torch.int32


def test_every_python_of_an_engine_gets_it_and_the_hidden_one_still_runs(tmp_path):
    """The hook replaces the function of that module only, and a hidden sitecustomize is run."""
    package = tmp_path / "vllm" / "utils"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "cpu_triton_utils.py").write_text("def _expand_kernel_impl(): pass\nother = 1\n")
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.hidden_ran = True\n")
    code = textwrap.dedent("""
        from vllm.utils import cpu_triton_utils as module
        print(module._expand_kernel_impl.__name__, module.other, hidden_ran)
    """)
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{SITE}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "expand 1 True" == answer.stdout.strip()
