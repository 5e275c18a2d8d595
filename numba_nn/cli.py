"""The command ``numba-nn``: demonstrations, features, the layer report, and what there is to know about the installation."""

from __future__ import annotations

import argparse
import functools
import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from numba_nn import __version__
from numba_nn.config import cache, show_config
from numba_nn.core.errors import ArgumentError, NumbaNNError
from numba_nn.core.layer import Layer
from numba_nn.demos import digits, features
from numba_nn.demos.autoencoder import Options, run
from numba_nn.demos.console import INTERRUPTED
from numba_nn.demos.session import Settings
from numba_nn.report import layers
from numba_nn.warmup import warmup

USER_ERROR = 2  # argparse's own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's by default.

    Returns
    -------
    int
        Exit code: 0, 2 for a user's error (which is told without a traceback), 130 after Ctrl-C.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        given.help()
        return USER_ERROR
    try:
        return given.command(given)
    except (NumbaNNError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Refuses what it does not know by itself, so that a command shows its own usage, not the one above it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return given, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="numba-nn", description="Neural-network layers compiled by Numba.")
    parser.add_argument("--version", action="version", version=f"numba-nn {__version__}")
    parser.set_defaults(command=None, help=parser.print_help)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo = commands.add_parser("demo", help="train a network before your eyes", description="Demonstrations.")
    demo.set_defaults(help=demo.print_help)
    demos = demo.add_subparsers(title="demonstrations", metavar="NAME")
    _add_autoencoder(demos)
    _add_digits(demos)
    _add_features(commands)
    _add_report(commands)
    _add_warmup(commands)
    info = commands.add_parser("info", help="show versions, CPU, threads, cache", description="Versions, CPU, threads, cache.")
    info.set_defaults(command=_info)
    return parser


def _add_autoencoder(demos: Any) -> None:
    text = "Train a convolutional autoencoder on photographs, draw its reconstructions, and measure every layer."
    parser = demos.add_parser("autoencoder", help="reconstruct photographs", description=text)
    default = Settings()
    for option, kind, name, meaning in (
        ("--data", str, "DIR", "folder with the files of CIFAR-10's binary version (default: photographs that come with "
         "scikit-learn and scikit-image)"),
        ("--images", _whole(1), "N", f"training images (default {default.images})"),
        ("--epochs", _whole(1), "N", f"passes over them (default {default.epochs})"),
        ("--batch-size", _whole(1), "N", f"images in a step (default {default.batch_size})"),
        ("--lr", _number(math.inf), "RATE", f"highest learning rate (default {default.lr:g})"),
        ("--momentum", _number(1), "SHARE", f"share of the velocity that a step keeps (default {default.momentum:g})"),
        ("--seed", _whole(0), "N", f"of weights, order and patches (default {default.seed})"),
    ):  # fmt: skip
        parser.add_argument(option, type=kind, metavar=name, help=meaning)
    parser.add_argument("--output", type=Path, default=Path("runs/autoencoder"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument("--no-report", dest="report", action="store_false", help="leave out the performance report")
    parser.set_defaults(command=_autoencoder)


def _autoencoder(given: argparse.Namespace) -> int:
    names = [name for name in vars(Settings()) if getattr(given, name) is not None]
    return run(Options({name: getattr(given, name) for name in names}, given.output, given.resume, given.report))


def _add_digits(demos: Any) -> None:
    text = "Train a small convolutional net on 1,797 handwritten digits; draw how it learned and what it gets wrong."
    parser = demos.add_parser("digits", help="read handwritten digits", description=text)
    _add_options(parser, digits, (
        ("--epochs", _whole(1), "N", "passes over the training images"),
        ("--batch-size", _whole(1), "N", "images in a step"),
        ("--lr", _number(math.inf), "RATE", "first learning rate; it falls along a cosine"),
        ("--seed", _whole(0), "N", "of weights, order, masks and choice of the held-out images"),
        ("--output", Path, "DIR", "folder of what is written"),
    ))  # fmt: skip


def _add_features(commands: Any) -> None:
    text = "Classify images by a support vector machine on the features of a trained autoencoder's encoder."
    parser = commands.add_parser("features", help="classify by an autoencoder's features", description=text)
    _add_options(parser, features, (
        ("--checkpoint", Path, "FILE", "of a run of: numba-nn demo autoencoder"),
        ("--data", str, "DIR", "folder with the files of CIFAR-10's binary version (default: photographs that come with "
         "scikit-learn and scikit-image; the class is which of them an image was cut from)"),
        ("--train", _whole(1), "N", "images to learn from"),
        ("--test", _whole(1), "N", "images to test on"),
        ("--batch-size", _whole(1), "N", "images encoded at once"),
        ("--save", Path, "FILE", "write features and classes to this file, which numpy.load reads"),
    ))  # fmt: skip


def _add_options(parser: argparse.ArgumentParser, module: Any, options: Iterable[tuple[str, Any, str, str]]) -> None:
    """The options of a command, which is a module with ``Options``, that have the defaults, and ``run``."""
    names = vars(module.Options())
    for option, kind, name, meaning in options:
        default = names[option.removeprefix("--").replace("-", "_")]
        shown = meaning if default is None else f"{meaning} (default: %(default)s)"
        parser.add_argument(option, type=kind, default=default, metavar=name, help=shown)
    parser.set_defaults(command=lambda given: module.run(module.Options(**{name: getattr(given, name) for name in names})))


def _add_report(commands: Any) -> None:
    text = "Measure every layer, forward and backward, beside earlier runs, another revision, and the reference's figures."
    parser = commands.add_parser("report", help="measure every layer", description=text)
    parser.add_argument(
        "--against", metavar="REV", help="compare with this git revision, measured now (default: the first run)"
    )
    parser.add_argument("--quick", action="store_true", help="few batches: rough figures")
    parser.add_argument("--only", type=_expression, default="", metavar="REGEX", help="measure the layers that this matches")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the record and the report (default: print it)")
    parser.set_defaults(command=_report)


def _report(given: argparse.Namespace) -> int:
    layers.run(layers.Options(given.against, given.quick, given.only, given.output))
    return 0


def _add_warmup(commands: Any) -> None:
    text = "Compile, or find in the cache, all that a model needs for inputs of a shape, so that its first call does not wait."
    parser = commands.add_parser("warmup", help="compile a model's kernels ahead of time", description=text)
    parser.add_argument("model", metavar="MODULE:NAME", help="what makes the model, as in numba_nn.models:Autoencoder")
    parser.add_argument("shapes", nargs="+", type=_shape, metavar="SHAPE", help="of each input, as in 32x3x32x32")
    parser.add_argument("--inference", action="store_true", help="leave out what only training needs")
    parser.set_defaults(command=_warmup)


def _warmup(given: argparse.Namespace) -> int:
    told = warmup(_make(given.model), *given.shapes, training=not given.inference)
    print(f"{told['compiled']} kernels compiled, {told['found']} found in {cache()['cache']}, in {told['seconds']:.1f} s")
    return 0


def _make(path: str) -> Any:
    """What ``module:name`` gives when it is called without arguments, or is, if it is a model already."""
    module, _, name = path.partition(":")
    sys.path.insert(0, "")  # modules of the folder that the command runs in, as with python -m
    try:
        found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"{path!r} is not module:name of a model, or of what makes one: {error}") from None
    return found() if callable(found) and not isinstance(found, Layer) else found


def _info(given: argparse.Namespace) -> int:
    print(f"{'numba-nn':<20}{__version__}")
    show_config()
    return 0


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"must be a regular expression, got {text!r}: {error}") from None
    return text


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise argparse.ArgumentTypeError(f"must be a shape such as 32x3x32x32, got {text!r}")
    return tuple(map(int, text.split("x")))


def _whole(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isdecimal() and low <= int(text) < 2**63):
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, got {text!r}")
        return int(text)

    return parse


def _number(limit: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < limit:
            below = "" if math.isinf(limit) else f" and below {limit:g}"
            raise argparse.ArgumentTypeError(f"must be a number of at least 0{below}, got {text!r}")
        return value

    return parse
