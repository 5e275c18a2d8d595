"""What the sections found, in two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numba_nn.tables import markdown_table

COLUMNS = ("us", "PyTorch us", "PyTorch's time / ours", "share of copy bandwidth", "TFLOP/s", "images/s", "GB/s")
Results = Mapping[str, Mapping[str, Any]]


def kinds_table(results: Results) -> str:
    """A row for every kind of section: how many passed, failed and were skipped, the worst difference, the time."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for name, found in results.items():
        kinds.setdefault(name.partition(":")[0], []).append(found)
    rows = []
    for kind, those in kinds.items():
        failed, skipped = (sum(bool(found.get(how)) for found in those) for how in ("failed", "skipped"))
        differences = [float(d) for found in those for d in found.get("differences", {}).values()]
        worst = f"{max(differences):.1e}" if differences else ""
        counts = len(those) - failed - skipped, failed, skipped
        rows.append([kind, *map(str, counts), worst, f"{sum(found.get('seconds', 0) for found in those):.0f}"])
    return markdown_table(["sections", "passed", "failed", "skipped", "largest difference", "seconds"], rows)


def speed_table(results: Results) -> str:
    """A row for everything that was timed, and what was measured of it; empty if nothing was."""
    rows = []
    for name, found in results.items():
        for more in ("", ", with backward"):
            cells = [str(found.get(column + more, "")) for column in COLUMNS]
            if name.startswith("speed: ") and any(cells):
                rows.append([name.removeprefix("speed: ") + more, *cells])
    return markdown_table(["", *COLUMNS], rows) if rows else ""


def summary(results: Results) -> str:
    """Both tables, what failed, and whether PyTorch was timed beside."""
    parts = [kinds_table(results), timed := speed_table(results)]
    if timed and not any("PyTorch us" in found for found in results.values()):
        parts.append("PyTorch missing, or without this GPU: nothing was timed beside it.")
    failures = {name: found["failed"] for name, found in results.items() if found.get("failed")}
    counts = f"{len(results) - len(failures)} of {len(results)} sections did not fail"
    return "\n\n".join([*filter(None, parts), "\n".join([counts, *(f"  FAILED {n}: {how}" for n, how in failures.items())])])
