"""What runs on a GPU: how a twin of a kernel is compiled and launched, and what twins are made of.

`device.py` is where arrays live, `twin.py` launches, `portable.py` makes a twin of the CPU's body, `ptx.py` is the door to
``numba.cuda``, which nothing here imports before a device array appears. `product.py`, `loaders.py`, `tiles.py`, `slices.py`
and `gemm.py` are matrix products; `planes.py`, `rows.py` and `reduce.py` share planes, rows and sums out among threads.
`narrow.py` and `cast.py` are floats of 16 bits, `feed.py` and `capture.py` numbers and graphs that are sent again and again,
`dlpack.py` arrays of other libraries.
"""
