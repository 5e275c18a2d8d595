"""How fast is ``nn.matmul``? Beside NumPy's BLAS, and as a share of the multiply-add peak, in one run.

    python examples/matmul_speed.py 256 512 1024

The two libraries' idle threads spin for a while after a call, so they are measured in turns with pauses between, and the
median over all calls is printed.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import numba_nn as nn
from numba_nn.core.peak import measure_peak


def milliseconds(call: Callable[[], object], calls: int = 10) -> list[float]:
    """Durations of some calls, after a pause and a warm-up."""
    time.sleep(0.3)
    durations = []
    for i in range(calls + 2):
        start = time.perf_counter()
        call()
        if i >= 2:
            durations.append((time.perf_counter() - start) * 1e3)
    return durations


def rates(n: int, dtype: type) -> tuple[float, float]:
    """GFLOP/s of an n x n product, ours and NumPy's, checked against each other first."""
    a, b = np.random.default_rng(0).random((2, n, n)).astype(dtype)
    ours, theirs = np.empty((n, n), dtype), np.empty((n, n), dtype)
    np.testing.assert_allclose(nn.matmul(a, b, out=ours), np.matmul(a, b, out=theirs), rtol=1e-4)
    mine: list[float] = []
    numpys: list[float] = []
    for _ in range(3):
        mine += milliseconds(lambda: nn.matmul(a, b, out=ours))
        numpys += milliseconds(lambda: np.matmul(a, b, out=theirs))
    return 2 * n**3 / statistics.median(mine) / 1e6, 2 * n**3 / statistics.median(numpys) / 1e6


def main() -> None:
    """Print a line for each size and dtype."""
    print(f"{'product':>16}  {'ours':>14}  {'NumPy':>14}  ratio  of peak")
    for dtype in (np.float32, np.float64):
        peak = measure_peak(dtype)
        for n in [int(argument) for argument in sys.argv[1:]] or [256, 512, 1024]:
            ours, numpys = rates(n, dtype)
            name = f"{n}^3 {np.dtype(dtype).name}"
            print(f"{name:>16}  {ours:6.0f} GFLOP/s  {numpys:6.0f} GFLOP/s  {ours / numpys:5.2f}  {ours / peak:6.0%}")


if __name__ == "__main__":
    main()
