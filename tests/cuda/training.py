"""Every kernel of losses, optimisers and clipping, launched once; and which of them compute in float64 on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np

import numba_nn as nn
from numba_nn.core.cuda.narrow import is_narrow
from numba_nn.core.device import CUDA
from tests.loss_cases import ONE_OF_EACH_LOSS

IN_FLOAT64 = {
    "scaled_total", "sum_of_sums", "mean_of_sums",  # what blocks of threads summed is added by one block
    "sums_of_parts",  # one addition for 16 elements
    "count_loss",  # one number for each step
    "sgd_prepare", "adam_prepare",  # a thread for each parameter: powers of the betas
    "gradient_power_sums", "norm_and_factor",  # squares of float32 overflow
}  # fmt: skip
"""Kernels for float32 that compute in float64."""
CONVERTS = {
    "squared_error_sums", "absolute_error_sums", "likelihood_error_sums", "logistic_error_sums", "pair_sums",
    "nll_backward", "cross_entropy_backward", "soft_cross_entropy_backward", "gradient_scale",
}  # fmt: skip
"""Kernels for float32 that read or write one number of float64."""


def train_for_launches(dtype: Any) -> None:
    """Run all of them, on a simulated GPU; for 16 bits, what is done for these beside."""
    if is_narrow(np.dtype(dtype)):
        train_narrow(np.dtype(dtype).name)
        return
    for case in ONE_OF_EACH_LOSS:
        prediction, target = map(CUDA.from_host, case.arrays(dtype))
        for reduction in ("mean", "sum", "none"):
            loss = case.build(reduction)
            shape = loss.loss_shape(prediction.shape) if reduction == "none" else (1,)
            loss.forward(prediction, target, out=CUDA.empty(shape, dtype))
            loss.backward()
    net = nn.BatchNorm1d(6, dtype=dtype).to("cuda")
    x = np.ones((12, 6), dtype)
    for make in (nn.optim.SGD, nn.optim.Adam):
        params = net.parameters()
        step = nn.TrainStep(net, nn.MSELoss(), make(params), (12, 6), nn.optim.ClipNorm(params, 1.0))
        step.run(x, x)
    nn.optim.clip_grad_value_(params, 1.0)
    if dtype is np.float32:
        train_narrow("bfloat16")  # most of what scales gradients sees float32 alone


def train_narrow(form: str) -> None:
    """A step with scaled gradients, and one without."""
    for scale in ("dynamic", "auto"):
        net = nn.MixedPrecision(nn.BatchNorm1d(6), form, scale).to("cuda")
        step = nn.TrainStep(net, nn.MSELoss(), nn.optim.SGD(net.parameters()), (12, 6))
        step.run(np.ones((12, 6), np.float32), np.ones((12, 6), np.float32))
        net.backward(net(CUDA.zeros((12, 6), np.float32)))
