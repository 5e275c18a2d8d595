"""``numba-nn demo autoencoder``: train a convolutional autoencoder on photographs, draw what it learned, report its speed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba_nn.config import machine
from numba_nn.core.cache import cache_root
from numba_nn.core.call import Array
from numba_nn.core.errors import ArgumentError
from numba_nn.data import load_cifar10, photograph_patches
from numba_nn.demos import figures
from numba_nn.demos.console import INTERRUPTED, PlainConsole, open_console, pictures
from numba_nn.demos.measurements import HEADERS, measure, write_report
from numba_nn.demos.session import Session, Settings, saved_settings
from numba_nn.io import load_checkpoint
from numba_nn.train.interrupt import Interrupt

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    settings : dict
        Fields of `Settings` that were given; others have their defaults, or the saved run's.
    output : Path
        Folder of everything that is written.
    resume : bool
        Go on with the run in ``output``.
    report : bool
        Measure and write the performance report.
    """

    settings: dict[str, Any]
    output: Path
    resume: bool = False
    report: bool = True


def run(options: Options) -> int:
    """Run the demonstration.

    Parameters
    ----------
    options : Options
        What is asked for.

    Returns
    -------
    int
        The program's exit code: 0, or 130 after Ctrl-C.

    Raises
    ------
    NumbaNNError, OSError, ImportError
        For the user: something given is wrong, or missing.
    """
    console = open_console()
    checkpoint = options.output / CHECKPOINT
    arrays, metadata = _saved(checkpoint) if options.resume else ({}, {})
    settings = saved_settings(checkpoint, metadata, options.settings) if options.resume else Settings(**options.settings)
    console.line("A convolutional autoencoder learns to pass photographs through 128 x 8 x 8 features")
    train, validation = _images(settings)
    session = Session(settings, train, validation)
    if options.resume:
        session.restore(arrays, metadata)
    options.output.mkdir(parents=True, exist_ok=True)
    _introduce(console, session, options)
    with console.waiting("compiling kernels (first run only, about half a minute)"):
        session.compile_kernels()
    if not _train(console, session, checkpoint):
        done = f"epoch {session.epoch + 1}, step {session.batch} of {len(session.batches)}"
        console.line(f"interrupted; saved {done} to {checkpoint}")
        console.line(f"to go on: numba-nn demo autoencoder --resume --output {options.output}")
        return INTERRUPTED
    _draw(console, session, options.output)
    if options.report:
        with console.waiting("measuring every layer, forward and backward"):
            report = measure(session.model, *train.shape[2:])
        write_report(options.output, report, session)
        console.table(f"Speed on {report.machine['cpu']}, {report.machine['threads']} threads", HEADERS, report.rows())
        console.line(f"every layer, its share of the machine's peak, and its memory: {options.output / 'report.md'}")
    return 0


def _saved(checkpoint: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    if not checkpoint.exists():
        raise ArgumentError(f"--resume: there is no {checkpoint}; leave --resume out, or name the run's --output")
    return load_checkpoint(checkpoint)


def _images(settings: Settings) -> tuple[Array, Array]:
    """Training and validation images; the latter an eighth as many, 10 to 512."""
    held_out = max(figures.COLUMNS, min(512, settings.images // 8))
    if settings.data is None:
        return photograph_patches(settings.images, held_out, seed=settings.seed)
    train, _ = load_cifar10(settings.data, "train", limit=settings.images)
    validation, _ = load_cifar10(settings.data, "test", limit=held_out)
    return train, validation


def _introduce(console: PlainConsole, session: Session, options: Options) -> None:
    """Say what is about to be done."""
    settings, here = session.settings, machine()
    source = "cut from nine photographs" if settings.data is None else "of CIFAR-10"
    parameters = sum(p.value.size for p in session.model.parameters())
    gflop = session.model.forward_flops((1, *session.train_images.shape[1:])) / 1e9
    height, width = session.train_images.shape[2:]
    console.facts({
        "data": f"{len(session.train_images):,} images of {height} x {width} pixels {source}; "
        f"{len(session.validation_images):,} others for validation",
        "model": f"5 convolutions, {parameters:,} parameters, {gflop:.2f} GFLOP an image (forward)",
        "training": f"{settings.epochs} epochs of {len(session.batches)} steps, batch {settings.batch_size}, "
        f"SGD with lr {settings.lr:g}, momentum {settings.momentum:g}, seed {settings.seed}",
        "machine": f"{here['cpu']}, {here['threads']} threads ({here['threading layer']})",
        "output": str(options.output),
        "kernels": f"kept in {cache_root()}",
    })  # fmt: skip
    if session.epoch == settings.epochs:
        console.line("this run is complete; its pictures and report are made anew (a higher --epochs trains on)")
    elif options.resume:
        console.line(f"going on after epoch {session.epoch}, step {session.batch}")
    elif (options.output / CHECKPOINT).exists():
        console.line(f"an earlier run in {options.output} will be overwritten (--resume would go on with it)")


def _train(console: PlainConsole, session: Session, checkpoint: Path) -> bool:
    """Train with a bar; False if interrupted."""
    steps, epochs = session.steps, session.settings.epochs
    with Interrupt() as interrupt, console.progress(steps, len(session.losses)) as advance:

        def on_step(loss: float, images: int) -> None:
            advance(f"epoch {session.epoch + 1}/{epochs}", loss, images)

        def on_epoch() -> None:
            recent = session.losses[-len(session.batches) :]
            speed = session.images_seen / session.seconds
            console.line(
                f"epoch {session.epoch}/{epochs}  training loss {sum(recent) / len(recent):.5f}  "
                f"validation loss {session.validation_losses[-1]:.5f}  {speed:.0f} images/s"
            )

        return session.run(checkpoint, lambda: interrupt.requested, on_step, on_epoch) and not interrupt.requested


def _draw(console: PlainConsole, session: Session, folder: Path) -> None:
    """Write the pictures, or say what they need."""
    originals = session.validation_images[: figures.COLUMNS]
    results = session.reconstruct(originals)
    history = session.losses, session.validation_losses
    paths = [folder / f"{name}.png" for name in ("reconstructions", "loss", "overview")]
    with pictures(console, *paths):
        figures.save_reconstructions(paths[0], originals, results)
        figures.save_loss(paths[1], *history)
        figures.save_overview(paths[2], originals, results, *history)
