"""The door to ``numba.cuda``: the only module that imports it, and only when a twin is compiled.

A CUDA twin writes ``cuda.grid(1)`` as in any Numba tutorial:

    from numba_nn.core.ptx import cuda

    @relu_forward.on_cuda
    def relu_forward(y: Out, x: In):
        i = cuda.grid(1)
        ...

`cuda` imports the real module at its first attribute, and Numba's compiler takes it for that module. So a machine without
a GPU, or without ``numba-cuda``, imports every layer and pays nothing.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from numba.core import types


class LazyCuda:
    """Stands for the module ``numba.cuda``, in Python and in compiled twins."""

    @functools.cached_property
    def _module(self) -> ModuleType:
        try:
            from numba import cuda
        except ImportError as error:
            raise ImportError("CUDA twins need the package numba-cuda: pip install 'numba_nn[cuda]'") from error
        return cuda

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # introspection (copy, pickle, doctest) does not open the door
            raise AttributeError(name)
        return getattr(self._module, name)

    @property
    def _numba_type_(self) -> types.Type:
        return types.Module(self._module)


cuda = LazyCuda()
