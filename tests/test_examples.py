"""The examples run as a reader would run them, and the README's is the one in ``examples/``."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.allocations import runtime_allocations

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("quickstart.py", [], r"loss 0\.00\d+"),
        ("own_loop.py", [], r"y = (2\.0\d+|1\.99\d+) x \+ (1\.0\d+|0\.99\d+)"),
        ("classifier.py", [], r"accuracy 0\.9\d+\n\[\["),
        ("residual.py", [], r"accuracy (1\.000|0\.9\d+)"),
        ("own_layer.py", [], r"factors 2\.000 -1\.000 0\.500"),
        ("matmul_speed.py", ["40"], r"40\^3 float32 +\d+ GFLOP/s"),
        ("kernel_ladder.py", ["--size", "40", "--shape", "1", "3", "4", "9"], r"three loops \| (?s:.*)Winograd"),
    ],
)
def test_examples_run(name: str, arguments: list[str], expected: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(expected, output), output


def test_own_loop_allocates_nothing_in_a_step() -> None:
    main = runpy.run_path(str(ROOT / "examples" / "own_loop.py"))["main"]
    main(1)  # compiles
    assert runtime_allocations(lambda: main(50)) == runtime_allocations(lambda: main(1))


def test_every_example_is_tried() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "examples").glob("*.py") if f'"{path.name}"' not in source] == []


def test_the_readme_shows_the_classifier() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    example = (ROOT / "examples" / "classifier.py").read_text(encoding="utf-8")
    assert example.endswith(shown)


def test_the_readme_shows_the_residual_block() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```python\n(class Residual.*?)```", readme, re.DOTALL)
    assert shown in (ROOT / "examples" / "residual.py").read_text(encoding="utf-8")
