"""Pooling."""

from .common import LayerBenchmark

SMALL = ((4, 32, 16, 16), {"kernel_size": 2, "stride": 2})
LARGE = ((8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1})
IMAGES = {"x [4,32,16,16], k2 s2": SMALL, "x [8,64,112,112], k3 s2 p1": LARGE}


class MaxPool2d(LayerBenchmark):
    configurations = IMAGES


class AvgPool2d(LayerBenchmark):
    configurations = IMAGES


class MaxPool1d(LayerBenchmark):
    configurations = {"x [8,64,256], k2 s2": ((8, 64, 256), {"kernel_size": 2, "stride": 2})}


class AdaptiveAvgPool2d(LayerBenchmark):
    configurations = {
        "x [1,32,32,32] -> 1": ((1, 32, 32, 32), {"output_size": 1}),
        "x [1,32,32,32] -> 7": ((1, 32, 32, 32), {"output_size": 7}),
    }
