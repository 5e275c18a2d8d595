"""How fast the GPU is: against its measured copy bandwidth and, where it is installed, PyTorch in the same run.

PyTorch's products, by cuBLAS, are the yardstick for those of matrices.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import numba_nn as nn
from numba_nn.core.cuda.capture import Capture
from numba_nn.core.cuda.narrow import FORMS, narrow_dtype
from numba_nn.core.cuda.ptx import cuda
from numba_nn.core.device import CUDA
from numba_nn.core.precision import PRECISIONS

Section = Callable[[], dict[str, Any]]
LARGE = 1 << 26  # elements: 256 MB of float32


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
    """PyTorch, if it is here and sees the GPU; the report says where it was missing."""
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


@dataclass(frozen=True)
class LayerSpeed:
    """A layer, which PyTorch has under the same name, and the shape of its input.

    ``moved``: what a forward must move at least, in sizes of the input; ``training``: whether it is timed in that mode.
    """

    name: str
    x_shape: tuple[int, ...]
    args: tuple[Any, ...] = ()
    moved: float = 2.0
    training: bool = False

    def build(self, module: Any) -> Any:
        """Ours or PyTorch's."""
        return getattr(module, self.name)(*self.args)

    def passes(self, quick: bool) -> tuple[Any, Any, Callable[[], Any], Callable[[], Any]]:
        """Layer and input on the GPU, and calls of a forward, and of it and its backward."""
        shape = (min(2, self.x_shape[0]), self.x_shape[1], *(min(8, n) for n in self.x_shape[2:])) if quick else self.x_shape
        layer = self.build(nn).to("cuda").reserve(shape)
        x = CUDA.from_host(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
        y, dx = CUDA.empty(layer.output_shape(shape), np.float32), CUDA.empty(shape, np.float32)

        def both() -> None:
            layer.forward(x, out=y)
            layer.backward(y, out=dx)

        return layer, x, lambda: layer.forward(x, out=y), both

    def theirs(self, x: Any) -> tuple[Callable[[], None] | None, Callable[[], None] | None]:
        """PyTorch's forward, and its forward and backward."""
        if (torch := torch_or_none()) is None:
            return None, None
        module, given = self.build(torch.nn).cuda().train(self.training), as_torch(torch, x)

        def forward() -> None:
            with torch.no_grad():
                module(given)

        def both() -> None:
            y = module(given.detach().requires_grad_())
            y.backward(y.detach())

        return forward, both

    def compare(self, quick: bool) -> dict[str, Any]:
        """Forward, with the share of the copy bandwidth, and forward with backward."""
        layer, x, forward, both = self.passes(quick)
        theirs = self.theirs(x)
        layer.train(self.training)
        found = compared(forward, theirs[0], quick)
        found["share of copy bandwidth"] = round(self.moved * x.nbytes / found["us"] / 1e3 / copy_bandwidth(x.size, quick), 2)
        layer.train()
        return {**found, **{f"{name}, with backward": n for name, n in compared(both, theirs[1], quick).items()}}

    def captured(self, quick: bool) -> dict[str, Any]:
        """Forward and backward as a CUDA graph, beside PyTorch's in eager mode."""
        _, x, _, both = self.passes(quick)
        both()
        return compared(Capture(cuda.stream(), both).launch, self.theirs(x)[1], quick)


def adam(elements: int, quick: bool) -> dict[str, Any]:
    """A step of Adam: value, gradient and two moments are read, all but the gradient written."""
    torch, theirs = torch_or_none(), None
    parameter = nn.Parameter(np.zeros(elements, np.float32))
    parameter.move(CUDA)
    optimizer = nn.optim.Adam([parameter])
    if torch:
        other = torch.nn.Parameter(torch.zeros(elements, device="cuda"))
        other.grad = torch.zeros_like(other)
        theirs = torch.optim.Adam([other], fused=True).step
    found = compared(optimizer.step, theirs, quick)
    share = 7 * 4 * elements / found["us"] / 1e3 / copy_bandwidth(elements, quick)
    return {**found, "share of copy bandwidth": round(share, 2)}


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


def operation(name: str, shapes: tuple[tuple[int, int], ...], axis: int | None, quick: bool) -> dict[str, Any]:
    """A function of `ops`, with the share of the copy bandwidth; PyTorch's has the same name, and calls an axis dim."""
    rng, most = np.random.default_rng(0), 8 if quick else LARGE
    operands = [CUDA.from_host(rng.standard_normal([min(most, n) for n in shape], dtype=np.float32)) for shape in shapes]
    given = {} if axis is None else {"axis": axis}
    run, torch, theirs = getattr(nn.ops, name), torch_or_none(), None
    out = run(*operands, **given)
    if torch:
        tensors, dim = [as_torch(torch, a) for a in operands], {} if axis is None else {"dim": axis}
        theirs = lambda: getattr(torch, name)(*tensors, **dim)  # noqa: E731
    found = compared(lambda: run(*operands, **given, out=out), theirs, quick)
    moved = out.nbytes + sum(a.nbytes for a in operands)
    share = moved / found["us"] / 1e3 / copy_bandwidth(operands[0].size, quick)
    return {**found, "share of copy bandwidth": round(share, 2)}


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


IMAGES, ROWS = (64, 64, 128, 128), (65536, 1024)
LAYERS = (
    LayerSpeed("ReLU", ROWS), LayerSpeed("GELU", ROWS), LayerSpeed("Sigmoid", ROWS), LayerSpeed("Softmax", ROWS, (1,)),
    LayerSpeed("Dropout", ROWS, training=True), LayerSpeed("BatchNorm2d", IMAGES, (64,), 3, training=True),
    LayerSpeed("MaxPool2d", IMAGES, (2,), 1.25), LayerSpeed("AvgPool2d", IMAGES, (2,), 1.25),
    LayerSpeed("Upsample", (64, 64, 64, 64), (None, 2), 5),
)  # fmt: skip
"""Of 256 MB, which memory bounds."""
OPERATIONS = {
    "add": ("add", (ROWS, ROWS), None), "exp": ("exp", (ROWS,), None), "sum of columns": ("sum", (ROWS,), 0),
    "sum of rows": ("sum", (ROWS,), 1), "argmax of rows": ("argmax", (ROWS,), 1),
}  # fmt: skip
"""Of 256 MB each."""
CONVOLUTIONS = tuple(
    LayerSpeed("Conv2d", (64, i, size, size), (i, o, 3, 1, 1), 1 + o / i, training=True)
    for i, o, size in ((3, 256, 32), (256, 128, 16), (128, 128, 8), (128, 256, 16), (256, 3, 32))
)
"""The autoencoder's, batch 64."""
SMALL = (
    LayerSpeed("ReLU", (32, 512)), LayerSpeed("Linear", (32, 256), (256, 512)), LayerSpeed("MaxPool2d", (4, 32, 16, 16), (2,)),
    LayerSpeed("Conv2d", (1, 3, 28, 28), (3, 16, 3, 1, 1)),
)  # fmt: skip
"""EasyRobot's."""


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
    elements, n, batch = (1000, 16, 1) if quick else (LARGE, 4096, 64)
    found: dict[str, Section] = {
        "copy": lambda: {"GB/s": round(copy_bandwidth(elements, quick))},
        **{case.name: partial(case.compare, quick) for case in LAYERS},
        **{f"Conv2d {case.args[0]} -> {case.args[1]}": partial(case.compare, quick) for case in CONVOLUTIONS},
        **{f"ops, {kind}": partial(operation, *given, quick) for kind, given in OPERATIONS.items()},
        "Adam": partial(adam, elements, quick),
        **{f"small {case.name}, captured": partial(case.captured, quick) for case in SMALL},
        **{f"Linear {n}, {precision}": partial(linear, n, precision, quick) for precision in PRECISIONS},
        **{f"product {n}, {form}": partial(product, n, form, quick) for form in FORMS},
        f"autoencoder, batch {batch}": partial(training_step, batch, quick),
        **{f"autoencoder, batch {batch}, {form}": partial(training_step, batch, quick, form) for form in FORMS},
    }
    return found
