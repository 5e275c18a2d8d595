"""The layers: one file, or package, for each family."""
