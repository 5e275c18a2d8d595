"""Recurrent layers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .common import LayerBenchmark, WithFlops


class _WithState(LayerBenchmark, WithFlops):
    """A layer that takes and gives a state (h, c) of the given shape."""

    def prepare(
        self, nn: ModuleType, x_shape: tuple[int, ...], state_shape: tuple[int, ...], arguments: dict[str, Any]
    ) -> None:
        super().prepare(nn, x_shape, arguments)
        self.state, self.dstate = ((self.normal(state_shape), self.normal(state_shape)) for _ in range(2))
        self.final, self.first = ((self.empty(state_shape), self.empty(state_shape)) for _ in range(2))


class LSTMCell(_WithState):
    configurations = {"x [16,128], hidden 256": ((16, 128), (16, 256), {"input_size": 128, "hidden_size": 256})}

    def call(self) -> None:
        self.time_forward()
        self.layer.backward(self.dstate, self.dx, self.first)

    def time_forward(self, *_: Any) -> None:
        self.layer.forward(self.x, self.state, self.final)
        self.device.wait()


class LSTM(_WithState):
    configurations = {
        "x [1,16,128], hidden 256": ((1, 16, 128), (1, 16, 256), {"input_size": 128, "hidden_size": 256}),
        "x [32,16,128], hidden 256": ((32, 16, 128), (1, 16, 256), {"input_size": 128, "hidden_size": 256}),
    }

    def call(self) -> None:
        self.time_forward()
        self.layer.backward(self.dy, self.dstate, self.dx, self.first)

    def time_forward(self, *_: Any) -> None:
        self.layer.forward(self.x, self.state, self.y, self.final)
        self.device.wait()
