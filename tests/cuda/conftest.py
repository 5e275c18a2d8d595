"""What several modules of tests use."""

import pytest
from simulated_cuda import simulated

import numba_nn as nn


@pytest.fixture
def exact_gpu():
    """A simulated GPU, and products by multiply-adds."""
    nn.set_precision("exact")
    with simulated():
        yield
    nn.set_precision("default")
