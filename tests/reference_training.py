"""Losses, optimisers, clipping and schedules, in float64 NumPy and in the plainest words. Imports nothing of ours."""

import math

import numpy as np

from tests.reference import log_softmax

# Losses: prediction and target, then what the constructor takes. They give the single losses, and what each counts in the mean.


def mse_loss(x, t):
    return (x - t) ** 2, np.ones_like(x)


def l1_loss(x, t):
    return np.abs(x - t), np.ones_like(x)


def bce_loss(x, t, weight=1):
    return -weight * (t * np.log(x) + (1 - t) * np.log(1 - x)), np.ones_like(x)


def bce_with_logits_loss(x, t, weight=1, pos_weight=1):
    return weight * (pos_weight * t * np.logaddexp(0, -x) + (1 - t) * np.logaddexp(0, x)), np.ones_like(x)


def one_hot(t, classes):
    """t: (N, d1, ...) as (N, K, d1, ...), or () as (K); targets that are no class are zeros."""
    return np.moveaxis(np.arange(classes) == t[..., None], -1, min(1, t.ndim)).astype(np.float64)


def nll_loss(x, t, weight=None, ignore_index=-100):
    dim = min(1, x.ndim - 1)
    weight = (np.ones(x.shape[dim]) if weight is None else weight).reshape(-1, *[1] * (x.ndim - 1 - dim))
    q = np.where(np.expand_dims(t, dim) == ignore_index, 0, weight * one_hot(t, x.shape[dim]))
    return -np.sum(q * np.where(q == 0, 0, x), dim), np.sum(q, dim)


def cross_entropy_loss(x, t, weight=None, ignore_index=-100, label_smoothing=0.0):
    dim = min(1, x.ndim - 1)
    classes = x.shape[dim]
    w = (np.ones(classes) if weight is None else weight).reshape(-1, *[1] * (x.ndim - 1 - dim))
    log_p = log_softmax(x, {}, dim)
    shares = t if t.dtype.kind == "f" else one_hot(t, classes)
    single = -np.sum(w * ((1 - label_smoothing) * shares + label_smoothing / classes) * log_p, dim)
    if t.dtype.kind == "f":
        return single, np.ones_like(single)
    return np.where(t == ignore_index, 0, single), nll_loss(x, t, weight, ignore_index)[1]


def sgd(value, gradient, velocity, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    """New value and velocity; the velocity is None before the first step. PyTorch's documentation of torch.optim.SGD."""
    g = (-gradient if maximize else gradient) + weight_decay * value
    if momentum:
        velocity = g if velocity is None else momentum * velocity + (1 - dampening) * g
        g = g + momentum * velocity if nesterov else velocity
    return value - lr * g, velocity


def adam(
    value, gradient, state, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False,
    decoupled=False,
):  # fmt: skip
    """New value and state (steps, m, v, largest v); the state is None before the first step. As PyTorch documents Adam."""
    t, m, v, largest = (0, 0 * value, 0 * value, 0 * value) if state is None else state
    g = -gradient if maximize else gradient
    if decoupled:
        value = value - lr * weight_decay * value
    else:
        g = g + weight_decay * value
    t, m, v = t + 1, betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
    largest = np.maximum(largest, v) if amsgrad else largest
    mean, square = m / (1 - betas[0] ** t), (largest if amsgrad else v) / (1 - betas[1] ** t)
    return value - lr * mean / (np.sqrt(square) + eps), (t, m, v, largest)


def adamw(value, gradient, state, weight_decay=0.01, **settings):
    return adam(value, gradient, state, weight_decay=weight_decay, decoupled=True, **settings)


def gradient_norm(gradients, order=2.0):
    sizes = np.abs(np.concatenate([g.astype(np.float64).reshape(-1) for g in gradients]))
    return np.max(sizes, initial=0) if order == math.inf else np.sum(sizes**order) ** (1 / order)


def step_lr(base, epoch, step_size, gamma=0.1):
    return base * gamma ** (epoch // step_size)


def cosine_annealing_lr(base, epoch, T_max, eta_min=0.0):
    return eta_min + (base - eta_min) * (1 + math.cos(math.pi * epoch / T_max)) / 2


def linear_lr(base, epoch, start_factor=1 / 3, end_factor=1.0, total_iters=5):
    return base * np.interp(epoch, [0, total_iters], [start_factor, end_factor])
