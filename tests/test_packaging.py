"""The package from outside: what an import costs, what is public, what is installed with it."""

import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import numba_nn

ROOT = Path(__file__).resolve().parents[1]
IMPORT_REPORT = """
import json, sys
import numba
from numba.core import event
before = set(sys.modules)
with event.install_recorder("numba:compile") as compilations:
    {statement}
print(json.dumps([sorted(set(sys.modules) - before), len(compilations.buffer)]))
"""
HEAVY = ("numba.cuda", "numba_cuda", "scipy", "matplotlib", "sklearn", "skimage", "rich")


def import_report(statement: str) -> tuple[list[str], int]:
    """Heavy modules that a statement loads on top of numba, and how many functions it compiles."""
    program = IMPORT_REPORT.format(statement=statement)
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    modules, compiled = json.loads(ran.stdout)
    return [m for m in modules if f"{m}.".startswith(tuple(f"{heavy}." for heavy in HEAVY))], compiled


def test_import_report_sees_both() -> None:
    modules, compiled = import_report("import scipy.linalg; numba.njit(lambda x: x)(1)")
    assert "scipy.linalg" in modules
    assert compiled >= 1


def test_import_is_light() -> None:
    assert import_report("import numba_nn") == ([], 0)


def undocumented(name: str, thing: object) -> list[str]:
    """A public name without a docstring of its own, or arguments of which docstring and signature know different ones."""
    is_class = inspect.isclass(thing)
    text = thing.__dict__.get("__doc__") if is_class else inspect.getdoc(thing)
    if not text:
        return [name]
    function = thing.__init__ if is_class else thing
    parameters = list(inspect.signature(function).parameters)[is_class:] if inspect.isfunction(function) else []
    section = re.search(r"\n *Parameters\n *-+\n(.*?)(\n\n|\Z)", inspect.cleandoc(text), re.DOTALL)
    lines = [line for line in section[1].splitlines() if not line.startswith(" ")] if section else []
    told = [p.strip("* ") for line in lines for p in line.partition(" : ")[0].split(",")]
    missing = [f"{name}({p})" for p in parameters if not re.search(rf"\b{p}\b", text)]
    return missing + [f"{name}: no argument {p}" for p in told if inspect.isfunction(function) and p not in parameters]


class Sized:
    """Takes n."""

    def __init__(self, n: int, size: int) -> None: ...


class Bare(Sized): ...


class Other(Sized):
    """Takes n.

    Parameters
    ----------
    n, length : int
        What it takes.
    """


def scaled(x: float, scale: float) -> float:
    """Give x times a scale."""
    return x * scale


@pytest.mark.parametrize(
    ("thing", "complaints"),
    [
        (lambda: 0, ["it"]),
        (Bare, ["it"]),
        (Sized, ["it(size)"]),
        (Other, ["it(size)", "it: no argument length"]),
        (scaled, []),
        (ArithmeticError, []),
        (re, []),
    ],
)
def test_undocumented_names_are_seen(thing: object, complaints: list[str]) -> None:
    assert undocumented("it", thing) == complaints


def test_public_names_are_documented() -> None:
    assert numba_nn.__all__
    assert [text for name in numba_nn.__all__ for text in undocumented(name, getattr(numba_nn, name))] == []


def test_lock_names_the_public_registry_only() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    sources = {json.dumps(package["source"]) for package in lock["package"]}
    assert sources == {'{"registry": "https://pypi.org/simple"}', '{"editable": "."}'}
    files = [file for p in lock["package"] for file in [*p.get("wheels", []), *([p["sdist"]] if "sdist" in p else [])]]
    assert {re.match(r"https://[^/]+/", file["url"])[0] for file in files} == {"https://files.pythonhosted.org/"}


def test_runtime_dependencies_are_three() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [re.match(r"[\w-]+", text)[0] for text in project["dependencies"]] == ["numba", "numpy", "scipy"]
