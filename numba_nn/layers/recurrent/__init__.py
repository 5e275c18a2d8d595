"""Recurrent layers: see `gates` for what all kinds share, and `lstm_steps` for the maths of the LSTM."""

from numba_nn.layers.recurrent.cell import LSTMCell
from numba_nn.layers.recurrent.lstm import LSTM

__all__ = ["LSTM", "LSTMCell"]
