"""The `Conv1d` layer."""

from typing import Any

import numpy as np

from numba_nn.layers.conv.convolution import Convolution


class Conv1d(Convolution):
    """One-dimensional convolution (cross-correlation) of signals, (N, C, L) to (N, O, L').

        y[n, o, l] = bias[o] + sum_{c, i} weight[o, c, i] x[n, c, l s - p + i d]

    with stride s, padding p and dilation d; x is 0 outside of the signal.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    kernel_size : int
        Taps of the weights.
    stride : int, optional
        Step between output samples, in input samples.
    padding : int, "same" or "valid", optional
        Zeros at either end; "same" (stride 1) keeps the length, with the odd zero at the right; "valid" is 0.
    dilation : int, optional
        Step between taps.
    groups : int, optional
        Split channels into so many independent convolutions; ``groups=in_channels`` is depthwise.
    bias : bool, optional
        Whether to add a bias to every output channel.
    padding_mode : {"zeros"}, optional
        What lies outside of the signal.
    dtype : dtype, optional
        float32 or float64.
    algorithm : {"auto", "direct", "winograd"}, optional
        How it is computed: see `Conv2d`. "winograd" serves kernel_size 3, with half of the multiplications, and 5, with 0.6
        of them, with stride 1 and one group; its tiles have 4 outputs, or 2, which lie ``dilation`` apart. "auto" takes it
        from about 128 channels on.

    Attributes
    ----------
    weight : Parameter
        (out_channels, in_channels / groups, k), drawn from U(-b, b), b = 1 / sqrt(in_channels / groups k).
    bias : Parameter or None
        (out_channels,), likewise.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or ``groups`` does not divide both numbers of channels, or ``algorithm`` cannot serve.
    """

    letters = "N, C, L"

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True, padding_mode: str = "zeros", *, dtype: Any = np.float32, algorithm: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, algorithm
        )
