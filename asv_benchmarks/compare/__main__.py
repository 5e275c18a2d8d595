"""``python -m asv_benchmarks.compare``: measure, print the table, and write it as Markdown, JSON and a picture."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .children import ALLOCATORS, measure
from .figure import save_figure
from .record import Record, save
from .report import render, summary

NAME = "compare_results"


def main() -> int:
    """Run; 1 if anything failed, or computed something else than its peer."""
    options = _parser().parse_args()
    options.output.mkdir(parents=True, exist_ok=True)  # before minutes of work
    record = measure(options.threads, options.allocators, options.only, options.quick)
    if not record.rows and not record.failures:
        print(f"compare: no case matches {options.only!r}", file=sys.stderr)
        return 1
    write(record, options.output, options.fastest)
    return 1 if record.failures else 0


def write(record: Record, folder: Path, fastest: bool = False) -> None:
    """Print the report, and write all three files."""
    text = render(record, fastest)
    print(text)
    print(summary(record, fastest))
    save(record, folder / f"{NAME}.json")
    (folder / f"{NAME}.md").write_text(text, encoding="utf-8")
    if record.rows:
        save_figure(record, folder / f"{NAME}.png", fastest)
    print(f"\n{folder / NAME}.md, .json and .png are written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare", description="numba_nn beside PyTorch, onnxruntime and NumPy")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases in whose 'name, pass' it is found, in any case")
    parser.add_argument("--quick", action="store_true", help="few rounds, none of the largest cases")
    counts = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--threads", type=_numbers, default=counts, metavar="N,N", help="default: 1, and all")
    parser.add_argument("--allocators", type=_allocators, default=list(ALLOCATORS), metavar="NAME,NAME",
                        help="glibc's allocator: installed, kept (told to keep memory); default: both")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--fastest", action="store_true", help="show the fastest rounds, not the medians: for a busy machine")
    return parser


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _allocators(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(ALLOCATORS):
        raise argparse.ArgumentTypeError(f"one or more of {', '.join(ALLOCATORS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
