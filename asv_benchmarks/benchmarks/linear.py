"""Fully connected layers."""

from .common import LayerBenchmark, WithFlops


class Linear(LayerBenchmark, WithFlops):
    configurations = {
        "x [32,256] -> 512": ((32, 256), {"in_features": 256, "out_features": 512}),
        "x [1,1024] -> 32": ((1, 1024), {"in_features": 1024, "out_features": 32}),
    }
