"""What is computed, in float64 NumPy and in the plainest words. Imports nothing of ours.

A layer's function takes the input, its parameters by name, and then what the layer's constructor takes.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def both(value):
    """Height and width of what may be one number."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def windows(x, size, stride, dilation):
    """x: (N, C, H, W) as (N, C, H', W', kh, kw)."""
    (kh, kw), (sh, sw), (dh, dw) = size, stride, dilation
    every = sliding_window_view(x, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), (2, 3))
    return every[:, :, ::sh, ::sw, ::dh, ::dw]


def linear(x, parameters, in_features, out_features, bias=True):
    y = np.matmul(x, parameters["weight"].T)
    return y + parameters["bias"] if bias else y


def conv2d(
    x, parameters, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, algorithm=""
):  # fmt: skip
    size, stride, dilation = both(kernel_size), both(stride), both(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        border = [(t // 2, t - t // 2) for t in total]
    else:
        border = [(p, p) for p in both(0 if padding == "valid" else padding)]
    patches = windows(np.pad(x, [(0, 0), (0, 0), *border]), size, stride, dilation)
    pairs = zip(np.split(patches, groups, 1), np.split(parameters["weight"], groups), strict=True)
    y = np.concatenate([np.tensordot(w, p, ([1, 2, 3], [1, 4, 5])) for p, w in pairs]).swapaxes(0, 1)
    return y + parameters["bias"][:, None, None] if bias else y


def conv1d(
    x, parameters, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, algorithm=""
):  # fmt: skip
    def columns(value, of_one_row):
        return (of_one_row, value[0] if isinstance(value, tuple) else value)

    as_image = {**parameters, "weight": parameters["weight"][:, :, None]}
    padding = padding if isinstance(padding, str) else columns(padding, 0)
    size, stride, dilation = columns(kernel_size, 1), columns(stride, 1), columns(dilation, 1)
    return conv2d(x[:, :, None], as_image, in_channels, out_channels, size, stride, padding, dilation, groups, bias)[:, :, 0]


def window_count(length, span, stride, padding, ceil_mode):
    """Windows along an axis: in ceil_mode the last may reach beyond the padding, but not start there."""
    count = (math.ceil if ceil_mode else math.floor)((length + 2 * padding - span) / stride) + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= length + padding else count


def max_pool2d_indices(x, parameters, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
    """Largest value of every window, and where it lies in its plane: the first one, row by row; NaN is the largest."""
    size, padding, dilation = both(kernel_size), both(padding), both(dilation)
    stride = size if stride is None else both(stride)
    counts, border = [], []
    for n, k, s, p, d in zip(x.shape[2:], size, stride, padding, dilation, strict=True):
        counts.append(window_count(n, d * (k - 1) + 1, s, p, ceil_mode))
        border.append((p, p + s))  # s: ceil_mode reaches beyond the padding
    view = windows(np.pad(x, [(0, 0), (0, 0), *border], constant_values=-np.inf), size, stride, dilation)
    view = view[:, :, : counts[0], : counts[1]].reshape(*x.shape[:2], *counts, size[0] * size[1])
    at = np.argmax(view, -1)
    rows = np.arange(counts[0])[:, None] * stride[0] - padding[0] + at // size[1] * dilation[0]
    columns = np.arange(counts[1]) * stride[1] - padding[1] + at % size[1] * dilation[1]
    return np.take_along_axis(view, at[..., None], -1)[..., 0], rows * x.shape[3] + columns


def max_pool2d(x, parameters, *args, **kwargs):
    return max_pool2d_indices(x, parameters, *args, **kwargs)[0]


def max_pool1d(x, parameters, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
    options = {"stride": (1, stride or kernel_size), "padding": (0, padding), "dilation": (1, dilation), "ceil_mode": ceil_mode}
    return max_pool2d(x[:, :, None], parameters, (1, kernel_size), **options)[:, :, 0]


def reduced(x, rows, columns, value):
    """``value`` of the slice of x, for all pairs of a row window and a column window, each a pair of its bounds."""
    y = np.empty((*x.shape[:2], len(rows), len(columns)))
    for h, w in np.ndindex(*y.shape[2:]):
        (top, bottom), (left, right) = rows[h], columns[w]
        y[:, :, h, w] = value(x[:, :, max(top, 0) : bottom, max(left, 0) : right], (bottom - top) * (right - left))
    return y


def avg_pool2d(
    x, parameters, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    size, padding, bounds = both(kernel_size), both(padding), []
    for n, k, s, p in zip(x.shape[2:], size, both(stride or size), padding, strict=True):
        starts = [i * s - p for i in range(window_count(n, k, s, p, ceil_mode))]
        bounds.append([(start, min(start + k, n + p)) for start in starts])

    def mean(inside, padded_size):
        return inside.sum((2, 3)) / (divisor_override or (padded_size if count_include_pad else inside[0, 0].size))

    return reduced(x, *bounds, mean)


def avg_pool1d(x, parameters, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    one_row = (1, kernel_size), (1, stride or kernel_size), (0, padding)
    return avg_pool2d(x[:, :, None], parameters, *one_row, ceil_mode, count_include_pad)[:, :, 0]


def adaptive_bounds(x, output_size):
    sizes = [n if size is None else size for n, size in zip(x.shape[2:], output_size, strict=True)]
    return [
        [(math.floor(i * n / o), math.ceil((i + 1) * n / o)) for i in range(o)] for n, o in zip(x.shape[2:], sizes, strict=True)
    ]


def adaptive_avg_pool2d(x, parameters, output_size=1):
    return reduced(x, *adaptive_bounds(x, both(output_size)), lambda window, size: window.mean((2, 3)))


def adaptive_max_pool2d(x, parameters, output_size=1, return_indices=False):
    return reduced(x, *adaptive_bounds(x, both(output_size)), lambda window, size: window.max((2, 3)))


def adaptive_avg_pool1d(x, parameters, output_size=1):
    return adaptive_avg_pool2d(x[:, :, None], parameters, (1, output_size))[:, :, 0]


def adaptive_max_pool1d(x, parameters, output_size=1, return_indices=False):
    return adaptive_max_pool2d(x[:, :, None], parameters, (1, output_size))[:, :, 0]


def global_avg_pool(x, parameters):
    return x.mean(tuple(range(2, x.ndim)))


def global_max_pool(x, parameters):
    return x.max(tuple(range(2, x.ndim)))


def upsample(x, parameters, size=None, scale_factor=None, mode="nearest"):
    target = both(size) if size else [math.floor(n * f) for n, f in zip(x.shape[2:], both(scale_factor), strict=True)]
    sizes = list(zip(x.shape[2:], target, strict=True))
    factors = [n / t for n, t in sizes] if size else [1 / f for f in both(scale_factor)]
    factors = [n / t if t in (n, 2 * n) else f for f, (n, t) in zip(factors, sizes, strict=True)]  # as PyTorch rounds
    rows, columns = (np.floor(np.arange(t) * f).astype(int) for t, f in zip(target, factors, strict=True))
    return x[:, :, np.minimum(rows, x.shape[2] - 1)][..., np.minimum(columns, x.shape[3] - 1)]


def relu(x, parameters):
    return np.maximum(x, 0)


def sigmoid(x, parameters):
    return np.exp(-np.logaddexp(0, -x))


def log_softmax(x, parameters, dim):
    z = x - np.max(x, dim, keepdims=True)
    return z - np.log(np.sum(np.exp(z), dim, keepdims=True))


def softmax(x, parameters, dim):
    return np.exp(log_softmax(x, parameters, dim))


def leaky_relu(x, parameters, negative_slope=0.01):
    return np.where(x > 0, x, negative_slope * x)


def relu6(x, parameters):
    return np.clip(x, 0, 6)


def tanh(x, parameters):
    return np.tanh(x)


def silu(x, parameters):
    return x * sigmoid(x, parameters)


def gelu(x, parameters, approximate="none"):
    if approximate == "tanh":
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    return x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2))) / 2


def identity(x, parameters, *arguments, **keywords):
    return x


def flatten(x, parameters, start_dim=1, end_dim=-1):
    end = end_dim % x.ndim + 1
    return x.reshape(*x.shape[:start_dim], math.prod(x.shape[start_dim:end]), *x.shape[end:])


def unflatten(x, parameters, dim, unflattened_size):
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *np.empty(x.shape[dim]).reshape(unflattened_size).shape, *x.shape[dim + 1 :])


def reshape(x, parameters, *shape):
    return x.reshape(x.shape[0], *(shape[0] if isinstance(shape[0], tuple) else shape))


def squeeze(x, parameters, dim=None):
    dims = range(1, x.ndim) if dim is None else [d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)]
    return np.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


def unsqueeze(x, parameters, dim):
    return np.expand_dims(x, dim)


def permute(x, parameters, *dims):
    return np.transpose(x, dims[0] if isinstance(dims[0], tuple) else dims)


def transpose(x, parameters, dim0, dim1):
    return np.swapaxes(x, dim0, dim1)


def pad(x, padding, **how):
    """`numpy.pad`, where negative numbers take away; padding: that of the last dimension first, as PyTorch has it."""
    sides = (padding,) * (2 * x.ndim - 4) if isinstance(padding, int) else padding
    both = [(0, 0), (0, 0), *list(zip(sides[::2], sides[1::2], strict=True))[::-1]]
    wide = np.pad(x, np.maximum(both, 0), **how)
    return wide[tuple(slice(max(0, -before), n - max(0, -after)) for n, (before, after) in zip(wide.shape, both, strict=True))]


def constant_pad(x, parameters, padding, value):
    return pad(x, padding, constant_values=value)


def zero_pad(x, parameters, padding):
    return pad(x, padding)


def reflection_pad(x, parameters, padding):
    return pad(x, padding, mode="reflect")


def per_channel(values, x):
    """One value for each channel, to broadcast over x: (N, C, ...)."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


def normalize(x, mean, variance, eps, weight=1.0, bias=0.0):
    mean, variance, weight, bias = (per_channel(np.asarray(a), x) for a in (mean, variance, weight, bias))
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def batch_moments(x):
    """Mean and biased variance of every channel."""
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes)


def batch_norm(x, parameters, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
    """In training mode."""
    return normalize(x, *batch_moments(x), eps, **parameters)


def philox(size, seed, stream):
    """The first 32-bit words of a random stream: Salmon et al. 2011, Philox4x32-10."""
    low, shift = np.uint64(2**32 - 1), np.uint64(32)
    block = np.arange(-(-size // 4), dtype=np.uint64)
    c0, c1, c2, c3 = block & low, block >> shift, np.uint64(stream % 2**32), np.uint64(stream >> 32)
    k0, k1 = seed % 2**32, seed >> 32 & 2**32 - 1
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = p1 >> shift ^ c1 ^ np.uint64(k0), p1 & low, p0 >> shift ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], 1).reshape(-1)[:size]


def dropout(x, parameters, p=0.5):
    """For p = 0, where nothing is random."""
    assert p == 0
    return x


def dropout_factors(shape, p, seed, stream):
    """What the elements of a flat array are multiplied by."""
    words = philox(math.prod(shape), seed, stream).reshape(shape)
    return np.where(words >= p * 2**32, 1 / (1 - p), 0)


def lstm_cell(x, parameters, input_size, hidden_size, bias=True, state=None, end=""):
    """New hidden and cell state. Hochreiter and Schmidhuber 1997, with the gates as PyTorch's documentation numbers them."""
    h, c = state or (np.zeros((*x.shape[:-1], hidden_size)),) * 2
    gates = x @ parameters["weight_ih" + end].T + h @ parameters["weight_hh" + end].T
    if bias:
        gates = gates + parameters["bias_ih" + end] + parameters["bias_hh" + end]
    i, f, g, o = np.split(gates, 4, -1)
    c = sigmoid(f, {}) * c + sigmoid(i, {}) * np.tanh(g)
    return sigmoid(o, {}) * np.tanh(c), c


def lstm(
    x, parameters, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False,
    state=None,
):  # fmt: skip
    """Output of every step, and the last hidden and cell states of every layer and direction; without dropout."""
    ends = ["", "_reverse"] if bidirectional else [""]
    y = x.swapaxes(0, 1) if batch_first and x.ndim == 3 else x
    shape = (num_layers * len(ends), *y.shape[1:-1], hidden_size)
    h, c = (np.array(part) for part in state or (np.zeros(shape),) * 2)
    for layer in range(num_layers):
        outputs = []
        for number, end in enumerate(ends):
            k, steps = layer * len(ends) + number, y[::-1] if end else y
            hidden = []
            for step in steps:
                h[k], c[k] = lstm_cell(step, parameters, 0, hidden_size, bias, (h[k], c[k]), f"_l{layer}{end}")
                hidden.append(h[k].copy())
            hidden = np.array(hidden).reshape(len(y), *shape[1:])
            outputs.append(hidden[::-1] if end else hidden)
        y = np.concatenate(outputs, -1)
    return y.swapaxes(0, 1) if batch_first and x.ndim == 3 else y, h, c


def matmul(a, b, transpose_a=False, transpose_b=False):
    return np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b)
