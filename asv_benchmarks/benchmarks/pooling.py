"""Pooling."""

from .common import LayerBenchmark


class MaxPool2d(LayerBenchmark):
    configurations = {"x [4,32,16,16], k2 s2": ((4, 32, 16, 16), {"kernel_size": 2, "stride": 2})}
