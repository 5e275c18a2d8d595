"""Normalisation, in training mode."""

from .common import LayerBenchmark


class BatchNorm1d(LayerBenchmark):
    configurations = {
        "x [32,512]": ((32, 512), {"num_features": 512}),
        "x [4096,64]": ((4096, 64), {"num_features": 64}),
    }


class BatchNorm2d(LayerBenchmark):
    configurations = {
        "x [8,64,32,32]": ((8, 64, 32, 32), {"num_features": 64}),
        "x [8,64,112,112]": ((8, 64, 112, 112), {"num_features": 64}),
    }
