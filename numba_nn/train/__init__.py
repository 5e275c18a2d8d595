"""Training: one step that allocates nothing, and the loop around it."""

from numba_nn.train.evaluation import evaluate, predict
from numba_nn.train.fitting import fit
from numba_nn.train.step import TrainStep
from numba_nn.train.stopping import EarlyStopping

__all__ = ["EarlyStopping", "TrainStep", "evaluate", "fit", "predict"]
