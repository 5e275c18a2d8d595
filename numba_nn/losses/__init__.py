"""Losses. ``forward`` gives a number, ``backward`` the gradient with respect to the prediction.

What a loss is, is in `numba_nn.losses.base`; formulas and kernels are in `numba_nn.losses.elementwise` (prediction and target
of one shape) and `numba_nn.losses.classes` (scores of classes).
"""

from numba_nn.losses.base import Loss
from numba_nn.losses.classes import CrossEntropyLoss, NLLLoss
from numba_nn.losses.elementwise import BCELoss, BCEWithLogitsLoss, L1Loss, MSELoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "Loss", "MSELoss", "NLLLoss"]
