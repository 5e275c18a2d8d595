"""Matrix products, into destinations on all sides."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

import numba_nn as nn
from numba_nn.report.measuring.cases import normal

from .work import Passes, Side, Work


def matmul(m: int, k: int, n: int, kinds: tuple[str, ...] = ("A B",)) -> Passes:
    """[m, k] x [k, n]; in ``kinds`` a T stands behind an operand that lies transposed in memory."""
    return {kind: partial(_product, m, k, n, kind) for kind in kinds}


ALL_KINDS = ("A B", "AT B", "A BT", "AT BT")


def _product(m: int, k: int, n: int, kind: str) -> Work:
    left, right = kind.split()
    transpose_a, transpose_b = left == "AT", right == "BT"
    a, b = normal((k, m) if transpose_a else (m, k)), normal((n, k) if transpose_b else (k, n))
    out, numpy_out, torch_out = np.empty((m, n), np.float32), np.empty((m, n), np.float32), torch.empty(m, n)
    numpy_a, numpy_b = a.T if transpose_a else a, b.T if transpose_b else b
    torch_a, torch_b = torch.from_numpy(a).clone(), torch.from_numpy(b).clone()
    torch_a, torch_b = torch_a.t() if transpose_a else torch_a, torch_b.t() if transpose_b else torch_b
    ours = partial(nn.matmul, a, b, out=out, transpose_a=transpose_a, transpose_b=transpose_b)
    peers = [
        Side("PyTorch", partial(torch.mm, torch_a, torch_b, out=torch_out), lambda result: [result]),
        Side("NumPy", partial(np.matmul, numpy_a, numpy_b, out=numpy_out), lambda result: [result]),
    ]
    nbytes = 4 * (m * k + k * n + m * n)
    return Work(Side("numba_nn", ours, lambda result: [result]), peers, 2 * m * k * n, nbytes)
