"""The suite: one file per family of layers. Importing a file compiles nothing and imports neither numba nor numba_nn."""
