"""The cache of compiled kernels on disk. Tests start processes of their own, on a cache folder of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numba
import pytest
from numba.core.registry import cpu_target

from numba_nn.core import cache
from numba_nn.core.cache import KernelCache
from numba_nn.core.kernel import FLAGS

SOURCES = {
    "pkg/__init__.py": "",
    "pkg/helpers.py": """
from numba import njit

@njit
def grow(value):
    return value + value
""",
    "pkg/kernels.py": """
from numba import get_thread_id, prange
from numba_nn.core.kernel import In, Out, kernel
from pkg.helpers import grow

@kernel
def grown(y: Out, x: In):
    for i in prange(x.size):
        y[i] = grow(x[i])

@kernel
def who(ids: Out):
    for i in prange(ids.size):
        ids[i] = get_thread_id()
""",
}

# Runs kernels and reports what they gave, what the cache did, and what was compiled and warned.
REPORT = """
import json, sys, warnings
import numpy as np
from numba.core import event
from numba_nn.core import kernel as mechanism

class Compiled(event.Listener):
    names = []
    def on_start(self, event):
        self.names.append(event.data["dispatcher"].__name__)
    def on_end(self, event):
        pass

def report(**results):
    ours = [w for w in caught if issubclass(w.category, RuntimeWarning)]
    hits = mechanism.cache_hits(grown, who)
    print(json.dumps({**results, **hits, "compiled": Compiled.names, "warnings": [str(w.message) for w in ours]}))

def run(variant="serial", dtype=np.float32):
    y = np.empty(3, dtype)
    getattr(grown, variant)(y, np.array([1, 2, 3], dtype))
    return y.tolist()

event.register("numba:compile", Compiled())
caught = warnings.catch_warnings(record=True).__enter__()
warnings.simplefilter("always")
from pkg.kernels import grown, who
"""
RUN = REPORT + "report(y=run())"


@pytest.fixture
def package(tmp_path):
    """A folder with a package of kernels, one of which calls a function in another file.

    Beside it a copy of numba_nn: an edit of the working copy while the tests run would, rightly, keep processes off the cache.
    """
    shutil.copytree(Path(cache.__file__).parents[1], tmp_path / "numba_nn", ignore=shutil.ignore_patterns("__pycache__"))
    for name, source in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


@pytest.fixture
def run(package, run_python):
    """Run a script that sees the package; the cache lies in ``cache`` beside it."""

    def runner(script=RUN, **environment):
        return run_python(script, path=package, **{"NUMBA_NN_CACHE_DIR": str(package / "cache"), **environment})

    return runner


def files(folder: Path, pattern: str = "*.nbc") -> list[Path]:
    return sorted((folder / "cache").rglob(pattern))


# What the key sees


def test_a_second_process_compiles_nothing(run):
    first, second = run(), run()
    assert (first["hits"], first["misses"]) == (0, 1)
    assert "grown" in first["compiled"]
    assert (second["hits"], second["misses"]) == (1, 0)
    assert second["compiled"] == []
    assert first["y"] == second["y"] == [2, 4, 6]
    assert first["warnings"] == second["warnings"] == []


def test_an_edit_of_a_callee_in_another_file_is_seen(run, package):
    assert run()["y"] == [2, 4, 6]
    helpers = package / "pkg" / "helpers.py"
    original = helpers.read_text()
    helpers.write_text(original.replace("value + value", "value * value"))
    edited = run()
    assert edited["y"] == [1, 4, 9]
    assert (edited["hits"], edited["misses"]) == (0, 1)
    helpers.write_text(original)
    back = run()
    assert (back["y"], back["hits"]) == ([2, 4, 6], 1)


def test_a_process_that_runs_older_sources_than_the_disk_has_stores_nothing(run, package):
    edit = """
from pathlib import Path
helpers = Path("pkg/helpers.py")
helpers.write_text(helpers.read_text().replace("value + value", "value * value"))
report(y=run())
"""
    assert run(REPORT + edit)["y"] == [2, 4, 6]  # what was imported
    assert files(package) == []
    assert run()["y"] == [1, 4, 9]


def test_serial_and_parallel_are_never_confused(run, package):
    script = """
def threads(variant):
    ids = np.full(1024, -1)
    getattr(who, variant)(ids)
    return len(np.unique(ids))
report(**{variant: threads(variant) for variant in ORDER})
"""
    # The second process asks in the other order: a file that served either variant would show.
    for order, counts in (("'serial', 'parallel'", (0, 2)), ("'parallel', 'serial'", (2, 0))):
        seen = run(f"{REPORT}ORDER = {order}{script}", NUMBA_NUM_THREADS="4")
        assert seen["serial"] == 1 < seen["parallel"]
        assert (seen["hits"], seen["misses"]) == counts
    names = [file.name.split(".") for file in files(package)]
    assert [name[:2] for name in names] == [["who", "parallel"], ["who", "serial"]]
    assert names[0][2] != names[1][2]


def key(flags=None, variant="serial", signature=(numba.float32,)):
    """Path of the file for one overload of a function."""
    target = cpu_target.target_context
    return KernelCache(key, variant, flags or FLAGS)._file(signature, target.codegen())


def test_flags_versions_and_types_are_in_the_key(monkeypatch):
    changed = [{**FLAGS, "fastmath": {"contract"}}, {**FLAGS, "error_model": "python"}, {**FLAGS, "boundscheck": True}]
    keys = [key(), *map(key, changed), key(variant="parallel"), key(signature=(numba.float64,)), key(signature=())]
    monkeypatch.setattr(cache, "VERSIONS", (*cache.VERSIONS, "another"))
    keys.append(key())
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)
    reordered = {name: FLAGS[name] for name in reversed(FLAGS)}
    assert key() == keys[0] == key(reordered)


def test_the_processor_and_numbas_settings_are_in_the_key(run, package):
    assert run()["misses"] == 1
    environments = [{"NUMBA_OPT": "1"}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}]
    for number, environment in enumerate(environments):
        changed = run(**environment)
        assert (changed["hits"], changed["misses"], changed["y"]) == (0, 1, [2, 4, 6])
        assert len(files(package)) == 2 + number
    assert run()["hits"] == 1


def test_each_dtype_is_a_file_of_its_own(run, package):
    both = REPORT + "report(y=run() + run(dtype=np.float64))"
    assert run()["misses"] == 1
    again = run(both)
    assert (again["hits"], again["misses"], again["y"]) == (1, 1, [2, 4, 6] * 2)
    assert len(files(package, "grown.serial.*.nbc")) == 2


# Several processes


def test_processes_at_once_on_an_empty_cache(run, start_python, package):
    scripts = [REPORT + f"report(y=run('serial', np.{dtype}))" for dtype in ("float32", "float64")] * 2
    started = [start_python(script, path=package, NUMBA_NN_CACHE_DIR=str(package / "cache")) for script in scripts]
    for wait in started:
        seen = wait()
        assert seen["y"] == [2, 4, 6]
        assert seen["warnings"] == []
    assert len(files(package)) == 2
    assert files(package, "*.tmp") == []
    after = run(REPORT + "report(y=run() + run(dtype=np.float64))")
    assert (after["hits"], after["misses"], after["compiled"]) == (2, 0, [])


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "a bit":
        content[len(content) // 2] ^= 1
    file.write_bytes({"empty": b"", "truncated": content[:-100], "a bit": content, "another file": b"hello " * 100}[how])


def test_a_damaged_file_is_compiled_anew(run, package):
    assert run()["y"] == [2, 4, 6]
    (file,) = files(package)
    for how in ("empty", "truncated", "a bit", "another file"):
        damage(file, how)
        mended = run()
        assert (mended["y"], mended["misses"]) == ([2, 4, 6], 1), how
        (warning,) = mended["warnings"]
        assert f"damaged cache file {file}" in warning, how
    after = run()
    assert (after["hits"], after["warnings"]) == (1, [])


# Where the cache lies


@pytest.fixture
def homeless(package):
    """An environment whose home cannot be written, not even by root: it lies below a regular file."""
    (package / "file").write_text("")
    (package / "tmp").mkdir()
    below = str(package / "file" / "home")
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(package / "tmp"))
    unset = dict.fromkeys(("NUMBA_NN_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"))
    return {"HOME": below, "LOCALAPPDATA": below, **temporary, **unset}


def test_a_read_only_home_falls_back_with_one_message(run, package, homeless):
    two = REPORT + "report(y=run() + run('parallel'))"
    first, second = run(two, **homeless), run(two, **homeless)
    for seen in (first, second):
        assert seen["y"] == [2, 4, 6] * 2
        (message,) = seen["warnings"]
        assert f"cannot write its compilation cache to {homeless['HOME']}" in message
        assert f"using {package / 'tmp'}" in message
        assert "Set NUMBA_NN_CACHE_DIR" in message
    assert (first["misses"], second["hits"]) == (2, 2)


@pytest.mark.parametrize(
    "break_temporary_folder",
    ["import tempfile; tempfile.tempdir = 'file/tmp'", "import tempfile; tempfile._candidate_tempdir_list = lambda: []"],
)
def test_with_no_folder_at_all_kernels_still_compute(run, homeless, break_temporary_folder):
    seen = run(f"{break_temporary_folder}\n{REPORT}\nreport(y=run() + run('parallel'))", **homeless)
    assert (seen["y"], seen["hits"], seen["misses"]) == ([2, 4, 6] * 2, 0, 2)
    (warning,) = seen["warnings"]
    assert "kernels are compiled anew in every process" in warning


def test_numbas_own_cache_folder_is_used_where_ours_is_not_set(run, package):
    run(NUMBA_NN_CACHE_DIR=None, NUMBA_CACHE_DIR=str(package / "shared"))
    assert len(list((package / "shared" / "numba_nn").rglob("grown.serial.*.nbc"))) == 1


def test_a_disk_that_fills_up_costs_a_warning(run, package):
    full = """
import numba_nn.core.cache as cache
def no_space(*_):
    raise OSError(28, "No space left on device")
cache.os.replace = no_space
report(y=run())
"""
    seen = run(REPORT + full)
    assert seen["y"] == [2, 4, 6]
    (warning,) = seen["warnings"]
    assert "No space left on device" in warning
    assert files(package, "*.*") == []


def test_a_kernel_without_a_file_is_not_cached(run, package):
    """As in a notebook, whose functions lie in no file that could be digested."""
    script = f"""
import json, types, sys
import numpy as np
module = types.ModuleType("cell")
sys.modules["cell"] = module
exec(compile({json.dumps(SOURCES["pkg/kernels.py"])}, "<cell>", "exec"), module.__dict__)
y = np.empty(2)
module.grown(y, np.array([1.0, 2.0]))
print(json.dumps(y.tolist()))
"""
    assert run(script) == [2, 4]
    assert files(package) == []
