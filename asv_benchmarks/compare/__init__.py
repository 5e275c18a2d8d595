"""The judge: the same work done by numba_nn and by its peers (PyTorch, onnxruntime, NumPy), checked, then timed in turns.

`make compare` runs it; docs/compare.md says how it measures. From `__main__` a process is started for each setting of the
allocator and each number of threads: `worker`, which goes through the table in `cases`. What comes back is one `record`, which
`report` and `figure` show.
"""
