"""Activations."""

from .common import LayerBenchmark


class ReLU(LayerBenchmark):
    configurations = {"x [32,512]": ((32, 512), {})}


class Sigmoid(LayerBenchmark):
    configurations = {"x [32,512]": ((32, 512), {})}
