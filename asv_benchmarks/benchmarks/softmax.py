"""Softmax: a row in cache, rows of a vocabulary, and rows across the memory."""

from .common import LayerBenchmark


class Softmax(LayerBenchmark):
    configurations = {
        "x [32,128] dim 1": ((32, 128), {"dim": 1}),
        "x [10,50000] dim 1": ((10, 50000), {"dim": 1}),
        "x [1000,10000] dim 1": ((1000, 10000), {"dim": 1}),
        "x [8,21,64,64] dim 1": ((8, 21, 64, 64), {"dim": 1}),
    }


class LogSoftmax(LayerBenchmark):
    configurations = {"x [32,128] dim 1": ((32, 128), {"dim": 1})}
