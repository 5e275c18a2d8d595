"""The `Conv2d` layer."""

from typing import Any

import numpy as np

from numba_nn.core.layer import Layer
from numba_nn.layers.conv.convolution import Convolution
from numba_nn.layers.conv.upsampled import UpsampledConvolution
from numba_nn.layers.resize import Upsample


class Conv2d(Convolution):
    """Two-dimensional convolution (cross-correlation) of images, (N, C, H, W) to (N, O, H', W').

        y[n, o, h, w] = bias[o] + sum_{c, i, j} weight[o, c, i, j] x[n, c, h s_h - p_h + i d_h, w s_w - p_w + j d_w]

    with stride s, padding p and dilation d; x is 0 outside of the image.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int or (int, int)
        Height and width of the weights.
    stride : int or (int, int), optional
        Step between output pixels, in input pixels.
    padding : int, (int, int), "same" or "valid", optional
        Zeros around the image; "same" (stride 1) keeps its size, with the odd zero at the bottom and right; "valid" is 0.
    dilation : int or (int, int), optional
        Step between taps.
    groups : int, optional
        Split channels into so many independent convolutions; ``groups=in_channels`` is depthwise.
    bias : bool, optional
        Whether to add a bias to every output channel.
    padding_mode : {"zeros"}, optional
        What lies outside of the image.
    dtype : dtype, optional
        float32 or float64.
    algorithm : {"auto", "direct", "winograd"}, optional
        How it is computed. "winograd" takes 0.25 of the multiplications for kernel_size 3, 0.36 for 5, 0.5 for (1, 3) and 0.6
        for (1, 5), with stride 1 and one group, in float32 and float64. It rounds more: with 3 x 3 taps and 512 channels its
        largest error in float32 is 2.7e-6 of the largest output; errors of the forward are one to three times those of
        "direct", in either dtype. A NaN or infinity in x then makes NaN of all outputs of the tiles of 4 x 4 that read it (2
        outputs along an axis of 5 taps, 1 along one of 1; they lie ``dilation`` apart), and a number that is far larger than
        the others adds a rounding of its own size to them: one of 1e8 among numbers of 1 leaves errors up to 5, also outside of
        the outputs that see it. "auto" takes it where the shape says that it is faster and that its error, relative to the
        largest output, is estimated to stay under 2e-5; `set_precision` ("exact") forbids it. Depthwise 3 x 3 convolutions have
        an algorithm of their own, with "auto" and with "direct". With half as many output as input channels, or fewer, a NaN or
        infinity in x may reach the gradients of all taps, of those too that it meets in no output.

    Attributes
    ----------
    weight : Parameter
        (out_channels, in_channels / groups, kh, kw), drawn from U(-k, k), k = 1 / sqrt(in_channels / groups kh kw).
    bias : Parameter or None
        (out_channels,), likewise.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or ``groups`` does not divide both numbers of channels, or ``algorithm`` cannot serve.
    """

    letters = "N, C, H, W"

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True, padding_mode: str = "zeros", *, dtype: Any = np.float32, algorithm: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, algorithm
        )

    def merged_with(self, before: Layer) -> UpsampledConvolution | None:
        """One layer for an `Upsample` and this one; a subclass of either stays by itself.

        Parameters
        ----------
        before : Layer
            The layer in front of this one.

        Returns
        -------
        UpsampledConvolution or None
            It, and only for an `Upsample`.
        """
        return UpsampledConvolution(before, self) if type(before) is Upsample and type(self) is Conv2d else None
