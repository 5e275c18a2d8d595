"""How fast the GPU is: against its measured copy bandwidth, its measured matrix rate, and PyTorch in the same run."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import numba_nn as nn
from numba_nn.core.device import CUDA
from numba_nn.core.narrow import FORMS, narrow_dtype
from numba_nn.core.precision import PRECISIONS
from numba_nn.core.ptx import cuda

Section = Callable[[], dict[str, Any]]


def median_us(call: Callable[[], Any], quick: bool) -> float:
    """Median duration on the GPU, by its own events, of runs of several calls."""
    rounds, calls = (1, 1) if quick else (7, 20)
    durations = []
    call()
    cuda.synchronize()
    for _ in range(rounds):
        start, stop = cuda.event(), cuda.event()
        start.record()
        for _ in range(calls):
            call()
        stop.record()
        stop.synchronize()
        durations.append(cuda.event_elapsed_time(start, stop) * 1e3 / calls)
    return statistics.median(durations)


def torch_or_none() -> Any:
    """PyTorch, if it is here and sees the GPU."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def as_torch(torch: Any, array: Any) -> Any:
    """A device array as a tensor of PyTorch's, without a copy."""
    return torch.as_tensor(array, device="cuda")


def compared(ours: Callable[[], Any], theirs: Callable[[], Any] | None, quick: bool) -> dict[str, Any]:
    """Times of both, and the ratio."""
    own = median_us(ours, quick)
    found: dict[str, Any] = {"us": round(own, 2)}
    if theirs is not None:
        peer = median_us(theirs, quick)
        found |= {"PyTorch us": round(peer, 2), "PyTorch's time / ours": round(peer / max(own, 1e-9), 2)}
    return found


def copy_bandwidth(elements: int, quick: bool) -> float:
    """GB/s of a copy on the device, by the driver: bytes read and written."""
    x = CUDA.zeros((elements,), np.float32)
    y = CUDA.empty((elements,), np.float32)
    return 2 * x.nbytes / max(median_us(lambda: y.copy_to_device(x), quick), 1e-9) / 1e3


def element_wise(name: str, elements: int, quick: bool) -> dict[str, Any]:
    """A layer without parameters: forward and backward, with the share of the copy bandwidth."""
    torch, layer = torch_or_none(), getattr(nn, name)()
    x = CUDA.from_host(np.random.default_rng(0).standard_normal(elements, dtype=np.float32))
    y, dx = CUDA.empty((elements,), np.float32), CUDA.empty((elements,), np.float32)
    layer.to("cuda").eval()
    run = getattr(torch.nn.functional, name.lower()) if torch else None
    tensor = as_torch(torch, x) if torch else None
    found = compared(lambda: layer.forward(x, out=y), run and (lambda: run(tensor)), quick)
    found["share of copy bandwidth"] = round(2 * x.nbytes / found["us"] / 1e3 / copy_bandwidth(elements, quick), 2)
    layer.train()

    def both() -> None:
        layer.forward(x, out=y)
        layer.backward(y, out=dx)

    found["forward and backward us"] = round(median_us(both, quick), 2)
    return found


def linear(n: int, precision: str, quick: bool) -> dict[str, Any]:
    """A product of n x n matrices, with the share of PyTorch's (cuBLAS) rate."""
    torch, layer = torch_or_none(), nn.Linear(n, n, bias=False).to("cuda").eval()
    x = CUDA.from_host(np.random.default_rng(0).standard_normal((n, n), dtype=np.float32))
    y = CUDA.empty((n, n), np.float32)
    theirs = None
    if torch:
        torch.backends.cuda.matmul.allow_tf32 = precision != "exact"
        a, w = as_torch(torch, x), as_torch(torch, layer.weight.value)
        theirs = lambda: torch.nn.functional.linear(a, w)  # noqa: E731
    before = nn.get_precision()
    nn.set_precision(precision)
    try:
        found = compared(lambda: layer.forward(x, out=y), theirs, quick)
    finally:
        nn.set_precision(before)
    return {**found, "TFLOP/s": round(2 * n**3 / found["us"] / 1e6, 1)}


def product(n: int, form: str, quick: bool) -> dict[str, Any]:
    """A product of n x n matrices of 16-bit floats, with the share of PyTorch's (cuBLAS) rate."""
    torch, theirs = torch_or_none(), None
    a = CUDA.from_host(np.random.default_rng(0).standard_normal((n, n)).astype(narrow_dtype("product", form)))
    c = CUDA.empty((n, n), a.dtype)
    if torch:
        tensor = torch.randn((n, n), device="cuda", dtype=getattr(torch, form))
        theirs = lambda: torch.matmul(tensor, tensor)  # noqa: E731
    found = compared(lambda: nn.matmul(a, a, out=c), theirs, quick)
    return {**found, "TFLOP/s": round(2 * n**3 / found["us"] / 1e6, 1)}


def training_step(batch: int, quick: bool, form: str = "") -> dict[str, Any]:
    """A training step of the autoencoder, maybe in 16 bits, and PyTorch's in eager mode."""
    torch, plain = torch_or_none(), nn.models.Autoencoder()
    model = (nn.MixedPrecision(plain, form) if form else plain).to("cuda")
    shape = (batch, 3, 8, 8) if quick else (batch, 3, 32, 32)
    step = nn.TrainStep(model, nn.MSELoss(), nn.optim.Adam(model.parameters()), shape)
    x = CUDA.from_host(np.random.default_rng(0).random(shape, dtype=np.float32))
    theirs = _torch_step(torch, as_torch(torch, x), form) if torch else None
    found = compared(lambda: step(x, x), theirs, quick)
    return {**found, "images/s": round(batch / found["us"] * 1e6)}


def _torch_step(torch: Any, x: Any, form: str) -> Callable[[], None]:
    def conv(i: int, o: int) -> Any:
        return torch.nn.Conv2d(i, o, 3, padding=1)

    relu, pool, up = torch.nn.ReLU, torch.nn.MaxPool2d, torch.nn.Upsample
    model = torch.nn.Sequential(
        conv(3, 256), relu(), pool(2), conv(256, 128), relu(), pool(2), conv(128, 128), relu(), up(scale_factor=2),
        conv(128, 256), relu(), up(scale_factor=2), conv(256, 3),
    ).cuda()  # fmt: skip
    optimizer, scaler = torch.optim.Adam(model.parameters()), torch.amp.GradScaler(enabled=form == "float16")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", getattr(torch, form or "float16"), enabled=bool(form)):
            loss = torch.nn.functional.mse_loss(model(x), x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def sections(quick: bool) -> dict[str, Section]:
    """Name to section.

    Parameters
    ----------
    quick : bool
        Small sizes and few repetitions.

    Returns
    -------
    dict of str to callable
        In the order in which they run.
    """
    elements, n, batch = (1000, 16, 1) if quick else (1 << 26, 4096, 64)
    found: dict[str, Section] = {
        "copy": lambda: {"GB/s": round(copy_bandwidth(elements, quick))},
        **{name: partial(element_wise, name, elements, quick) for name in ("ReLU", "GELU")},
        "small ReLU": partial(element_wise, "ReLU", 512, quick),
        **{f"Linear {n}, {precision}": partial(linear, n, precision, quick) for precision in PRECISIONS},
        **{f"product {n}, {form}": partial(product, n, form, quick) for form in FORMS},
        f"autoencoder, batch {batch}": partial(training_step, batch, quick),
        **{f"autoencoder, batch {batch}, {form}": partial(training_step, batch, quick, form) for form in FORMS},
    }
    return found
