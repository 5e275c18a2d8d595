"""The README's example: learn the product of two numbers."""

import numpy as np

import numba_nn as nn

nn.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = nn.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
step = nn.TrainStep(model, nn.MSELoss(), optimizer, x_shape=(64, 2))

x = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype(np.float32)
for _ in range(200):
    loss = step(x, x[:, :1] * x[:, 1:])  # forward, loss, backward, update: allocates nothing

prediction = model.eval()(x[:3])
print(f"loss {loss:.5f}")
for (a, b), p in zip(x[:3], prediction[:, 0], strict=True):
    print(f"{a:+.2f} x {b:+.2f} = {a * b:+.3f}, the model says {p:+.3f}")
