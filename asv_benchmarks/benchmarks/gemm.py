"""Matrix products."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .common import WithFlops, feature


class Matmul(WithFlops):
    configurations = {
        "256 cubed": ((256, 256), (256, 256), {}),
        "512 cubed": ((512, 512), (512, 512), {}),
        "1024 cubed": ((1024, 1024), (1024, 1024), {}),
        "512 cubed, a transposed": ((512, 512), (512, 512), {"transpose_a": True}),
        "512 cubed, b transposed": ((512, 512), (512, 512), {"transpose_b": True}),
        "[32,256] x [256,512]": ((32, 256), (256, 512), {}),
    }

    def prepare(self, nn: ModuleType, a_shape: tuple[int, int], b_shape: tuple[int, int], options: dict[str, Any]) -> None:
        self.matmul, self.options = feature(nn, "matmul"), options
        self.a, self.b = self.normal(a_shape), self.normal(b_shape)
        self.c = self.empty((a_shape[0], b_shape[1]))
        self.flops = 2 * a_shape[0] * b_shape[0] * b_shape[1]

    def call(self) -> None:
        self.matmul(self.a, self.b, out=self.c, **self.options)

    def time_matmul(self, *_: Any) -> None:
        self.call()
        self.device.wait()
