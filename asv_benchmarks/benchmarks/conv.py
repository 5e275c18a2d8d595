"""Convolutions."""

from .common import LayerBenchmark, WithFlops


def conv(x_shape: tuple[int, ...], out_channels: int, kernel_size: int, padding: int = 0) -> tuple[tuple[int, ...], dict]:
    sizes = {"in_channels": x_shape[1], "out_channels": out_channels, "kernel_size": kernel_size, "padding": padding}
    return x_shape, sizes


class Conv1d(LayerBenchmark, WithFlops):
    configurations = {
        "x [8,64,256] -> 128, k3 p1": conv((8, 64, 256), 128, 3, padding=1),
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
    }
