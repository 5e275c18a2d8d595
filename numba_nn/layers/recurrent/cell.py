"""`LSTMCell`: one step of long short-term memory; see `lstm_steps` for the maths."""

from __future__ import annotations

from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.errors import ShapeError
from numba_nn.core.workspace import Shape
from numba_nn.layers.recurrent.base import LSTMBase, Pair, SomePair
from numba_nn.layers.recurrent.direction import Walk


class LSTMCell(LSTMBase):
    """One step of long short-term memory.

    Parameters are PyTorch's: ``weight_ih`` (4 H, I), ``weight_hh`` (4 H, H), ``bias_ih`` and ``bias_hh`` (4 H,), of the gates
    i, f, g, o in this order. They begin drawn from U(-k, k), k = 1 / sqrt(hidden_size). In a `Sequential` the state begins with
    zeros, and only the hidden state goes on.

    Parameters
    ----------
    input_size : int
        Features of the input, I.
    hidden_size : int
        Hidden units, H.
    bias : bool, optional
        Whether gates have biases.
    dtype : dtype, optional
        float32 or float64.

    Raises
    ------
    ArgumentError
        If a size is less than 1.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = np.float32) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self._stack.append([self._direction("", input_size)])

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the hidden state, and of the cell state: (N, H) or (H,).

        Raises
        ------
        ShapeError
            If the input is neither (N, I) nor (I,).
        """
        if len(x_shape) not in (1, 2) or x_shape[-1] != self.input_size:
            raise ShapeError(f"{self!r}: x must have shape (N, {self.input_size}) or ({self.input_size},), got {x_shape}")
        return (*x_shape[:-1], self.hidden_size)

    def _walk(self, x_shape: Shape) -> Walk:
        return Walk(1, x_shape[0] if len(x_shape) == 2 else 1, 0, 1, self.output_shape(x_shape))

    def __call__(self, x: Array, state: SomePair | None = None) -> Pair:  # type: ignore[override]
        """``forward(x, state)``: the new state in fresh arrays."""
        return self.forward(x, state)

    def forward(  # type: ignore[override]
        self, x: Array, state: SomePair | None = None, out: SomePair | None = None
    ) -> Pair:
        """Take one step.

        Parameters
        ----------
        x : ndarray
            (N, I) or (I,); in training mode borrowed until the backward that belongs to it.
        state : pair of ndarray, optional
            Hidden and cell state (h, c) before the step, each (N, H) or (H,); zeros by default, also in place of one of them.
        out : pair of ndarray, optional
            Where to write the state after the step.

        Returns
        -------
        pair of ndarray
            (h, c): ``out``, or fresh arrays.

        Raises
        ------
        ArgumentError, ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        ReserveError
            If the layer was reserved strictly, for less.
        ConcurrencyError
            If another thread is inside the model.
        """
        with self._workspace.in_use(self):
            x = self._accept(x)
            self._check_input(x)
            call = self._call(x.shape, x.dtype)
            before = self._check_pair("state", state, call)
            h, c = self._pair_destination("out", out, call, x, *before)
            self._compute(call, (h, call.scratch["h"], c), (x, *before), self.training)
            return h, c

    def backward(  # type: ignore[override]
        self,
        dstate: SomePair,
        out: Array | None = None,
        dstate_out: SomePair | None = None,
        *,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Pair]:
        """Propagate gradients through the newest forward that has not been propagated yet.

        Parameters
        ----------
        dstate : pair of ndarray
            Gradients of the loss with respect to the new state (h, c); None stands for zeros, in place of one of them.
        out : ndarray, optional
            Where to write the gradient with respect to the input.
        dstate_out : pair of ndarray, optional
            Where to write the gradients with respect to the old state.
        input_gradient : bool, optional
            False skips the gradient with respect to the input.

        Returns
        -------
        dx : ndarray or None
            ``out`` itself, or a fresh array; None without ``input_gradient``.
        dstate : pair of ndarray
            (dh, dc): ``dstate_out``, or fresh arrays.

        Raises
        ------
        BackwardError
            If no forward in training mode is left to belong to; nothing was written.
        ArgumentError, ShapeError, DTypeError, DestinationError
            If an array does not fit; nothing was written.
        ConcurrencyError
            If another thread is inside the model.
        """
        with self._workspace.in_use(self):
            return self._retreat(None, dstate, out, dstate_out, input_gradient)

    def _arguments(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"
