"""Convolutions."""

from types import ModuleType
from typing import Any

from .common import LayerBenchmark, WithFlops, feature


def conv(
    x_shape: tuple[int, ...], out_channels: int, kernel_size: int, padding: int = 0, **others: int
) -> tuple[tuple[int, ...], dict]:
    sizes = {"in_channels": x_shape[1], "out_channels": out_channels, "kernel_size": kernel_size, "padding": padding}
    return x_shape, sizes | others


class Conv1d(LayerBenchmark, WithFlops):
    configurations = {
        "x [8,64,256] -> 128, k3 p1": conv((8, 64, 256), 128, 3, padding=1),
        "x [8,256,256] -> 256, k3 p1": conv((8, 256, 256), 256, 3, padding=1),
        "x [1,1,1024] -> 32, k3": conv((1, 1, 1024), 32, 3),
        "x [1,1,1024] -> 32, k5": conv((1, 1, 1024), 32, 5),
        "x [1,1,1024] -> 32, k7": conv((1, 1, 1024), 32, 7),
    }


class Conv2d(LayerBenchmark, WithFlops):
    configurations = {
        "x [8,64,32,32] -> 128, k3 p1": conv((8, 64, 32, 32), 128, 3, padding=1),
        "x [1,3,28,28] -> 16, k3 p1": conv((1, 3, 28, 28), 16, 3, padding=1),
        "x [1,1,32,32] -> 32, k3": conv((1, 1, 32, 32), 32, 3),
        "x [1,1,32,32] -> 32, k5": conv((1, 1, 32, 32), 32, 5),
        "x [1,1,32,32] -> 32, k7": conv((1, 1, 32, 32), 32, 7),
        "x [8,64,28,28] -> 64, k3 p2 d2": conv((8, 64, 28, 28), 64, 3, padding=2, dilation=2),
        "x [8,32,28,28] -> 64, k5 p2": conv((8, 32, 28, 28), 64, 5, padding=2),
        "x [8,256,28,28] -> 64, k1": conv((8, 256, 28, 28), 64, 1),
        "x [8,512,1,1] -> 128, k1": conv((8, 512, 1, 1), 128, 1),
        "x [8,128,16,16] -> 3, k3 p1": conv((8, 128, 16, 16), 3, 3, padding=1),
        "x [8,128,28,28] -> 256, k3 s2 p1": conv((8, 128, 28, 28), 256, 3, padding=1, stride=2),
        "x [8,128,28,28] -> 256, k1 s2": conv((8, 128, 28, 28), 256, 1, stride=2),
    }


class UpsampledConv2d(LayerBenchmark, WithFlops):
    """An upsampling by 2 and the convolution after it, in a Sequential."""

    configurations = {
        "x [8,256,16,16] -> 3, k3 p1": conv((8, 256, 16, 16), 3, 3, padding=1),
        "x [8,128,8,8] -> 128, k3 p1": conv((8, 128, 8, 8), 128, 3, padding=1),
    }

    def make(self, nn: ModuleType, arguments: dict[str, Any]) -> Any:
        return feature(nn, "Sequential")(feature(nn, "Upsample")(scale_factor=2), feature(nn, "Conv2d")(**arguments))
