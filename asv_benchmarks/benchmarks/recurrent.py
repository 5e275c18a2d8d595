"""Recurrent layers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .common import LayerBenchmark, WithFlops, normal


class _WithState(LayerBenchmark, WithFlops):
    """A layer that takes and gives a state (h, c) of the given shape."""

    def prepare(
        self, nn: ModuleType, x_shape: tuple[int, ...], state_shape: tuple[int, ...], arguments: dict[str, Any]
    ) -> None:
        super().prepare(nn, x_shape, arguments)
        self.state, self.dstate = ((normal(state_shape), normal(state_shape)) for _ in range(2))
        self.final, self.first = ((np.empty(state_shape, np.float32), np.empty(state_shape, np.float32)) for _ in range(2))


class LSTMCell(_WithState):
    configurations = {"x [16,128], hidden 256": ((16, 128), (16, 256), {"input_size": 128, "hidden_size": 256})}

    def call(self) -> None:
        self.time_forward("", 0)
        self.layer.backward(self.dstate, self.dx, self.first)

    def time_forward(self, configuration: str, threads: int) -> None:
        self.layer.forward(self.x, self.state, self.final)


class LSTM(_WithState):
    configurations = {
        "x [1,16,128], hidden 256": ((1, 16, 128), (1, 16, 256), {"input_size": 128, "hidden_size": 256}),
        "x [32,16,128], hidden 256": ((32, 16, 128), (1, 16, 256), {"input_size": 128, "hidden_size": 256}),
    }

    def call(self) -> None:
        self.time_forward("", 0)
        self.layer.backward(self.dy, self.dstate, self.dx, self.first)

    def time_forward(self, configuration: str, threads: int) -> None:
        self.layer.forward(self.x, self.state, self.y, self.final)
