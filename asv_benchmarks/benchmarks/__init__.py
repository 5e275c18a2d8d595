"""The suite: one file per family of layers. Importing a file compiles nothing and leaves numba_nn to `setup`."""
