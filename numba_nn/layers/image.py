"""Views of image batches (N C H W), for kernels that treat every plane alike."""

from numba_nn.core.call import Array


def planes(images: Array) -> Array:
    """(N, C, H, W) as (N C, H, W)."""
    n, c, h, w = images.shape
    return images.reshape(n * c, h, w)


def flat_planes(images: Array) -> Array:
    """(N, C, H, W) as (N C, H W)."""
    n, c, h, w = images.shape
    return images.reshape(n * c, h * w)
