"""What every layer promises, over every configuration of `tests.cases`: numbers, refusals, and who writes what."""

from __future__ import annotations

import numpy as np
import pytest

import numba_nn as nn
from tests.cases import CASES, ONE_OF_EACH, REFUSED, assert_close, assert_same, gradients

DTYPES = [np.float32, np.float64]
STEP = 1e-6
every_case = pytest.mark.parametrize("case", CASES, ids=str)
one_of_each = pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
every_filled_case = pytest.mark.parametrize("case", [c for c in CASES if 0 not in c.x_shape], ids=str)
every_batched_case = pytest.mark.parametrize("case", [c for c in CASES if c.x_shape], ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def strided(array):
    """The same numbers, every other element of a larger array."""
    if array.ndim == 0:
        return array
    large = np.full((*array.shape[:-1], 2 * array.shape[-1]), np.nan if array.dtype.kind == "f" else -1, array.dtype)
    large[..., ::2] = array
    return large[..., ::2]


def snapshot(layer):
    return {f"{name}.{kind}": getattr(p, kind).copy() for name, p in layer.named_parameters() for kind in ("value", "grad")}


def parameters_of(layer):
    return {name: p.value.astype(np.float64) for name, p in layer.named_parameters()}


# Numbers


@every_case
@every_dtype
def test_forward_equals_the_formula(case, dtype):
    layer = case.build(dtype)
    y = layer(case.x(dtype))
    expected = case.expected(case.x(np.float64), parameters_of(layer))
    assert y.dtype == dtype
    assert y.shape == expected.shape == layer.output_shape(case.x_shape)
    assert_close(y, expected)


def derivative(case, arrays, dy, name, direction):
    """Of sum(dy * formula) in a direction of the named array, by central differences."""

    def output(step):
        moved = {**arrays, name: arrays[name] + step * direction}
        return case.expected(moved.pop("x"), moved)

    return np.sum(dy * (output(STEP) - output(-STEP))) / (2 * STEP)


def directions(case, name, shape):
    """Every coordinate of a small array; for a larger one, a few directions in which every coordinate takes part."""
    size = int(np.prod(shape))
    if size <= 30:
        return np.eye(size).reshape(size, *shape)
    return case.numbers(f"direction of {name}", (3, *shape))


@every_case
def test_backward_is_the_derivative_of_the_formula(case):
    layer = case.build(np.float64)
    x, dy = case.x(np.float64), case.dy(layer, np.float64)
    arrays = {"x": x, **parameters_of(layer)}
    got = gradients(layer, x, dy)
    for name, array in arrays.items():
        assert got[name].shape == array.shape
        for direction in directions(case, name, array.shape):
            expected = derivative(case, arrays, dy, name, direction)
            along = got[name] * direction
            tolerance = 1e-6 * max(1, np.linalg.norm(along.ravel()))
            assert abs(np.sum(along) - expected) <= tolerance, name


@every_case
def test_backward_in_float32_rounds_that_in_float64(case):
    small, large = (gradients(c, case.x(d), case.dy(c, d)) for c, d in ((case.build(d), d) for d in DTYPES))
    for name in large:
        assert small[name].dtype == np.float32
        assert_close(small[name], large[name])


@every_case
def test_strided_arrays_give_the_same(case):
    layer = case.build()
    x, dy = case.x(), case.dy(layer)
    assert_same(gradients(layer, strided(x), strided(dy)), gradients(layer, x, dy))
    assert_same(gradients(layer, np.asfortranarray(x), np.asfortranarray(dy)), gradients(layer, x, dy))
    layer.eval()
    assert_close(layer(strided(x)), layer(x))


@one_of_each
def test_unaligned_arrays_give_the_same(case):
    layer = case.build()
    x, dy = case.x(), case.dy(layer)

    def unaligned(array):
        return np.frombuffer(b"0" + array.tobytes(), np.float32, offset=1).reshape(array.shape)

    assert_same(gradients(layer, unaligned(x), unaligned(dy)), gradients(layer, x, dy))


@every_batched_case
def test_an_empty_batch_has_empty_results_and_no_gradients(case):
    layer = case.build()
    shape = (0, *case.x_shape[1:]) if len(case.x_shape) > 1 or case.layer is not nn.Linear else (0, *case.x_shape)
    got = gradients(layer, np.empty(shape, np.float32), np.empty(layer.output_shape(shape), np.float32))
    assert got["y"].size == 0
    assert got["x"].shape == shape
    assert all(not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("case", [c for c in CASES if 0 not in c.x_shape and not c.mixes_outputs], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_pass_through(case, value):
    layer, x = case.build(), case.x()
    x.reshape(-1)[0] = value
    with np.errstate(invalid="ignore"):
        expected = case.expected(x.astype(np.float64), parameters_of(layer))
    y = layer(x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(y[np.isinf(expected)], expected[np.isinf(expected)])
    assert np.isinf(y).sum() == np.isinf(expected).sum()


@every_filled_case
def test_nan_passes_backward(case):
    layer = case.build()
    x, dy = np.array(abs(case.x())), case.dy(layer)
    reached = gradients(layer, x, np.ones_like(dy))
    got = gradients(layer, x, np.full_like(dy, np.nan))
    # A gradient that depends on no output stays 0, as pixels between strides do.
    assert np.isnan(got["x"][reached["x"] != 0]).all()
    assert all(np.isnan(p.grad).all() for p in layer.parameters())


# Who writes what


@every_case
def test_out_is_returned_and_nothing_but_out_is_written(case):
    layer = case.build()
    x, dy = case.x(), case.dy(layer)
    expected = gradients(layer, x, dy)
    for array in (x, dy):
        array.flags.writeable = False
    y, dx = np.full(dy.shape, np.nan, np.float32), np.full(x.shape, np.nan, np.float32)
    layer.zero_grad()
    before = snapshot(layer)
    assert layer.forward(x, out=y) is y
    assert_same(snapshot(layer), before)
    assert layer.backward(dy, out=dx) is dx
    np.testing.assert_array_equal(y, expected["y"])
    np.testing.assert_array_equal(dx, expected["x"])
    np.testing.assert_array_equal(x, case.x())
    np.testing.assert_array_equal(dy, case.dy(layer))
    assert_same({n: a for n, a in snapshot(layer).items() if "value" in n}, {n: a for n, a in before.items() if "value" in n})


@every_case
def test_results_are_the_callers_own(case):
    layer = case.build()
    first = layer(case.x())
    kept = first.copy()
    second = layer(case.x(name="another"))
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)


@every_case
def test_gradients_of_parameters_accumulate_and_dx_does_not(case):
    layer = case.build()
    x, dy = case.x(), case.dy(layer)
    once = gradients(layer, x, dy)
    layer.forward(x)
    dx = layer.backward(dy)
    np.testing.assert_array_equal(dx, once["x"])
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, 2 * once[name])


@every_case
def test_the_input_gradient_can_be_left_out(case):
    layer = case.build()
    x, dy = case.x(), case.dy(layer)
    expected = gradients(layer, x, dy)
    layer.zero_grad()
    layer.forward(x)
    assert layer.backward(dy, input_gradient=False) is None
    for name, parameter in layer.named_parameters():
        np.testing.assert_array_equal(parameter.grad, expected[name])


@pytest.mark.parametrize("case", [c for c in ONE_OF_EACH if c.build().parameters()], ids=str)
def test_a_frozen_parameter_keeps_its_gradient(case):
    expected = gradients(case.build(), case.x(), case.dy(case.build()))
    for frozen, _ in case.build().named_parameters():
        layer = case.build()
        parameter = dict(layer.named_parameters())[frozen]
        parameter.requires_grad = False
        parameter.grad[...] = 7
        layer.forward(case.x())
        np.testing.assert_array_equal(layer.backward(case.dy(layer)), expected["x"])
        for name, parameter in layer.named_parameters():
            np.testing.assert_array_equal(parameter.grad, np.full_like(parameter.grad, 7) if name == frozen else expected[name])


# Refusals: the error says who, what, what was expected and what came, and nothing was written


def check_refusal(layer, call, error, *words):
    before = snapshot(layer)
    with pytest.raises(error) as caught:
        call()
    for word in (type(layer).__name__, *words):
        assert word in str(caught.value)
    assert_same(snapshot(layer), before)


@one_of_each
def test_an_input_of_the_wrong_kind_is_refused(case):
    layer, x = case.build(), case.x()
    out = np.full(layer.output_shape(x.shape), 7, np.float32)
    check_refusal(layer, lambda: layer.forward(x.tolist(), out=out), nn.DTypeError, "x must be", "NumPy", "list")
    for wrong in (np.int64, np.float16, ">f4", *([np.float64] if layer.parameters() else [])):
        words = ["x must be", "float32", str(np.dtype(wrong)), "astype"]
        check_refusal(layer, lambda wrong=wrong: layer.forward(x.astype(wrong), out=out), nn.DTypeError, *words)
    assert (out == 7).all()
    with pytest.raises(nn.BackwardError):
        layer.backward(out)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_an_input_of_the_wrong_shape_is_refused(case):
    layer, x = case.build(), case.x()
    out = np.full((2, 3), 7, np.float32)
    check_refusal(layer, lambda: layer.forward(x, out=out), nn.ShapeError, "shape", str(case.x_shape))
    with pytest.raises(nn.ShapeError):
        layer.output_shape(case.x_shape)
    with pytest.raises(nn.ShapeError):
        layer.reserve(case.x_shape)
    assert (out == 7).all()


@one_of_each
def test_a_gradient_that_does_not_fit_is_refused(case):
    layer, x = case.build(), case.x()
    layer.forward(x)
    dy, out = case.dy(layer), np.full(x.shape, 7, np.float32)
    longer = np.zeros((dy.shape[0] + 1, *dy.shape[1:]), np.float32)
    words = str(dy.shape), str(longer.shape)
    check_refusal(layer, lambda: layer.backward(dy.tolist(), out=out), nn.DTypeError, "dy must be", "list")
    check_refusal(layer, lambda: layer.backward(dy.astype(np.float64), out=out), nn.DTypeError, "dy must be float32", "float64")
    check_refusal(layer, lambda: layer.backward(longer, out=out), nn.ShapeError, "dy must have", *words)
    check_refusal(layer, lambda: layer.backward(dy[0], out=out), nn.ShapeError, "dy must have", str(dy[0].shape))
    check_refusal(layer, lambda: layer.backward(dy, out=out, input_gradient=False), nn.ArgumentError, "out", "input_gradient")
    assert (out == 7).all()
    np.testing.assert_array_equal(layer.backward(dy), gradients(case.build(), x, dy)["x"])


def wrong_destinations(right, *inputs):
    """Arrays that cannot be written instead of ``right``, the error, and words of its message."""
    read_only = right.copy()
    read_only.flags.writeable = False
    yield read_only, nn.DestinationError, ["read-only"]
    yield strided(right), nn.DestinationError, ["C-contiguous"]
    yield right.astype(np.float64), nn.DTypeError, ["float32", "float64"]
    yield right.tolist(), nn.DTypeError, ["list"]
    yield np.zeros((*right.shape, 1), np.float32), nn.ShapeError, [str(right.shape), str((*right.shape, 1))]
    for given in inputs:
        memory = np.zeros(right.size + given.size, np.float32)
        ours = memory[: given.size].reshape(given.shape)
        ours[...] = given
        start = given.size - 1
        yield (memory[start : start + right.size].reshape(right.shape), ours), nn.DestinationError, ["overlaps"]


@one_of_each
def test_an_output_that_cannot_be_written_is_refused(case):
    layer, x = case.build(), case.x()
    for out, error, words in wrong_destinations(case.dy(layer), x):
        given, destination = (out[1], out[0]) if isinstance(out, tuple) else (x, out)
        before = np.array(destination)
        check_refusal(layer, lambda g=given, d=destination: layer.forward(g, out=d), error, "out", *words)
        np.testing.assert_array_equal(destination, before)
        with pytest.raises(nn.BackwardError):
            layer.backward(case.dy(layer))


@one_of_each
def test_an_input_gradient_that_cannot_be_written_is_refused(case):
    layer, x = case.build(), case.x()
    dy = case.dy(layer)
    layer.forward(x)
    for out, error, words in wrong_destinations(x, dy):
        given, destination = (out[1], out[0]) if isinstance(out, tuple) else (dy, out)
        before = np.array(destination)
        check_refusal(layer, lambda g=given, d=destination: layer.backward(g, out=d), error, "out", *words)
        np.testing.assert_array_equal(destination, before)
    if layer.keeps_input:
        check_refusal(layer, lambda: layer.backward(dy, out=x), nn.DestinationError, "overlaps")
    np.testing.assert_array_equal(layer.backward(dy), gradients(case.build(), x, dy)["x"])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Linear(0, 3), ["Linear", "in_features", "0"]),
        (lambda: nn.Linear(3, 2.5), ["Linear", "out_features", "2.5"]),
        (lambda: nn.Conv2d(3, 4, 0), ["Conv2d", "kernel_size", "0"]),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), ["Conv2d", "kernel_size", "(3, 3, 3)"]),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ["Conv2d", "groups", "3", "2"]),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), ["Conv2d", "stride", "0"]),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), ["Conv2d", "padding", "-1"]),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), ["Conv2d", "padding", "full"]),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), ["Conv2d", "same", "stride"]),
        (lambda: nn.Conv1d(3, 4, (3, 3)), ["Conv1d", "kernel_size", "(3, 3)"]),
        (lambda: nn.Conv1d(3, 4, 3, stride=0), ["Conv1d", "stride", "at least 1", "0"]),
        (lambda: nn.Conv1d(3, 4, 3, padding="same", stride=2), ["Conv1d", "same", "stride"]),
        (lambda: nn.Conv1d(3, 4, 3, groups=2), ["Conv1d", "groups", "3", "2"]),
        (lambda: nn.Flatten(1.5), ["Flatten", "start_dim", "1.5"]),
        (lambda: nn.Unflatten("C", (3, 4)), ["Unflatten", "dim", "'C'"]),
        (lambda: nn.Unflatten(1, 12), ["Unflatten", "unflattened_size", "12"]),
        (lambda: nn.Unflatten(1, (-1, -1)), ["Unflatten", "unflattened_size", "(-1, -1)"]),
        (lambda: nn.Reshape(3, 0), ["Reshape", "shape", "(3, 0)"]),
        (lambda: nn.Squeeze((1, 2.5)), ["Squeeze", "dim", "2.5"]),
        (lambda: nn.Unsqueeze(None), ["Unsqueeze", "dim", "None"]),
        (lambda: nn.Permute(0, 2), ["Permute", "dims", "(0, 2)"]),
        (lambda: nn.Permute(0, -2), ["Permute", "dims", "(0, -2)"]),
        (lambda: nn.Permute(0, "1"), ["Permute", "dims", "'1'"]),
        (lambda: nn.Transpose(0, True), ["Transpose", "dim1", "True"]),
        (lambda: nn.ConstantPad1d((1, 2, 3), 0.0), ["ConstantPad1d", "padding", "(left, right)", "(1, 2, 3)"]),
        (lambda: nn.ConstantPad2d(1, "zero"), ["ConstantPad2d", "value", "'zero'"]),
        (lambda: nn.ZeroPad2d((1, 2)), ["ZeroPad2d", "padding", "(left, right, top, bottom)", "(1, 2)"]),
        (lambda: nn.ReflectionPad1d(0.5), ["ReflectionPad1d", "padding", "0.5"]),
        (lambda: nn.MaxPool2d(2, padding=2), ["MaxPool2d", "padding", "2"]),
        (lambda: nn.MaxPool2d(2, stride=0), ["MaxPool2d", "stride", "0"]),
        (lambda: nn.BatchNorm1d(0), ["BatchNorm1d", "num_features", "0"]),
        (lambda: nn.BatchNorm1d(3, eps=-1e-5), ["BatchNorm1d", "eps", "-1e-05"]),
        (lambda: nn.BatchNorm2d(3, momentum=1.5), ["BatchNorm2d", "momentum", "1.5"]),
        (lambda: nn.Dropout(1.5), ["Dropout", "p", "1.5"]),
        (lambda: nn.Dropout(float("nan")), ["Dropout", "p", "nan"]),
        (lambda: nn.Dropout2d("0.5"), ["Dropout2d", "p", "'0.5'"]),
        (lambda: nn.Softmax(None), ["Softmax", "dim", "None"]),
        (lambda: nn.LogSoftmax(1.5), ["LogSoftmax", "dim", "1.5"]),
        (lambda: nn.MaxPool1d((2, 2)), ["MaxPool1d", "kernel_size", "(2, 2)"]),
        (lambda: nn.MaxPool1d(3, padding=2), ["MaxPool1d", "padding", "3", "2"]),
        (lambda: nn.AvgPool1d(0), ["AvgPool1d", "kernel_size", "0"]),
        (lambda: nn.AvgPool2d((2, 4), padding=(1, 3)), ["AvgPool2d", "padding", "(2, 4)", "(1, 3)"]),
        (lambda: nn.AvgPool2d(2, divisor_override=0), ["AvgPool2d", "divisor_override", "0"]),
        (lambda: nn.AvgPool2d(2, divisor_override=1.5), ["AvgPool2d", "divisor_override", "1.5"]),
        (lambda: nn.AdaptiveAvgPool2d((2, 0)), ["AdaptiveAvgPool2d", "output_size", "(2, 0)"]),
        (lambda: nn.AdaptiveAvgPool1d((2, 3)), ["AdaptiveAvgPool1d", "output_size", "(2, 3)"]),
        (lambda: nn.AdaptiveMaxPool2d((1, 2, 3)), ["AdaptiveMaxPool2d", "output_size", "(1, 2, 3)"]),
        (lambda: nn.AdaptiveMaxPool1d("2"), ["AdaptiveMaxPool1d", "output_size", "'2'"]),
        (lambda: nn.LeakyReLU("a"), ["LeakyReLU", "negative_slope", "a"]),
        (lambda: nn.GELU("erf"), ["GELU", "approximate", "erf"]),
        (lambda: nn.Upsample(), ["Upsample", "size", "scale_factor"]),
        (lambda: nn.Upsample(size=3, scale_factor=2), ["Upsample", "size", "scale_factor"]),
        (lambda: nn.Upsample(scale_factor=-1), ["Upsample", "scale_factor", "-1"]),
        (lambda: nn.Upsample(scale_factor=2, mode="cubic"), ["Upsample", "mode", "cubic"]),
        (lambda: nn.LSTM(0, 3), ["LSTM", "input_size", "0"]),
        (lambda: nn.LSTM(3, 2.5), ["LSTM", "hidden_size", "2.5"]),
        (lambda: nn.LSTM(3, 4, 0), ["LSTM", "num_layers", "0"]),
        (lambda: nn.LSTM(3, 4, 2, dropout=1.5), ["LSTM", "dropout", "1.5"]),
        (lambda: nn.Concatenate("C"), ["Concatenate", "dim", "'C'"]),
        (lambda: nn.Linear(3, 4).reserve((2, 3), calls=1.5), ["Linear", "calls", "1.5"]),
        (lambda: nn.manual_seed(1.5), ["manual_seed", "1.5"]),
        (lambda: nn.LSTMCell(3, 0), ["LSTMCell", "hidden_size", "0"]),
    ],
)
def test_wrong_arguments_are_refused(build, words):
    with pytest.raises(nn.ArgumentError) as caught:
        build()
    assert [w for w in words if w not in str(caught.value)] == []


@pytest.mark.parametrize("dtype", [np.float16, int, "complex64", "float33", None])
def test_parameters_are_float32_or_float64(dtype):
    with pytest.raises(nn.DTypeError, match="float32 or float64"):
        nn.Linear(2, 3, dtype=dtype)
