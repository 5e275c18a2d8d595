"""Functions of arrays, into destinations on all sides."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

import numba_nn as nn
from numba_nn.report.measuring.cases import normal

from .work import TOLERANCE, Case, Passes, Side, Work

NORM_TOLERANCE = 2e-3  # of 16 M elements: PyTorch's is 8e-4 from the result in float64, ours 2e-8

PEERS: dict[str, tuple[Any, Any]] = {  # NumPy's norm has no destination
    "add": (torch.add, np.add), "subtract": (torch.sub, np.subtract), "multiply": (torch.mul, np.multiply),
    "exp": (torch.exp, np.exp), "sum": (torch.sum, np.sum), "max": (torch.amax, np.max),
    "norm": (torch.linalg.vector_norm, None),
}  # fmt: skip
Operand = tuple[int, ...] | float


def operation(group: str, name: str, *operands: Operand, axis: int | None = None) -> Case:
    """A function of arrays of these shapes, or numbers; along an axis it reduces."""
    title = f"{name} {', '.join(str(list(o)) if isinstance(o, tuple) else str(o) for o in operands)}"
    title += "" if axis is None else f" axis {axis}"
    passes: Passes = {"call": partial(_work, name, operands, {} if axis is None else {"axis": axis})}
    return Case(group, title, passes, large=group.endswith("MB"))


def _work(name: str, operands: tuple[Operand, ...], options: dict[str, int]) -> Work:
    given = [normal(o) if isinstance(o, tuple) else o for o in operands]
    theirs = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in given]
    in_torch, in_numpy = PEERS[name]
    run = partial(getattr(nn.ops, name), *given, **options)
    out = np.asarray(run())
    torch_options = {"dim": options["axis"]} if options else {}
    peers = [Side("PyTorch", partial(in_torch, *theirs, **torch_options, out=torch.empty(out.shape)), lambda y: [y])]
    if in_numpy:
        peers.append(Side("NumPy", partial(in_numpy, *given, **options, out=np.empty_like(out)), lambda y: [y]))
    nbytes = sum(a.nbytes for a in (*given, out) if isinstance(a, np.ndarray))
    tolerance = NORM_TOLERANCE if name == "norm" else TOLERANCE
    return Work(Side("numba_nn", partial(run, out=out), lambda y: [y]), peers, 0.0, nbytes, tolerance)
