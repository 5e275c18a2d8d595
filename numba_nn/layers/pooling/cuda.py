"""Pooling on a GPU: a thread has a window, four neighbouring places, of the output, in backward of the input's gradient.

A place looks at a range of rows and one of columns: its window of pooling, or in backward the windows that hold it. Places of
one row share the range of rows, and their ranges of columns overlap or adjoin. So a thread goes along these four columns at a
time, from a multiple of four on, each time down the rows, and gives every place what its range has of them. Places that lie in
the next row are served after that in the same manner.

Tables are int32 and have rows (first, count): `rows` and `columns` the elements of every window along an axis, `above` and
`beside` the windows that hold an element, those between the first and the last of them included.
"""

from __future__ import annotations

import numpy as np

from numba_nn.core.cuda.planes import fetch_row, place_of_window, plane_row_column, row_of_windows
from numba_nn.core.cuda.portable import covering_windows, fetch, put
from numba_nn.core.cuda.ptx import WINDOW, cuda, device_function, flat_part
from numba_nn.core.cuda.reduce import ALL_LANES, WARP
from numba_nn.core.cuda.twin import cuda_helper, cuda_kernel
from numba_nn.core.kernel import In, Out, Saved
from numba_nn.layers.pooling.order import comes_first, exceeds


@device_function
def find_ranges(first, length, table, at, done, step):
    """Ranges of columns: lane ``done`` has row ``at`` of the table, its neighbours what follows, others none.

    Returns the multiple of four from which on, and the column before which, all of them lie.
    """
    start, stop = np.uint32(0xFFFFFFFF), np.uint32(0)
    for lane in range(WINDOW):
        i = np.uint32(at + np.uint32(lane) - done)  # what would be negative is large
        first[lane] = length[lane] = np.uint32(0)
        if i < np.uint32(table.shape[0]) and table[i, 1] > 0:
            first[lane], length[lane] = np.uint32(table[i, 0]), np.uint32((table[i, 1] - 1) * step + 1)
            start, stop = min(start, first[lane]), max(stop, np.uint32(first[lane] + length[lane]))
    return np.uint32(start & np.uint32(0xFFFFFFFC)), stop


@cuda_helper
def meets(column, first, length):
    """Whether one of four columns is in a range."""
    return np.uint32(column + np.uint32(WINDOW - 1) - first) < np.uint32(length + np.uint32(WINDOW - 1))


@cuda_helper
def in_range(column, first, length, step):
    """Whether a column is one of those from the first on, a step apart."""
    offset = np.uint32(column - first)
    return offset < length and (step == 1 or offset % np.uint32(step) == 0)


@cuda_kernel(grid=covering_windows)
def pool_maxima(y: Out, indices: Saved, x: In, rows: In, columns: In, width: int, row_step: int, column_step: int):
    """Largest value of every window, and its place; -inf at -1 where a window misses the image.

    y, indices: (P, H', W'), x: (P, H W); elements of a window lie a step apart.
    """
    best, at = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, np.int32)
    values, places = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, np.int32)
    first, length = cuda.local.array(WINDOW, np.uint32), cuda.local.array(WINDOW, np.uint32)
    i = place_of_window()
    while i < np.uint32(y.size):
        for lane in range(WINDOW):
            best[lane], at[lane] = x.dtype.type(-np.inf), np.int32(-1)
        done = np.uint32(0)
        while done < np.uint32(WINDOW) and i + done < np.uint32(y.size):
            p, h, w = plane_row_column(i + done, y)
            column, stop = find_ranges(first, length, columns, w, done, column_step)
            while column < stop:
                column_maxima(values, places, x, p, np.uint32(width), column, rows[h, 0], rows[h, 1], row_step)
                for lane in range(WINDOW):
                    if meets(column, first[lane], length[lane]):
                        for k in range(WINDOW):
                            taken = comes_first(values[k], places[k], best[lane], at[lane])
                            taken &= in_range(column + np.uint32(k), first[lane], length[lane], column_step)
                            best[lane], at[lane] = values[k] if taken else best[lane], places[k] if taken else at[lane]
                column = np.uint32(column + np.uint32(WINDOW))
            done = np.uint32(done + np.uint32(y.shape[2]) - w)
        put(flat_part(y, 0, y.size), i, best, y.size)
        put(flat_part(indices, 0, y.size), i, at, y.size)
        i = np.uint32(i + row_of_windows())


@device_function
def column_maxima(values, places, x, p, width, column, first, count, step):
    """Largest value of each of four columns, over count rows from the first, step apart, and its place in the plane."""
    window = cuda.local.array(WINDOW, x.dtype)
    for k in range(WINDOW):
        values[k], places[k] = x.dtype.type(-np.inf), np.int32(-1)
    for a in range(count):
        start = np.uint32(first + a * step) * width
        fetch_row(window, x, np.uint32(p * np.uint32(x.shape[1]) + start), width, column)
        for k in range(WINDOW):
            taken = exceeds(window[k], values[k]) | (places[k] < 0)
            values[k] = window[k] if taken else values[k]
            places[k] = np.int32(start + column + np.uint32(k)) if taken else places[k]


@cuda_kernel(grid=covering_windows)
def gather_maxima(dx: Out, indices: Saved, dy: In, above: In, beside: In):
    """dx = sum of dy over the windows whose maximum an element is; dx: (P, H, W), dy and indices: (P, H', W')."""
    total, window = cuda.local.array(WINDOW, dx.dtype), cuda.local.array(WINDOW, dx.dtype)
    own, at = cuda.local.array(WINDOW, np.int32), cuda.local.array(WINDOW, np.int32)
    first, length = cuda.local.array(WINDOW, np.uint32), cuda.local.array(WINDOW, np.uint32)
    e, width = place_of_window(), np.uint32(dy.shape[2])
    while e < np.uint32(dx.size):
        total[0] = total[1] = total[2] = total[3] = dx.dtype.type(0)
        done = np.uint32(0)
        while done < np.uint32(WINDOW) and e + done < np.uint32(dx.size):
            p, i, j = plane_row_column(e + done, dx)
            w, stop = find_ranges(first, length, beside, j, done, 1)
            for lane in range(WINDOW):
                place = np.int32(i * np.uint32(dx.shape[2]) + j + np.uint32(lane) - done)
                own[lane] = place if length[lane] > 0 else np.int32(-2)  # which is no window's maximum
            while w < stop:
                for a in range(above[i, 1]):
                    start = np.uint32((p * np.uint32(dy.shape[1]) + np.uint32(above[i, 0] + a)) * width)
                    fetch_row(window, dy, start, width, w)
                    fetch_row(at, indices, start, width, w)
                    for lane in range(WINDOW):
                        for k in range(WINDOW):
                            total[lane] += window[k] if at[k] == own[lane] else dx.dtype.type(0)
                w = np.uint32(w + np.uint32(WINDOW))
            done = np.uint32(done + np.uint32(dx.shape[2]) - j)
        put(flat_part(dx, 0, dx.size), e, total, dx.size)
        e = np.uint32(e + row_of_windows())


@cuda_helper
def better(best, at, lane):
    """The larger of a thread's value and that of another lane, and its place."""
    value, place = cuda.shfl_xor_sync(ALL_LANES, best, lane), cuda.shfl_xor_sync(ALL_LANES, at, lane)
    taken = comes_first(value, place, best, at)
    return value if taken else best, place if taken else at


@cuda_kernel(grid=lambda y, *_: (y.size, WARP))
def plane_maxima(y: Out, indices: Saved, x: In):
    """Largest value of every plane, and its place; x: (P, H W), y and indices: (P,). A warp has a plane."""
    p, i = np.uint32(cuda.blockIdx.x), np.uint32(np.uint32(WINDOW) * np.uint32(cuda.threadIdx.x))
    best, at, window = x.dtype.type(-np.inf), np.int32(-1), cuda.local.array(WINDOW, x.dtype)
    while i < np.uint32(x.shape[1]):
        fetch(window, x[p], i)
        for lane in range(WINDOW):
            place = np.int32(i + np.uint32(lane))
            taken = comes_first(window[lane], place, best, at) & (place < np.int32(x.shape[1]))
            best, at = window[lane] if taken else best, place if taken else at
        i = np.uint32(i + np.uint32(WINDOW * WARP))
    best, at = better(best, at, 16)
    best, at = better(best, at, 8)
    best, at = better(best, at, 4)
    best, at = better(best, at, 2)
    best, at = better(best, at, 1)
    if cuda.threadIdx.x == 0:
        y[p], indices[p] = best, at


@cuda_kernel(grid=covering_windows)
def pool_means(y: Out, x: In, rows: In, columns: In, row_shares: In, shares: In):
    """y = sum of x over the window, times the row's share and the column's; x: (P, H, W), y: (P, H', W')."""
    total, sums = cuda.local.array(WINDOW, x.dtype), cuda.local.array(WINDOW, x.dtype)
    first, length = cuda.local.array(WINDOW, np.uint32), cuda.local.array(WINDOW, np.uint32)
    i, width, window = place_of_window(), np.uint32(x.shape[2]), cuda.local.array(WINDOW, x.dtype)
    while i < np.uint32(y.size):
        total[0] = total[1] = total[2] = total[3] = y.dtype.type(0)
        done = np.uint32(0)
        while done < np.uint32(WINDOW) and i + done < np.uint32(y.size):
            p, h, w = plane_row_column(i + done, y)
            column, stop = find_ranges(first, length, columns, w, done, 1)
            while column < stop:
                sums[0] = sums[1] = sums[2] = sums[3] = x.dtype.type(0)  # of columns: sums of sums round less
                for a in range(rows[h, 1]):
                    start = np.uint32((p * np.uint32(x.shape[1]) + np.uint32(rows[h, 0] + a)) * width)
                    fetch_row(window, x, start, width, column)
                    for k in range(WINDOW):
                        sums[k] += window[k]
                add_in_range(total, sums, column, first, length)
                column = np.uint32(column + np.uint32(WINDOW))
            for lane in range(WINDOW):
                if length[lane] > 0:
                    total[lane] *= row_shares[h] * shares[np.uint32(w + np.uint32(lane) - done)]
            done = np.uint32(done + np.uint32(y.shape[2]) - w)
        put(flat_part(y, 0, y.size), i, total, y.size)
        i = np.uint32(i + row_of_windows())


@device_function
def add_in_range(total, sums, column, first, length):
    """Add to the total of every place the sums of those columns, from ``column`` on, that are in its range."""
    for lane in range(WINDOW):
        if meets(column, first[lane], length[lane]):
            for k in range(WINDOW):
                total[lane] += sums[k] if in_range(column + np.uint32(k), first[lane], length[lane], 1) else total.dtype.type(0)


@cuda_kernel(grid=covering_windows)
def gather_means(dx: Out, dy: In, above: In, beside: In, row_shares: In, shares: In):
    """dx = sum of dy, times the shares, over the windows that hold an element; dx: (P, H, W), dy: (P, H', W')."""
    total, sums = cuda.local.array(WINDOW, dx.dtype), cuda.local.array(WINDOW, dx.dtype)
    first, length = cuda.local.array(WINDOW, np.uint32), cuda.local.array(WINDOW, np.uint32)
    e, width, window = place_of_window(), np.uint32(dy.shape[2]), cuda.local.array(WINDOW, dx.dtype)
    while e < np.uint32(dx.size):
        total[0] = total[1] = total[2] = total[3] = dx.dtype.type(0)
        done = np.uint32(0)
        while done < np.uint32(WINDOW) and e + done < np.uint32(dx.size):
            p, i, j = plane_row_column(e + done, dx)
            w, stop = find_ranges(first, length, beside, j, done, 1)
            while w < stop:
                sums[0] = sums[1] = sums[2] = sums[3] = dx.dtype.type(0)
                for a in range(above[i, 1]):
                    h = np.uint32(above[i, 0] + a)
                    fetch_row(window, dy, np.uint32((p * np.uint32(dy.shape[1]) + h) * width), width, w)
                    for k in range(WINDOW):
                        sums[k] += window[k] * row_shares[h]
                fetch(window, shares, w)
                for k in range(WINDOW):
                    sums[k] *= window[k]
                add_in_range(total, sums, w, first, length)
                w = np.uint32(w + np.uint32(WINDOW))
            done = np.uint32(done + np.uint32(dx.shape[2]) - j)
        put(flat_part(dx, 0, dx.size), e, total, dx.size)
        e = np.uint32(e + row_of_windows())
