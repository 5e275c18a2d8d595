"""The convolutional autoencoder for 32 x 32 colour images."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from .common import WithFlops, feature, normal


class Autoencoder(WithFlops):
    configurations = {"batch 1": (1,), "batch 32": (32,)}

    def prepare(self, nn: ModuleType, batch: int) -> None:
        self.x = normal((batch, 3, 32, 32))
        self.y = np.empty_like(self.x)
        self.model = feature(feature(nn, "models"), "Autoencoder")()
        optimizer = nn.optim.SGD(self.model.parameters(), lr=1e-3)
        self.step = feature(nn, "TrainStep")(self.model, nn.MSELoss(), optimizer, self.x.shape)
        self.flops = 3 * self.model.forward_flops(self.x.shape)

    def call(self) -> None:
        self.step(self.x, self.x)

    def time_training_step(self, configuration: str, threads: int) -> None:
        self.call()

    def time_forward(self, configuration: str, threads: int) -> None:
        self.model.forward(self.x, out=self.y)
