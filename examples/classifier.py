"""A classifier on NumPy arrays: which of three discs does a point of the plane belong to?"""

import numpy as np

import numba_nn as nn

nn.manual_seed(0)
generator = np.random.default_rng(0)
label = generator.integers(0, 3, 600)
centre = np.array([[0, 1], [-1, -1], [1, -1]])
x = (centre[label] + 0.5 * generator.standard_normal((600, 2))).astype(np.float32)
x_train, x_test, label_train, label_test = nn.data.train_test_split(x, label, stratify=label)

model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
loss, optimizer = nn.CrossEntropyLoss(), nn.optim.Adam(model.parameters(), lr=0.01)
train, test = (x_train, label_train), (x_test, label_test)
history = nn.fit(model, loss, optimizer, train, test, epochs=10, metrics=[nn.metrics.Accuracy()])

scores = nn.predict(model, x_test)
print(f"accuracy {nn.metrics.accuracy(scores, label_test):.3f}")
print(nn.metrics.confusion_matrix(scores, label_test))
