"""What a kernel does with each of its arguments, written as annotations; see `numba_nn.core.kernel`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Role:
    """What a kernel does with an array argument."""

    name: str
    writes: bool


Out = Annotated[Any, Role("out", writes=True)]
"""A destination: activation gradients and outputs are overwritten, parameter gradients accumulated."""
Saved = Annotated[Any, Role("saved", writes=True)]
"""Written by a forward, read by its backward."""
Scratch = Annotated[Any, Role("scratch", writes=True)]
"""Contents are dead at return."""
In = Annotated[Any, Role("in", writes=False)]
"""Read only."""


def argument_roles(function: Callable[..., Any]) -> dict[str, Any]:
    """Name of every argument, in order, to its `Role`; to its annotation (int, float, ...) where it is a scalar."""
    hints = typing.get_type_hints(function, include_extras=True)
    roles: dict[str, Any] = {}
    for name in inspect.signature(function).parameters:
        if name not in hints:
            raise TypeError(f"kernel '{function.__qualname__}': argument '{name}' has no role (Out, Saved, Scratch, In, int)")
        metadata = getattr(hints[name], "__metadata__", ())
        roles[name] = next((m for m in metadata if isinstance(m, Role)), hints[name])
    return roles
