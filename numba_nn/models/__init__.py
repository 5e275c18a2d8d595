"""Reference networks."""

from numba_nn.models.autoencoder import Autoencoder

__all__ = ["Autoencoder"]
