"""A model of one's own: residual blocks, y = x + body(x), that learn which points of the plane lie on a ring."""

import numpy as np

import numba_nn as nn


class Residual(nn.Container):
    """y = x + body(x), for a body whose output has the shape of its input."""

    def __init__(self, body):
        super().__init__()
        self.body, self.dtype = body, body.dtype
        self._adopt(self._workspace, 0)  # one scratch for all layers inside

    def output_shape(self, x_shape):
        return self.body.output_shape(x_shape)

    def _reserve_more(self, call, training, calls):
        super()._reserve_more(call, training, calls)
        self.body.reserve(call.x_shape, dtype=call.dtype, training=training)

    def _forward(self, call, y, x, saved):
        self._run(call, self.body, x, y)
        nn.ops.add(y, x, out=y)

    def _backward(self, call, dx, dy, x, saved):
        self.body._propagate(dy, dx, dx is not None)
        if dx is not None:
            nn.ops.add(dx, dy, out=dx)


def block() -> Residual:
    """Two layers and a way around them."""
    return Residual(nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)))


def main() -> None:
    """Train on random points, and count those that are told right."""
    nn.manual_seed(0)
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    radius = np.hypot(*x.T)
    label = ((radius > 0.4) & (radius < 0.8)).astype(np.int64)
    model = nn.Sequential(nn.Linear(2, 16), block(), block(), nn.Linear(16, 2))
    optimizer = nn.optim.Adam(model.parameters(), lr=0.01)
    nn.fit(model, nn.CrossEntropyLoss(), optimizer, (x, label), epochs=40, progress=False)
    print(f"accuracy {nn.metrics.accuracy(nn.predict(model, x), label):.3f}")


if __name__ == "__main__":
    main()
