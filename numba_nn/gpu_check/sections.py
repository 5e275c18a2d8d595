"""All there is to check, in the order in which it runs: a lease of a GPU may end before all of it is done."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np

from numba_nn.gpu_check import correctness, environment, operations, speed
from numba_nn.gpu_check.worker import Section

CONTRACT = "tests.cases"  # in a clone


def contract_cases(module: str | None) -> tuple[str, list[Any]]:
    """What the tests' configurations are, in words, and these; raises `ImportError` for a module that was asked for."""
    try:
        cases = importlib.import_module(module or CONTRACT).CASES
    except ImportError:
        if module:
            raise
        return f"none: there is no {CONTRACT} here, as there is in a clone", []
    return f"{len(cases)} of {module or CONTRACT}", cases


def sections(quick: bool, cases: str | None = None) -> dict[str, Section]:
    """Name to section.

    Parameters
    ----------
    quick : bool
        Small sizes and few repetitions of what is timed.
    cases : str, optional
        Module with configurations of layers, ``CASES``; by default that of the tests, where they are.

    Returns
    -------
    dict of str to Section
        In order: first whether anything works, then what is computed, then how fast.
    """
    said, configurations = contract_cases(cases)

    def contract(dtype: Any) -> dict[str, Section]:
        title = f"contract in {dtype.__name__}"
        return {f"{title}: {case}": Section(correctness.ContractCase(case, dtype).compare) for case in configurations}

    return {
        "environment": Section(lambda: {**environment.versions(), "contract cases": said}),
        "preflight": Section(environment.preflight),
        **{f"correct: {case.name}": Section(case.compare) for case in correctness.CASES},
        **{f"correct: ops, {operation}": Section(operation.compare) for operation in operations.CASES},
        **contract(np.float32),
        **{
            f"sanitizer: {tool}": Section(partial(environment.sanitizer, tool, __name__), environment.SANITIZER_SECONDS + 30)
            for tool in environment.SANITIZERS
        },
        **{f"speed: {name}": Section(section) for name, section in speed.sections(quick).items()},
        **contract(np.float64),
    }
