"""Optimisers, with parameter groups, and the clipping of gradients."""

from numba_nn.optim.adam import Adam, AdamW
from numba_nn.optim.clip import ClipNorm, clip_grad_norm_, clip_grad_value_
from numba_nn.optim.optimizer import Optimizer
from numba_nn.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "ClipNorm", "Optimizer", "clip_grad_norm_", "clip_grad_value_"]
