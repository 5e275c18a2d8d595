"""`LSTM`: sequences through layers of long short-term memory; see `lstm_steps` for the maths."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from numba_nn.core.call import Array
from numba_nn.core.checks import check_count, check_flag, check_number
from numba_nn.core.errors import ShapeError
from numba_nn.core.workspace import Shape
from numba_nn.layers.recurrent.base import LSTMBase, Pair, SomePair
from numba_nn.layers.recurrent.direction import Walk


class LSTM(LSTMBase):
    """Layers of long short-term memory over a sequence; the next layer's input is the hidden state of the one before.

    Parameters are PyTorch's: for layer k ``weight_ih_lk`` (4 H, I), ``weight_hh_lk`` (4 H, H), ``bias_ih_lk`` and
    ``bias_hh_lk`` (4 H,), of the gates i, f, g, o in this order; with ``_reverse`` behind for the second direction. They begin
    drawn from U(-k, k), k = 1 / sqrt(hidden_size). In a `Sequential` the state begins with zeros, and only the output goes on.

    Parameters
    ----------
    input_size : int
        Features of a step's input, I.
    hidden_size : int
        Hidden units, H.
    num_layers : int, optional
        Layers.
    bias : bool, optional
        Whether gates have biases.
    batch_first : bool, optional
        Whether input and output are (N, L, features), in place of (L, N, features); states are not concerned.
    dropout : float, optional
        Probability that an element of a layer's output, but for the last layer's, is set to zero in training mode.
    bidirectional : bool, optional
        Whether a second set of weights goes through the sequence from its end; the output holds both hidden states.
    dtype : dtype, optional
        float32 or float64.

    Raises
    ------
    ArgumentError
        If a size or number is less than 1, or ``dropout`` is not a number from 0 to 1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self.num_layers = check_count("LSTM", "num_layers", num_layers)
        self.batch_first = check_flag("LSTM", "batch_first", batch_first)
        self.dropout = check_number("LSTM", "dropout", dropout, 0, 1)
        if self.dropout and self.num_layers == 1:
            warnings.warn("LSTM: dropout acts between layers, so with num_layers=1 it does nothing", stacklevel=2)
        self.bidirectional = check_flag("LSTM", "bidirectional", bidirectional)
        ends = ["", "_reverse"] if bidirectional else [""]
        for k in range(num_layers):
            inputs = len(ends) * hidden_size if k else input_size
            self._stack.append([self._direction(f"_l{k}{end}", inputs, reverse=end != "") for end in ends])

    def output_shape(self, x_shape: Shape) -> Shape:
        """Shape of the output: the input's, with H features last, or 2 H of two directions.

        Raises
        ------
        ShapeError
            If the input is neither (L, N, I) nor (L, I).
        """
        if len(x_shape) not in (2, 3) or x_shape[-1] != self.input_size:
            letters = "N, L" if self.batch_first else "L, N"
            raise ShapeError(
                f"{self!r}: x must have shape ({letters}, {self.input_size}), or (L, {self.input_size}) without a batch, "
                f"got {x_shape}"
            )
        return (*x_shape[:-1], self._directions * self.hidden_size)

    def _walk(self, x_shape: Shape) -> Walk:
        count = len(self._stack) * self._directions
        if len(x_shape) == 2:
            return Walk(x_shape[0], 1, 1, 1, (count, self.hidden_size))
        steps, batch = x_shape[1::-1] if self.batch_first else x_shape[:2]
        step, across = (1, steps) if self.batch_first else (batch, 1)
        return Walk(steps, batch, step, across, (count, batch, self.hidden_size))

    def __call__(self, x: Array, state: SomePair | None = None) -> tuple[Array, Pair]:  # type: ignore[override]
        """``forward(x, state)``: output and final state in fresh arrays."""
        return self.forward(x, state)

    def forward(  # type: ignore[override]
        self, x: Array, state: SomePair | None = None, out: Array | None = None, state_out: SomePair | None = None
    ) -> tuple[Array, Pair]:
        """Run over a sequence.

        Parameters
        ----------
        x : ndarray
            (L, N, I), (N, L, I) if ``batch_first``, or (L, I); in training mode borrowed until the backward that belongs to it.
        state : pair of ndarray, optional
            Hidden and cell state (h, c) before the first step, each (layers, N, H) or (layers, H), with two directions for each
            layer one after the other; zeros by default, also in place of one of them.
        out : ndarray, optional
            Where to write the hidden states of the last layer at every step.
        state_out : pair of ndarray, optional
            Where to write the state after the last step.

        Returns
        -------
        y : ndarray
            ``out`` itself, or a fresh array.
        state : pair of ndarray
            (h, c): ``state_out``, or fresh arrays.

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
            return self._advance(self._call(x.shape, x.dtype), x, state, out, state_out, self.training)

    def backward(  # type: ignore[override]
        self,
        dy: Array | None,
        dstate: SomePair | None = None,
        out: Array | None = None,
        dstate_out: SomePair | None = None,
        *,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Pair]:
        """Propagate gradients through every step of the newest forward that has not been propagated yet.

        Parameters
        ----------
        dy : ndarray or None
            Gradient of the loss with respect to the output; None, where only the final state counts.
        dstate : pair of ndarray, optional
            With respect to the final state (h, c); zeros by default, also in place of one of them.
        out : ndarray, optional
            Where to write the gradient with respect to the input.
        dstate_out : pair of ndarray, optional
            Where to write the gradients with respect to the initial state.
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
            If an array does not fit, or there is neither dy nor dstate; nothing was written.
        ConcurrencyError
            If another thread is inside the model.
        """
        with self._workspace.in_use(self):
            return self._retreat(dy, dstate, out, dstate_out, input_gradient)

    def _arguments(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, bias={self.bias}, "
            f"batch_first={self.batch_first}, dropout={self.dropout}, bidirectional={self.bidirectional}"
        )
