"""``python -m numba_nn.gpu_check``: one command that tells whether the library works on this machine's GPU, and how fast.

It needs a GPU and numba-cuda, nothing else: no network, no test files. PyTorch, where it is installed, is timed beside it.
"""
