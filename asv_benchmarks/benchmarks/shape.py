"""Shapes, orders of dimensions, and padding: memory moved, nothing computed."""

from .common import LayerBenchmark


class Identity(LayerBenchmark):
    configurations = {"x [8,64,32,32]": ((8, 64, 32, 32), {})}


class Flatten(LayerBenchmark):
    configurations = {"x [8,64,32,32]": ((8, 64, 32, 32), {})}


class Transpose(LayerBenchmark):
    configurations = {
        "x [32,512], 0 1": ((32, 512), {"dim0": 0, "dim1": 1}),
        "x [8,64,1024], 1 2": ((8, 64, 1024), {"dim0": 1, "dim1": 2}),
        "x [4096,4096], 0 1": ((4096, 4096), {"dim0": 0, "dim1": 1}),
        "x [8,128,8,64], 1 2": ((8, 128, 8, 64), {"dim0": 1, "dim1": 2}),
    }


class ConstantPad2d(LayerBenchmark):
    configurations = {
        "x [8,64,32,32], 1": ((8, 64, 32, 32), {"padding": 1, "value": 0.0}),
        "x [8,64,256,256], 2": ((8, 64, 256, 256), {"padding": 2, "value": 0.0}),
    }


class ReflectionPad2d(LayerBenchmark):
    configurations = {
        "x [8,64,32,32], 1": ((8, 64, 32, 32), {"padding": 1}),
        "x [8,64,256,256], 2": ((8, 64, 256, 256), {"padding": 2}),
    }
