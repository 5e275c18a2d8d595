"""The convolutional autoencoder for 32 x 32 colour images."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .common import WithFlops, feature


class Autoencoder(WithFlops):
    configurations = {"batch 1": (1,), "batch 32": (32,)}

    def prepare(self, nn: ModuleType, batch: int) -> None:
        self.x, self.y = self.normal((batch, 3, 32, 32)), self.empty((batch, 3, 32, 32))
        self.model = self.device.take(self.make(nn))
        optimizer = nn.optim.SGD(self.model.parameters(), lr=1e-3)
        self.step = feature(nn, "TrainStep")(self.model, nn.MSELoss(), optimizer, self.x.shape)
        self.flops = 3 * self.model.forward_flops(self.x.shape)

    def make(self, nn: ModuleType) -> Any:
        """The model."""
        return feature(feature(nn, "models"), "Autoencoder")()

    def call(self) -> None:
        self.step(self.x, self.x)

    def time_training_step(self, *_: Any) -> None:
        self.call()
        self.device.wait()

    def time_forward(self, *_: Any) -> None:
        self.model.forward(self.x, out=self.y)
        self.device.wait()


class AutoencoderBfloat16(Autoencoder):
    devices = ("cuda",)

    def make(self, nn: ModuleType) -> Any:
        """The model in mixed precision."""
        return feature(nn, "MixedPrecision")(super().make(nn))
