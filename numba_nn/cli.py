"""The command ``numba-nn``: demonstrations, features, and what there is to know about the installation."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from numba_nn import __version__
from numba_nn.config import show_config
from numba_nn.core.errors import NumbaNNError
from numba_nn.demos import digits, features
from numba_nn.demos.autoencoder import Options, run
from numba_nn.demos.console import INTERRUPTED
from numba_nn.demos.session import Settings

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="numba-nn", description="Neural-network layers compiled by Numba.")
    parser.add_argument("--version", action="version", version=f"numba-nn {__version__}")
    parser.set_defaults(command=None, help=parser.print_help)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo = commands.add_parser("demo", help="train a network before your eyes", description="Demonstrations.")
    demo.set_defaults(help=demo.print_help)
    demos = demo.add_subparsers(title="demonstrations", metavar="NAME")
    _add_autoencoder(demos)
    _add_digits(demos)
    _add_features(commands)
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


def _info(given: argparse.Namespace) -> int:
    print(f"{'numba-nn':<20}{__version__}")
    show_config()
    return 0


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
