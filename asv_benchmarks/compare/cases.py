"""The table of what is compared. Every array is float32 and holds N(0, 1) * 0.1."""

from __future__ import annotations

from functools import partial
from typing import Any

from numba_nn.report.measuring.cases import CASES as REPORTED
from numba_nn.report.measuring.cases import OneInput, Shape, layer

from .layers import layer_passes
from .models import autoencoder, perceptron, residual_convolutions
from .operations import operation
from .products import ALL_KINDS, matmul
from .recurrent import lstm, lstm_cell
from .startup import startup
from .training import ADAM_TOLERANCE, loss, optimizer_step, train_step
from .work import Case

IN_TRAINING = ("Dropout", "BatchNorm")  # whose forward by itself would be next to nothing in inference
LARGE_2D = (16, 64, 128, 128)  # 64 MB
LARGE = (4096, 4096)


def reported(case: Any) -> Case:
    """A row of the layer report, against peers."""
    onnx = case.name.startswith(("Conv", "Linear")) and "mean" not in case.name
    return Case("system C", case.name, layer_passes(case.prepare, training=case.name.startswith(IN_TRAINING), onnx=onnx))


def conv(batch: int, channels: int, size: int, out: int, kernel: int = 3, stride: int = 1, *, group: str = "convolution",
         **options: Any) -> Case:  # fmt: skip
    """A 2-D convolution with the padding that keeps the size."""
    options = {"padding": options.get("dilation", 1) * (kernel // 2), "bias": False, **options}
    depthwise = options.get("groups") == channels
    extra = "".join(f" {name[0]}{options[name]}" for name in ("dilation", "groups") if name in options and not depthwise)
    kind = f"k{kernel} s{stride}{extra}"
    name = f"Conv2d x [{batch},{channels},{size},{size}] -> {out}, {'depthwise ' if depthwise else ''}{kind}"
    made = layer("Conv2d", (batch, channels, size, size), channels, out, kernel, stride=stride, **options)
    products = batch * channels * out * (size // stride) ** 2 * kernel**2
    return Case(group, name, layer_passes(made, onnx=True), large=products > 4e9)


def pointwise(batch: int, channels: int, size: int, out: int) -> Case:
    """One of MobileNet's 1 x 1 convolutions."""
    return conv(batch, channels, size, out, 1, group="pointwise convolution")


def depthwise(batch: int, channels: int, size: int, stride: int) -> Case:
    """A depthwise 3 x 3 convolution."""
    return conv(batch, channels, size, channels, 3, stride, groups=channels, group="depthwise convolution")


def mlp(batch: int, sizes: tuple[int, ...], activation: str = "ReLU") -> Case:
    """A perceptron of several layers."""
    made = OneInput((batch, sizes[0]), partial(perceptron, sizes=sizes, activation=activation))
    name = f"MLP {'-'.join(map(str, sizes))} {activation}, batch {batch}"
    return Case("perceptron", name, layer_passes(made, onnx=True))


def plain(group: str, name: str, x_shape: Shape, *arguments: Any, training: bool = False,
          moved: tuple[float, float] | None = None, pause: float = 0.0, **options: Any) -> Case:  # fmt: skip
    """A layer by its name; ``moved`` as in `layer_passes`."""
    made = layer(name, x_shape, *arguments, **options)
    shape, rest = ",".join(map(str, x_shape)), ", ".join([*map(str, arguments), *(f"{k} {v}" for k, v in options.items())])
    title = f"{name} x [{shape}]{', ' + rest if rest and name != 'BatchNorm2d' else ''}{', every 20 ms' if pause else ''}"
    onnx = name == "Linear" and not pause  # onnxruntime's threads would spin into our turn
    passes = layer_passes(made, training=training, moved=moved, pause=pause, onnx=onnx, only="forward" if pause else "")
    return Case(group, title, passes, large=bool(moved) or pause > 0)


SYSTEM_C = [
    *(reported(case) for case in REPORTED if case.reference is not None and isinstance(case.prepare, OneInput)),
    Case("system C", "LSTMCell x [16,128], hidden 256", lstm_cell((16, 128), 256)),
    Case("system C", "LSTM x [1,16,128], hidden 256", lstm((1, 16, 128), 256)),
]
PRODUCTS = [
    *(Case("product", f"matmul {n} cubed", matmul(n, n, n, ALL_KINDS), large=n > 1024) for n in (256, 512, 1024, 2048)),
    *(Case("skinny product", f"matmul [{m},{k}] x [{k},{n}]", matmul(m, k, n)) for m, k, n in (
        (1, 1024, 1024), (8, 512, 512), (32, 256, 512), (32, 1024, 1024), (64, 4096, 64), (1024, 64, 1024), (4096, 32, 256),
        (100, 50, 100), (500, 300, 200), (1000, 500, 200))),
]  # fmt: skip
AUTOENCODER = [
    *(Case("autoencoder", f"autoencoder, batch {n}", {
        **layer_passes(OneInput((n, 3, 32, 32), autoencoder), onnx=True, only="forward"),
        **train_step(autoencoder, (n, 3, 32, 32), "SGD", lr=1e-3)}, large=n > 8) for n in (1, 8, 32, 64)),
]  # fmt: skip
CONVOLUTIONS = [
    *(conv(n, *shape, group="convolution 3x3") for n in (1, 8) for shape in (
        (64, 56, 64), (128, 28, 128), (256, 14, 256), (512, 7, 512))),
    conv(32, 256, 16, 128, group="convolution 3x3"),
    conv(32, 128, 16, 256, group="convolution 3x3"),
    conv(32, 128, 8, 128, group="convolution 3x3"),
    *(conv(n, *shape) for n in (1, 8) for shape in (
        (3, 224, 64, 7, 2), (64, 56, 128, 3, 2), (128, 28, 256, 3, 2), (256, 14, 512, 3, 2), (64, 56, 256, 1), (256, 56, 64, 1),
        (512, 28, 128, 1), (1024, 14, 256, 1), (512, 7, 2048, 1), (256, 56, 512, 1, 2), (64, 56, 128, 1, 2),
        (128, 28, 256, 1, 2), (256, 14, 512, 1, 2), (3, 224, 32, 3, 2))),
    conv(8, 32, 28, 64, 5),
    conv(1, 128, 28, 128, 5),
    *(plain("convolution", "Conv1d", (8, 256, 256), 256, 256, 3, padding=d, dilation=d) for d in (1, 2)),
    conv(8, 64, 28, 64, 3, dilation=2),
    conv(8, 128, 28, 128, 3, groups=32),
    *(pointwise(n, *shape) for n in (1, 8) for shape in (
        (32, 112, 64), (64, 56, 128), (256, 28, 256), (512, 14, 512), (1024, 7, 1024))),
    *(depthwise(n, *shape) for n in (1, 8) for shape in ((32, 112, 1), (64, 112, 2), (128, 56, 1), (256, 28, 2), (512, 14, 1))),
]  # fmt: skip
PERCEPTRONS = [
    *(mlp(n, (784, 256, 128, 10)) for n in (1, 8, 32, 100, 1000)),
    *(mlp(n, (28, 300, 300, 300, 300, 300, 1), "Tanh") for n in (1, 100)),
    Case("perceptron", "MLP 28-300x5-1 Tanh, batch 100, Adam", train_step(
        partial(perceptron, sizes=(28, 300, 300, 300, 300, 300, 1), activation="Tanh"), (100, 28), "Adam", ADAM_TOLERANCE)),
    plain("linear", "Linear", (32, 100), 100, 50),
    plain("linear", "Linear", (32, 500), 500, 1000),
    plain("linear", "Linear", (32, 2000), 2000, 2000),
]  # fmt: skip
RECURRENT = [
    *(Case("recurrent", f"LSTM x [{t},{n},{i}], hidden {h}", lstm((t, n, i), h)) for t, n, i, h in (
        (32, 16, 128, 256), (100, 1, 32, 64), (50, 32, 64, 128), (28, 100, 28, 128), (64, 8, 256, 512))),
    Case("recurrent", "LSTM x [32,16,128], hidden 128, 2 layers both ways", lstm((32, 16, 128), 128, 2, bidirectional=True)),
]  # fmt: skip
ELEMENTS = [
    *(plain("element-wise", name, (32, 512)) for name in ("GELU", "SiLU", "LeakyReLU")),
    *(plain("element-wise", name, (256, 1024)) for name in ("ReLU", "Sigmoid", "Tanh", "GELU")),
    *(plain("element-wise 64 MB", name, LARGE, moved=(2, 5)) for name in ("ReLU", "Sigmoid", "Tanh", "GELU")),
    plain("element-wise 64 MB", "Dropout", LARGE, 0.5, training=True, moved=(2, 4)),
]
POOLING = [
    plain("pooling", "MaxPool2d", (1, 64, 112, 112), 3, 2, 1),
    plain("pooling", "AvgPool2d", (8, 64, 28, 28), 2),
    plain("pooling", "AdaptiveAvgPool2d", (8, 512, 7, 7), 1),
    plain("pooling 64 MB", "MaxPool2d", LARGE_2D, 3, 2, 1, moved=(1.25, 2.5)),
    plain("pooling 64 MB", "MaxPool2d", LARGE_2D, 2, moved=(1.25, 2.5)),
    plain("pooling 64 MB", "AvgPool2d", LARGE_2D, 2, moved=(1.25, 2.5)),
    plain("pooling 64 MB", "AdaptiveAvgPool2d", LARGE_2D, 1, moved=(1, 2)),
]
# In training x is read twice, for its statistics and to be normalised; so are x and dy on the way back.
NORMALISATION = [
    plain("normalisation", "BatchNorm2d", (8, 64, 28, 28), 64, training=True),
    plain("normalisation", "BatchNorm1d", (32, 512), 512, training=True),
    plain("normalisation", "BatchNorm2d", (1, 64, 56, 56), 64),
    plain("normalisation 64 MB", "BatchNorm2d", LARGE_2D, 64, training=True, moved=(3, 8)),
]
SOFTMAX = [
    plain("softmax", "Softmax", (10, 1000), 1),
    plain("softmax", "Softmax", (10, 50000), 1),
    plain("softmax 64 MB", "Softmax", (1000, 10000), 1, moved=(2, 5)),
    plain("softmax 64 MB", "Softmax", (1000, 50000), 1, moved=(2, 5)),
    plain("softmax 64 MB", "LogSoftmax", (1000, 10000), 1, moved=(2, 5)),
    Case("loss", "CrossEntropyLoss [256,1000]", loss("CrossEntropyLoss", (256, 1000), classes=True)),
    Case("loss", "MSELoss [32,512]", loss("MSELoss", (32, 512))),
]
OPERATIONS = [
    operation(group, name, shape, *others, axis=axis)
    for group, shape in (("operation", (64, 512)), ("operation 64 MB", LARGE))
    for name, others, axis in (
        ("add", (shape,), None), ("multiply", (0.3,), None), ("subtract", (shape[1:],), None),
        ("subtract", ((shape[0], 1),), None), ("exp", (), None), ("sum", (), 0), ("sum", (), 1), ("max", (), 1),
        ("norm", (), None))
]  # fmt: skip
TEN_MILLION = [(1000, 1000)] * 10
OPTIMISERS = [
    Case("optimiser", f"{title} 10 M", optimizer_step(name, TEN_MILLION, touched, **options), large=True)
    for title, name, touched, options in (
        ("SGD", "SGD", 3, {"lr": 1e-3}), ("SGD momentum", "SGD", 5, {"lr": 1e-3, "momentum": 0.9}),
        ("Adam", "Adam", 7, {}), ("AdamW", "AdamW", 7, {}))
]  # fmt: skip
BLOCKS = [
    Case("inference", f"ResNet-18 convolutions x [{n},64,56,56]", layer_passes(
        OneInput((n, 64, 56, 56), partial(residual_convolutions, channels=64)), onnx=True, only="forward")) for n in (1, 8)
]  # fmt: skip
CALLED_RARELY = [
    plain("every 20 ms", "Linear", (8, 256), 256, 512, pause=0.02),
    plain("every 20 ms", "Tanh", (32, 512), pause=0.02),
    Case("start of a process", "autoencoder", startup(), large=True),
]
CASES = [
    *SYSTEM_C, *PRODUCTS, *AUTOENCODER, *CONVOLUTIONS, *PERCEPTRONS, *RECURRENT, *ELEMENTS, *POOLING, *NORMALISATION, *SOFTMAX,
    *OPERATIONS, *OPTIMISERS, *BLOCKS, *CALLED_RARELY,
]  # fmt: skip
