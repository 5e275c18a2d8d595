"""LSTM and LSTMCell: the state that goes in and out, what a sequence remembers, and dropout between layers.

The output alone, with a state of zeros, is under `tests.cases` as are all layers.
"""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest

import numba_nn as nn
from tests import reference
from tests.allocations import no_array_data
from tests.cases import assert_close, assert_same

SEQUENCES = [  # shape of x, arguments
    ((3, 2, 5), {"input_size": 5, "hidden_size": 4}),
    ((1, 1, 1), {"input_size": 1, "hidden_size": 1}),
    ((4, 5), {"input_size": 5, "hidden_size": 3, "num_layers": 2}),
    ((0, 2, 5), {"input_size": 5, "hidden_size": 4}),
    ((3, 0, 5), {"input_size": 5, "hidden_size": 4, "bidirectional": True}),
    ((5, 13, 7), {"input_size": 7, "hidden_size": 33, "bias": False}),
    ((13, 4, 3), {"input_size": 3, "hidden_size": 17, "num_layers": 3, "batch_first": True}),
    ((2, 3, 4), {"input_size": 4, "hidden_size": 5, "num_layers": 2, "bidirectional": True}),
    ((3, 2, 4), {"input_size": 4, "hidden_size": 5, "num_layers": 2, "bidirectional": True, "batch_first": True}),
]
CELLS = [
    ((3, 5), {"input_size": 5, "hidden_size": 4}),
    ((5,), {"input_size": 5, "hidden_size": 1, "bias": False}),
    ((0, 5), {"input_size": 5, "hidden_size": 4}),
    ((14, 40), {"input_size": 40, "hidden_size": 65}),
]
BOTH = [(nn.LSTM, *case) for case in SEQUENCES] + [(nn.LSTMCell, *case) for case in CELLS]
every_case = pytest.mark.parametrize(("kind", "x_shape", "arguments"), BOTH, ids=lambda a: str(a).replace(" ", ""))
SIZES = {"input_size": 5, "hidden_size": 4}


def numbers(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(dtype)


def build(kind, arguments, dtype=np.float32):
    nn.manual_seed(3)
    layer = kind(**arguments)
    if dtype == np.float32:
        return layer
    return kind(**arguments, dtype=dtype).load_state_dict(layer.state_dict())


def pair(layer, x_shape, seed, dtype=np.float32):
    shape = layer.output_shape(x_shape)
    if isinstance(layer, nn.LSTM):
        batch = [] if len(x_shape) == 2 else [x_shape[0 if layer.batch_first else 1]]
        shape = (layer.num_layers * (2 if layer.bidirectional else 1), *batch, layer.hidden_size)
    return numbers(shape, seed, dtype), numbers(shape, seed + 1, dtype)


def inputs(layer, x_shape, dtype=np.float32):
    """Everything that a forward and its backward take; a cell's dy is the first of its dstate."""
    h, c = pair(layer, x_shape, 1, dtype)
    dh, dc = pair(layer, x_shape, 3, dtype)
    dy = numbers(layer.output_shape(x_shape), 5, dtype)
    return {"x": numbers(x_shape, 0, dtype), "h": h, "c": c, "dy": dy, "dh": dh, "dc": dc}


def run(layer, x, h, c, dy, dh, dc, state=True, dstate=True):
    """All results of a forward and backward, from cleared gradients."""
    layer.zero_grad()
    if isinstance(layer, nn.LSTM):
        y, final = layer.forward(x, (h, c) if state else None)
        dx, first = layer.backward(dy, (dh, dc) if dstate else None)
    else:
        y, final = None, layer.forward(x, (h, c) if state else None)
        dx, first = layer.backward((dh, dc if dstate else None))
    named = {"y": y, "h": final[0], "c": final[1], "x": dx, "dh": first[0], "dc": first[1]}
    grads = {name: p.grad.copy() for name, p in layer.named_parameters()}
    return {name: a for name, a in named.items() if a is not None} | grads


def expected(layer, arguments, x, h, c, parameters):
    if isinstance(layer, nn.LSTMCell):
        return None, *reference.lstm_cell(x, parameters, **arguments, state=(h, c))
    return reference.lstm(x, parameters, **arguments, state=(h, c))


def values(layer):
    return {name: p.value.astype(np.float64) for name, p in layer.named_parameters()}


# Numbers


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("state", [True, False])
def test_forward_equals_the_formula(kind, x_shape, arguments, dtype, state):
    layer = build(kind, arguments, dtype)
    given, exact = inputs(layer, x_shape, dtype), inputs(layer, x_shape, np.float64)
    if not state:
        exact |= {"h": 0 * exact["h"], "c": 0 * exact["c"]}
    wanted = expected(layer, arguments, exact["x"], exact["h"], exact["c"], values(layer))
    got = run(layer, **given, state=state)
    for name, array in zip(("y", "h", "c"), wanted, strict=True):
        if array is not None:
            assert got[name].dtype == dtype
            assert_close(got[name], array)
    if not state:
        np.testing.assert_array_equal(layer.eval()(given["x"])[0], got["h" if kind is nn.LSTMCell else "y"])


@every_case
@pytest.mark.parametrize("dstate", [True, False])
def test_backward_is_the_derivative_of_the_formula(kind, x_shape, arguments, dstate):
    layer = build(kind, arguments, np.float64)
    given, step = inputs(layer, x_shape, np.float64), 1e-6
    got = run(layer, **given, dstate=dstate)
    cell = kind is nn.LSTMCell
    weights = {"y": 0 if cell else given["dy"], "h": given["dh"] * (dstate or cell), "c": given["dc"] * dstate}

    def loss(name, offset):
        arrays = {name: given[name] for name in ("x", "h", "c")} | values(layer)
        arrays[name] = arrays[name] + offset
        x, h, c = (arrays.pop(key) for key in ("x", "h", "c"))
        results = zip(weights.values(), expected(layer, arguments, x, h, c, arrays), strict=True)
        return sum(np.sum(weight * result) for weight, result in results if result is not None)

    for name in ("x", "h", "c", *values(layer)):
        gradient = got[{"h": "dh", "c": "dc"}.get(name, name)]
        for seed in range(3):
            direction = numbers(gradient.shape, 100 + seed, np.float64)
            slope = (loss(name, step * direction) - loss(name, -step * direction)) / (2 * step)
            np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6, atol=1e-6, err_msg=name)


@every_case
def test_float32_rounds_float64_and_strides_do_not_matter(kind, x_shape, arguments):
    layers = [build(kind, arguments, dtype) for dtype in (np.float32, np.float64)]
    small, large = (run(layer, **inputs(layer, x_shape, layer.dtype)) for layer in layers)
    for name in large:
        assert small[name].dtype == np.float32
        assert_close(small[name], large[name])
    reversed_twice = {name: np.flip(np.flip(a).copy()) for name, a in inputs(layers[0], x_shape).items()}
    assert_same(run(layers[0], **reversed_twice), small)


def test_only_the_final_state_may_count():
    layer = build(nn.LSTM, {**SIZES, "num_layers": 2})
    given = inputs(layer, (3, 2, 5))
    wanted = run(layer, **{**given, "dy": np.zeros_like(given["dy"])})
    assert_same(run(layer, **{**given, "dy": None}), wanted)
    layer.forward(given["x"])
    with pytest.raises(nn.ArgumentError, match="dy or dstate"):
        layer.backward(None)
    layer.backward(None, (None, given["dc"]))


def test_zeros_stand_in_for_half_a_state():
    layer = build(nn.LSTM, SIZES)
    given = inputs(layer, (3, 2, 5))
    y, (h, c) = layer(given["x"], (None, given["c"]))
    for got, wanted in zip((y, h, c), run(layer, **{**given, "h": 0 * given["h"]}).values(), strict=False):
        np.testing.assert_array_equal(got, wanted)


def test_a_sequence_may_be_cut_and_a_cell_takes_its_steps():
    layer, cell = build(nn.LSTM, SIZES), build(nn.LSTMCell, SIZES)
    x = numbers((6, 3, 5))
    y, state = layer(x)
    first, middle = layer(x[:2])
    second, last = layer(x[2:], middle)
    assert_close(np.concatenate([first, second]), y)
    stepped = None
    for t in range(6):
        stepped = cell(x[t], stepped and tuple(a.copy() for a in stepped))
        assert_close(stepped[0], y[t])
    for a, b, c in zip(state, last, stepped, strict=True):
        assert_close(a, b)
        assert_close(a[0], c)


# Buffers and gradients


@every_case
def test_destinations_are_written_and_nothing_is_allocated(kind, x_shape, arguments):
    layer = build(kind, arguments).reserve(x_shape, calls=2, strict=True)
    given = inputs(layer, x_shape)
    wanted = run(layer, **given)
    for array in given.values():
        array.flags.writeable = False
    y, dx = np.empty_like(given["dy"]), np.empty_like(given["x"])
    state, dstate = pair(layer, x_shape, 7), pair(layer, x_shape, 9)
    x, h, c, dy, dh, dc = given.values()
    layer.zero_grad()

    def call():
        if kind is nn.LSTM:
            return layer.forward(x, (h, c), y, state), layer.backward(dy, (dh, dc), dx, dstate)
        return (y, layer.forward(x, (h, c), state)), layer.backward((dh, dc), dx, dstate)

    with no_array_data():
        (got_y, got_state), (got_dx, got_dstate) = call()
    assert got_y is y
    assert got_dx is dx
    assert all(a is b for a, b in zip((*got_state, *got_dstate), (*state, *dstate), strict=True))
    got = {"y": y, "h": state[0], "c": state[1], "x": dx, "dh": dstate[0], "dc": dstate[1]}
    got |= {name: p.grad for name, p in layer.named_parameters()}
    assert_same({name: got[name] for name in wanted}, wanted)
    assert_same(given, inputs(layer, x_shape))
    call()
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, 2 * wanted[name])


def test_two_forwards_are_kept():
    layer = build(nn.LSTM, {**SIZES, "num_layers": 2}).reserve((3, 2, 5), calls=2)
    given = inputs(layer, (3, 2, 5))
    other = {**given, "x": numbers((3, 2, 5), 50)}
    wanted = run(layer, **given), run(layer, **other)
    state = given["h"], given["c"]
    layer.forward(given["x"], state)
    layer.forward(other["x"], state)
    for one in reversed(wanted):
        dx, (dh, dc) = layer.backward(given["dy"], (given["dh"], given["dc"]))
        for got, name in ((dx, "x"), (dh, "dh"), (dc, "dc")):
            np.testing.assert_array_equal(got, one[name])
    with pytest.raises(nn.BackwardError):
        layer.backward(given["dy"])


def test_frozen_parameters_and_a_gradient_nobody_wants():
    layer = build(nn.LSTM, SIZES)
    given = inputs(layer, (3, 2, 5))
    wanted = run(layer, **given)
    for name, frozen in layer.named_parameters():
        frozen.requires_grad = False
        assert_same(run(layer, **given), {**wanted, name: np.zeros_like(wanted[name])})
        frozen.requires_grad = True
    layer.forward(given["x"])
    dx, (dh, _) = layer.backward(given["dy"], input_gradient=False)
    assert dx is None
    assert dh.shape == (1, 2, 4)


def test_in_a_sequential_the_output_goes_on():
    layer, linear = build(nn.LSTM, {**SIZES, "num_layers": 2}), nn.Linear(4, 3)
    model = nn.Sequential(layer, linear, build(nn.LSTMCell, {"input_size": 3, "hidden_size": 2}), nn.ReLU())
    alone = copy.deepcopy(layer)
    x, dy = numbers((3, 5)), numbers((3, 2))
    model.reserve((3, 5))
    model.backward(model(x))
    model.zero_grad()
    y, dx = np.empty((3, 2), np.float32), np.empty_like(x)
    with no_array_data():
        model.forward(x, out=y)
        model.backward(dy, out=dx)
    hidden, _ = alone.forward(x)
    assert_close(model[0](x)[0], hidden)
    later = nn.Sequential(*model[1:])
    later.forward(hidden)
    wanted, _ = alone.backward(later.backward(dy))
    assert_close(dx, wanted)
    for mine, others in zip(layer.parameters(), alone.parameters(), strict=True):
        assert_close(mine.grad, others.grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_parameters_of_their_own(copied):
    layer = build(nn.LSTM, SIZES)
    given = inputs(layer, (3, 2, 5))
    wanted, other = run(layer, **given), copied(layer)
    assert_same(run(other, **given), wanted)
    for parameter in other.parameters():
        parameter.value[...] += 1
    assert_same(run(layer, **given), wanted)
    assert_close(run(other, **given)["y"], expected(other, SIZES, given["x"], given["h"], given["c"], values(other))[0])


# Refusals


@pytest.mark.parametrize(
    ("kind", "x_shape"),
    [(nn.LSTM, (3, 2, 4)), (nn.LSTM, (5,)), (nn.LSTM, (1, 3, 2, 5)), (nn.LSTMCell, (3, 2, 5)), (nn.LSTMCell, (3, 4))],
)
def test_inputs_of_the_wrong_shape_are_refused(kind, x_shape):
    layer = build(kind, SIZES)
    for call in (layer, lambda x: layer.output_shape(x.shape), lambda x: layer.reserve(x.shape)):
        with pytest.raises(nn.ShapeError, match=rf"{kind.__name__}.*x must have shape .*, got {re.escape(str(x_shape))}"):
            call(numbers(x_shape))


def test_states_that_do_not_fit_are_refused():
    layer, cell = build(nn.LSTM, SIZES), build(nn.LSTMCell, SIZES)
    x, out = numbers((3, 2, 5)), np.full((3, 2, 4), 7, np.float32)
    h, c = pair(layer, x.shape, 1)
    refused = [
        (h, nn.ArgumentError, r"LSTM.*state must be a pair.*ndarray"),
        ((h,), nn.ArgumentError, "state must be a pair"),
        ((h[0], c), nn.ShapeError, r"h of state must have shape \(1, 2, 4\), got \(2, 4\)"),
        ((h, c.astype(np.float64)), nn.DTypeError, r"c of state must be float32, got float64; use c\.astype\(np\.float32\)$"),
        ((h, c.tolist()), nn.DTypeError, "c of state must be a NumPy array, got list"),
    ]
    for state, error, words in refused:
        with pytest.raises(error, match=words):
            layer.forward(x, state, out)
    read_only = h.copy()
    read_only.flags.writeable = False
    for state_out, error, words in [
        ((h, c), nn.DestinationError, "h of state_out overlaps"),
        ((h.copy(), read_only), nn.DestinationError, "c of state_out is read-only"),
        ((out[:1], c.copy()), nn.DestinationError, "h of state_out overlaps"),
        ((h.copy()[:, :1], c.copy()), nn.ShapeError, "h of state_out must have shape"),
    ]:
        with pytest.raises(error, match=words):
            layer.forward(x, (h, c), out, state_out)
    same = h.copy()
    with pytest.raises(nn.DestinationError, match="c of state_out overlaps"):
        layer.forward(x, None, out, (same, same))
    with pytest.raises(nn.DestinationError, match=r"LSTMCell.*c of out overlaps"):
        cell.forward(x[0], (h[0], c[0]), (h[0].copy(), c[0]))
    assert (out == 7).all()
    for one, dy in ((layer, out), (cell, (out[0], None))):
        with pytest.raises(nn.BackwardError):
            one.backward(dy)


def test_gradients_that_do_not_fit_are_refused():
    layer = build(nn.LSTM, SIZES)
    given = inputs(layer, (3, 2, 5))
    wanted = run(layer, **given)
    layer.zero_grad()
    layer.forward(given["x"], (given["h"], given["c"]))
    dy, dstate = given["dy"], (given["dh"], given["dc"])
    with pytest.raises(nn.ShapeError, match="dy must have shape"):
        layer.backward(dy[:2], dstate)
    with pytest.raises(nn.ShapeError, match="c of dstate must have shape"):
        layer.backward(dy, (dstate[0], dstate[1][:, :1]))
    with pytest.raises(nn.DestinationError, match="c of dstate_out overlaps"):
        layer.backward(dy, dstate, None, (dstate[0].copy(), dstate[1]))
    with pytest.raises(nn.DestinationError, match="out overlaps"):
        layer.backward(dy, dstate, given["x"])
    with pytest.raises(nn.ArgumentError, match="input_gradient"):
        layer.backward(dy, dstate, np.empty_like(given["x"]), input_gradient=False)
    assert not any(p.grad.any() for p in layer.parameters())
    np.testing.assert_array_equal(layer.backward(dy, dstate)[0], wanted["x"])


def test_what_only_a_backward_reads_takes_no_room_in_inference():
    layer = nn.LSTM(3, 5)
    kept, passing = (spec((4, 2, 3), np.dtype(np.float32)) for spec in (layer.saved_spec, layer.inference_spec))
    assert {name for name in kept if kept[name] != passing[name]} == {"cells_l0", "squashed_l0"}
    assert passing["cells_l0"][0] == passing["squashed_l0"][0] == (0,)


def test_a_strict_reservation_holds():
    layer = build(nn.LSTM, SIZES).reserve((3, 2, 5), strict=True)
    layer(numbers((2, 2, 5)))
    with pytest.raises(nn.ReserveError):
        layer(numbers((4, 2, 5)))
    layer.backward(numbers((2, 2, 4)))


# Dropout


def test_dropout_acts_between_layers_in_training_mode_only():
    layer = build(nn.LSTM, {**SIZES, "num_layers": 3, "dropout": 0.5})
    plain = build(nn.LSTM, {**SIZES, "num_layers": 3})
    given = inputs(layer, (3, 2, 5))
    wanted = run(plain, **given)
    first, second = run(layer, **given), run(layer, **given)
    assert (first["y"] != second["y"]).any()
    assert (first["y"] != wanted["y"]).any()
    np.testing.assert_array_equal(first["h"][0], wanted["h"][0])
    np.testing.assert_array_equal(layer.eval()(given["x"], (given["h"], given["c"]))[0], wanted["y"])
    nn.manual_seed(3)
    assert_same(run(layer.train(), **given), first)


@pytest.mark.parametrize("p", [0.4, 1.0])
def test_the_gradient_meets_the_mask_of_its_forward(p):
    layer = build(nn.LSTM, {**SIZES, "num_layers": 2, "dropout": p, "bidirectional": True}, np.float64)
    given, step = inputs(layer, (3, 2, 5), np.float64), 1e-6

    def again(**moved):
        nn.manual_seed(0)  # the same masks
        return run(layer, **{**given, **moved})

    gradients = again()
    for name, gradient in (("x", "x"), ("h", "dh"), ("c", "dc")):
        direction = numbers(given[name].shape, 100, np.float64)
        ends = [again(**{name: given[name] + s * direction}) for s in (step, -step)]
        losses = [sum(np.sum(given[f"d{n}"] * end[n]) for n in ("y", "h", "c")) for end in ends]
        slope = (losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(gradients[gradient] * direction), slope, rtol=1e-6, atol=1e-7)
