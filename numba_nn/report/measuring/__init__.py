"""What is measured, and how: a package that stands alone.

It imports nothing of the rest, uses only the library's public names, and looks them up when it runs. So the same text measures
any revision: `worker` is run on the revision's own ``numba_nn``.
"""
