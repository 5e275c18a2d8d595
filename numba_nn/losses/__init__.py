"""Losses. ``forward`` gives a number, ``backward`` the gradient with respect to the prediction.

What a loss is, stands in ``base.py``; formulas and kernels in ``elementwise.py`` (prediction and target of one shape),
``classes.py`` and ``cross_entropy.py`` (scores of classes).
"""

from numba_nn.losses.base import Loss
from numba_nn.losses.classes import NLLLoss
from numba_nn.losses.cross_entropy import CrossEntropyLoss
from numba_nn.losses.elementwise import BCELoss, BCEWithLogitsLoss, L1Loss, MSELoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "Loss", "MSELoss", "NLLLoss"]
