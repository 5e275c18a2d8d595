"""Reference networks."""

from numba_nn.models.autoencoder import Autoencoder
from numba_nn.models.digits import DigitsNet

__all__ = ["Autoencoder", "DigitsNet"]
