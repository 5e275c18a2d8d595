"""Dropout."""

from .common import LayerBenchmark


class Dropout(LayerBenchmark):
    configurations = {"x [32,512], p 0.5": ((32, 512), {"p": 0.5})}


class Dropout2d(LayerBenchmark):
    configurations = {"x [8,64,32,32], p 0.5": ((8, 64, 32, 32), {"p": 0.5})}
