"""`warmup`: a copy of a model runs once, so that the first call of the model itself finds its kernels compiled."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np

from numba_nn.compiling import compiling_line
from numba_nn.compiling_together import compiled_together
from numba_nn.core.cache import lookups
from numba_nn.core.checks import is_whole
from numba_nn.core.device import CPU
from numba_nn.core.errors import ArgumentError
from numba_nn.core.layer import Layer
from numba_nn.core.random import masks_aside
from numba_nn.core.workspace import Shape


def warmup(model: Layer, *input_shapes: Shape, training: bool = True, processes: int | None = None) -> dict[str, Any]:
    """Compile, or load from disk, every kernel that a model needs for inputs of these shapes.

    Which kernels those are depends on the shape, as small inputs run on one thread by other machine code, and on whether there
    is one thread or several (`set_num_threads`). The model is left as it is: parameters, gradients, running statistics, random
    numbers. On a terminal, a line shows what is being compiled. What a model on a GPU launches is compiled for this process
    only, and not counted.

    Parameters
    ----------
    model : Layer
        The model.
    *input_shapes : tuple of int
        Shape of each input.
    training : bool, optional
        Whether backward will be called.
    processes : int, optional
        How many processes compile, if anything has to be; by default one for each processor, up to 4. Each takes 0.35 GB and
        a copy of the model. This one is alone if the model cannot be pickled, takes more than 128 MB, has a class of
        ``__main__``, or is on a GPU.

    Returns
    -------
    dict
        ``seconds`` it took; how many kernels this process ``compiled``, and ``found`` in the cache, where others leave theirs.

    Raises
    ------
    ArgumentError
        If ``model`` is no layer, or ``processes`` no whole number from 1 on.
    ShapeError
        If the model cannot take such inputs.

    Examples
    --------
    >>> nn.warmup(model, (1, 3, 32, 32), training=False)
    {'seconds': 0.41, 'compiled': 0, 'found': 9}
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"warmup: model must be a Layer, got {type(model).__name__}")
    if processes is not None and not (is_whole(processes) and processes >= 1):
        raise ArgumentError(f"warmup: processes must be a whole number from 1 on, got {processes!r}")
    start, before = time.perf_counter(), dict(lookups)
    with compiling_line():
        alone = 1 if model.device is not CPU else processes
        compiled_together(_run_once, copy.deepcopy(model), input_shapes, training, processes=alone)
    seconds = round(time.perf_counter() - start, 3)
    return {"seconds": seconds, **{name: lookups[name] - count for name, count in before.items()}}


def _run_once(model: Layer, input_shapes: tuple[Shape, ...], training: bool) -> None:
    model.train(training).reserve(*input_shapes, training=training)
    dtype = np.dtype(np.int64) if model.takes_indices else model.dtype or np.dtype(np.float32)
    with masks_aside():
        output = model(*(model.device.zeros(shape, dtype) for shape in input_shapes))
    if training:
        model.backward(output[0] if isinstance(output, tuple) else output)
