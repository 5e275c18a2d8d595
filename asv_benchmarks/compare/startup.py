"""From the start of a process to its first finished training step, against a bare ``import torch``."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

from .work import Passes, Side, Work

FIRST_STEP = """
import numpy as np, numba_nn as nn
model = nn.models.Autoencoder()
x = np.zeros((1, 3, 32, 32), np.float32)
nn.TrainStep(model, nn.MSELoss(), nn.optim.SGD(model.parameters(), lr=1e-3), x.shape)(x, x)
"""


def startup() -> Passes:
    """With a cache of compiled kernels, and of Python's bytecode, that is warm: the check before the timing fills it."""
    return {"first training step": _startup}


def _startup() -> Work:
    return Work(_process("numba_nn", FIRST_STEP), [_process("import torch", "import torch")], here=False)


def _process(name: str, script: str) -> Side:
    # An environment that forbids to write bytecode would have only what pip installed start from it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return Side(name, partial(subprocess.run, [sys.executable, "-c", script], check=True, env=environment), lambda _: [])
