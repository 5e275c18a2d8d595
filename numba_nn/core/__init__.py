"""What layers stand on: kernels, buffers, the contract."""
