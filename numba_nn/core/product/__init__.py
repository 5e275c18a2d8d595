"""The matrix product on a CPU, from the top down.

`gemm.py` chooses how a product is computed and cuts it into blocks; `block.py` runs a tile over one of them, `packing.py` lays
operands out as panels for it, `fma_tile.py` is the tile. `dot.py` serves few rows, and `tap_tile.py` is the tile of
convolutions, which reads an image where it lies. For products on a GPU see `numba_nn.core.cuda`.
"""
