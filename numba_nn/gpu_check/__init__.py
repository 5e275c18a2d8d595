"""``python -m numba_nn.gpu_check``: one command that tells whether the library works on this machine's GPU, and how fast.

It needs a GPU and numba-cuda 0.30 or newer, nothing else: no network, no test files. PyTorch, where it is installed, is timed
beside it; in a clone, the configurations of the tests are compared, too.

`sections` lists what there is to check, `worker` runs it in a process of its own, and `checks` looks after that process, as a
GPU that went wrong may take it along.
"""
