"""Demonstrations: whole programs that stand on the library as a user's would. Run them with ``numba-nn demo``."""
