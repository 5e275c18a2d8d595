"""The on-disk cache of compiled kernels.

Numba's own cache keys a function by its file's time stamp and its argument types. That key misses two things a library
needs: the compilation flags (a serial build would be served where a parallel one is asked for), and the functions that a
kernel calls in other files. It also keeps one index per function, which two processes can overwrite in turn.

Here every compiled overload is one file, whose name is its whole key:

    <cache root>/<digest of the sources>/<kernel>.<variant>.<digest of the rest>.nbc

* *sources*: every Python file that the kernel may be made of (`source_digest`);
* *the rest*: argument types, flags, CPU name and features, versions of Python, NumPy, Numba and llvmlite.

A file begins with a checksum of the rest. It is written under a temporary name and renamed, so a reader sees all of it or
nothing, and two writers write the same.

A process whose sources were edited after it started does not use the cache: it runs the old code, under the new digest.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

PACKAGE = __name__.partition(".")[0]
CHECKSUM_BYTES = hashlib.sha256().digest_size
VERSIONS = (sys.version, np.__version__, numba.__version__, llvmlite.__version__)


# Sources changed after this moment may differ from what the process imported.
_STARTED = time.time()


lookups = Counter(found=0, compiled=0)
"""Overloads that this process loaded from disk, and those that it had to compile."""
listeners: list[Callable[[str], None]] = []
"""Called with the name of a kernel that is about to be compiled."""


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _sources(module: str) -> list[Path]:
    """The files that decide what the kernels of a module do.

    Of numba_nn: ``core``, ``layers`` and the module itself with its package, since imports run one way; of another package:
    all of it too.
    """
    house, own = Path(__file__).parents[1], _module_file(module)
    sources = [*house.glob("core/**/*.py"), *house.glob("layers/**/*.py"), own]
    if house in own.parent.parents:
        sources += own.parent.glob("*.py")
    top = module.partition(".")[0]
    if top != PACKAGE and _module_file(top).name == "__init__.py":
        sources += _module_file(top).parent.rglob("*.py")
    return sorted(set(sources))


def _module_file(module: str) -> Path:
    return Path(getattr(sys.modules[module], "__file__", None) or "")


@functools.cache
def source_digest(module: str) -> str | None:
    """Digest over the sources behind a module's kernels.

    None where there is no knowing what was imported: no file (a notebook's ``__main__``), or one that changed since.
    """
    sources = _sources(module)
    try:
        if any(path.stat().st_mtime > _STARTED for path in sources):
            return None
        return _digest(*(part for path in sources for part in (str(path).encode(), path.read_bytes())))
    except OSError:
        return None


def _candidates() -> list[Path]:
    """Places for the cache, best first."""
    explicit = os.environ.get("NUMBA_NN_CACHE_DIR")
    shared = os.environ.get("NUMBA_CACHE_DIR")
    if explicit:
        first = Path(explicit)
    elif shared:
        first = Path(shared) / PACKAGE
    else:
        first = Path(AppDirs(PACKAGE, appauthor=False).user_cache_dir)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    try:
        return [first, Path(tempfile.gettempdir()) / f"{PACKAGE}-cache-{user}"]
    except FileNotFoundError:  # no temporary folder that can be written
        return [first]


def _is_ours_and_writable(folder: Path) -> bool:
    """Whether compiled code may be written to, and trusted from, this folder."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def cache_root() -> Path | None:
    """The folder that holds compiled kernels, or None where no folder can be written.

    ``NUMBA_NN_CACHE_DIR`` sets it; else it lies in ``NUMBA_CACHE_DIR`` or the user's cache folder. A folder that cannot be
    written is replaced by one in the system's temporary folder, with one warning per process.
    """
    wanted, *fallbacks = _candidates()
    if _is_ours_and_writable(wanted):
        return wanted
    found = next((folder for folder in fallbacks if _is_ours_and_writable(folder)), None)
    warnings.warn(
        f"numba_nn cannot write its compilation cache to {wanted}; "
        + (f"using {found} instead." if found else "kernels are compiled anew in every process.")
        + " Set NUMBA_NN_CACHE_DIR to a writable folder.",
        RuntimeWarning,
        stacklevel=2,
    )
    return found


def _write_atomically(file: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, file)
    except BaseException:  # a signal, too
        os.unlink(temporary)
        raise


class KernelCache:
    """The cache of one kernel variant, with the interface that Numba's dispatcher expects.

    Parameters
    ----------
    py_func : function
        The kernel's Python function.
    variant : str
        ``"serial"`` or ``"parallel"``.
    flags : dict
        The compilation flags, part of the key.
    """

    def __init__(self, py_func: Callable[..., Any], variant: str, flags: dict[str, Any]) -> None:
        self._py_func = py_func
        self._variant = variant
        self._flags = repr(sorted((name, _stable(value)) for name, value in flags.items()))

    @property
    def cache_path(self) -> str:
        """Folder of this kernel's files ('' where nothing can be written, or the sources are not known)."""
        root = cache_root()
        digest = source_digest(self._py_func.__module__)
        return "" if root is None or digest is None else str(root / digest)

    def _file(self, signature: Any, codegen: Any) -> Path | None:
        folder = self.cache_path
        if not folder:
            return None
        settings = (config.OPT, config.BOUNDSCHECK, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.USING_SVML)
        key = (self._py_func.__module__, str(signature), self._flags, codegen.magic_tuple(), VERSIONS, settings)
        name = f"{self._py_func.__qualname__}.{self._variant}.{_digest(repr(key).encode())}.nbc"
        return Path(folder) / name

    def load_overload(self, signature: Any, target_context: Any) -> CompileResult | None:
        """The compiled overload, or None if it is not on disk (or what is there cannot be read)."""
        result = self._load(signature, target_context)
        lookups["compiled" if result is None else "found"] += 1
        if result is None:
            for listener in tuple(listeners):  # another thread may stop listening meanwhile
                listener(self._py_func.__name__)
        return result

    def _load(self, signature: Any, target_context: Any) -> CompileResult | None:
        target_context.refresh()
        file = self._file(signature, target_context.codegen())
        if file is None:
            return None
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warnings.warn(f"cannot read cache file {file} ({error}); compiling anew", RuntimeWarning, stacklevel=2)
            return None
        checksum, payload = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
        if hashlib.sha256(payload).digest() != checksum:  # machine code with a wrong bit would run, and crash
            warnings.warn(f"damaged cache file {file}; compiling anew", RuntimeWarning, stacklevel=2)
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(payload))

    def save_overload(self, signature: Any, result: CompileResult) -> None:
        """Write a compiled overload, atomically; a full or vanished disk costs the next process a compilation, no more."""
        file = self._file(signature, result.codegen)
        if file is None:
            return
        if result.library.has_dynamic_globals:
            raise TypeError(f"kernel '{self._py_func.__qualname__}' refers to an address or a large global array")
        payload = dumps(result._reduce())
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_atomically(file, hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            warnings.warn(f"cannot write cache file {file} ({error})", RuntimeWarning, stacklevel=2)

    def flush(self) -> None:
        """Forget nothing: files are immutable, and their names change with what they hold."""


def _stable(value: Any) -> Any:
    """A value whose repr does not depend on hash order."""
    return sorted(value) if isinstance(value, (set, frozenset)) else value
