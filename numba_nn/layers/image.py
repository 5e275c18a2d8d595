"""Views of image batches (N C H W), for kernels that treat every plane alike. A signal (N C L) is an image of height 1."""

from numba_nn.core.call import Array
from numba_nn.core.workspace import Shape


def image_shape(shape: Shape) -> Shape:
    """(N, C, L) as that of images of height 1, (N, C) as that of single pixels; (N, C, H, W) as it is."""
    return (*shape[:2], *(1,) * (4 - len(shape)), *shape[2:])


def images(array: Array) -> Array:
    """Signals (N, C, L) as images of height 1, (N, C, 1, L); images as they are."""
    if array.ndim == 4:
        return array
    shape = array.shape
    if len(shape) == 3:  # what `image_shape` says, in half the time
        return array.reshape(shape[0], shape[1], 1, shape[2])
    return array.reshape(image_shape(shape))


def planes(array: Array) -> Array:
    """(N, C, H, W) as (N C, H, W)."""
    n, c, h, w = image_shape(array.shape)
    return array.reshape(n * c, h, w)


def flat_planes(array: Array) -> Array:
    """(N, C, H, W) as (N C, H W)."""
    n, c, h, w = image_shape(array.shape)
    return array.reshape(n * c, h * w)
