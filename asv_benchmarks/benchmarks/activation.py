"""Activations."""

from .common import LayerBenchmark

SMALL = {"x [32,512]": ((32, 512), {})}
LARGE = {"x [32,512]": ((32, 512), {}), "x 64 MB": ((4096, 4096), {})}


class ReLU(LayerBenchmark):
    configurations = LARGE


class Sigmoid(LayerBenchmark):
    configurations = SMALL


class Tanh(LayerBenchmark):
    configurations = LARGE


class LeakyReLU(LayerBenchmark):
    configurations = SMALL


class ReLU6(LayerBenchmark):
    configurations = SMALL


class SiLU(LayerBenchmark):
    configurations = SMALL


class GELU(LayerBenchmark):
    configurations = {"x [32,512]": ((32, 512), {}), "x [32,512], tanh": ((32, 512), {"approximate": "tanh"})}
