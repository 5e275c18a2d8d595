"""`Module`: the tree of layers and parameters that a model is."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from numba_nn.core.carry import CarriedStream, arrived, departing
from numba_nn.core.checks import check_flag, check_keeps_gradients
from numba_nn.core.device import CPU, Device, as_device, as_stream, device_of
from numba_nn.core.errors import ArgumentError, DestinationError, StateDictError
from numba_nn.core.parameter import Parameter
from numba_nn.core.state import load_arrays
from numba_nn.core.weights import load_weights, save_weights


class Module:
    """Attributes that are modules or parameters, found by name.

    ``copy.deepcopy`` gives an independent model on the same device and stream. A pickle holds the numbers, and gives a model
    on the device that this one lives on, and CUDA's default stream; it raises `DeviceError` on a machine that lacks the
    device. What shall be loaded anywhere is saved by `save`, or moved by ``to("cpu")`` before.

    Attributes
    ----------
    training : bool
        Whether forward keeps what backward needs; set by `train` and `eval`.
    device : Device
        Where its arrays live; set by `to`.
    stream : object or None
        On a GPU, the stream of ``numba.cuda`` that its work goes to; None for that of whoever calls. Set by `to`.
    """

    device: Device = CPU
    stream: Any = None
    buffer_names: ClassVar[tuple[str, ...]] = ()
    """Attributes that are state without being learned, such as running statistics: arrays, or None."""

    def __init__(self) -> None:
        self.training = True

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a parameter is replaced by a `Parameter` or None only, and has to come after `__init__`."""
        own = vars(self)
        if isinstance(own.get(name), Parameter) and value is not None and not isinstance(value, Parameter):
            how = f"layer.{name}.value[...] = a writes an array into it"
            raise ArgumentError(f"{self}: {name} must stay a Parameter, or None, got {type(value).__name__}; {how}")
        if isinstance(value, (Parameter, Module)) and "training" not in own:
            raise ArgumentError(f"{type(self).__name__}: call super().__init__() before {name} is set")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**departing(vars(self), self.stream), "stream": CarriedStream(self.stream)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(arrived(state))

    def children(self) -> Mapping[str, Module]:
        """Modules directly inside this one, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Module)}

    def named_children(self) -> Iterable[tuple[str, Module]]:
        """Name and module of those directly inside this one."""
        return self.children().items()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Name and module, this one and all inside it; one with several places appears under each of its names."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Call a function with every module inside this one, for each of its places, inner ones first, then with this one."""
        for child in self.children().values():
            child.apply(function)
        function(self)
        return self

    def modules(self) -> Iterator[Module]:
        """This module, all modules inside it, and what stands in for some of them, each once."""
        seen: dict[int, Module] = {}
        pending: list[Module] = [self]
        while pending:
            module = pending.pop()
            if id(module) not in seen:
                seen[id(module)] = module
                pending.extend(reversed([*module.children().values(), *module._stand_ins()]))
        return iter(seen.values())

    def _stand_ins(self) -> Iterable[Module]:
        """Modules that run in place of children, whose parameters they use; they have no names."""
        return ()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Name and parameter, in the order of construction; a shared parameter appears under each of its names."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children().items():
            yield from child.named_parameters(f"{prefix}{name}.")

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and array of state that is not learned, such as running statistics."""
        learned = {name for name, _ in self.named_parameters()}
        dotted = f"{prefix}." if prefix else ""
        return ((dotted + name, array) for name, array in self.named_arrays() if name not in learned)

    def buffers(self) -> list[NDArray[Any]]:
        """Every array of state that is not learned, each once."""
        return list({id(array): array for _, array in self.named_buffers()}.values())

    def named_arrays(self, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and array of all state: of every module its parameters, its buffers, then the modules inside."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.value
        for name in self.buffer_names:
            if getattr(self, name) is not None:
                yield prefix + name, getattr(self, name)
        for name, child in self.children().items():
            yield from child.named_arrays(f"{prefix}{name}.")

    def _check_apart(self, what: str, out: Any) -> None:
        """Raise `DestinationError` if an array that is to be written lies in a parameter, a gradient or a buffer in here."""
        gradients = ((f"{name}.grad", parameter.grad) for name, parameter in self.named_parameters())
        for name, array in itertools.chain(self.named_arrays(), gradients):
            if self.device.overlap(out, array):
                raise DestinationError(f"{self}: {what} overlaps {name}; pass an array with memory of its own")

    def parameters(self) -> list[Parameter]:
        """Every parameter, each once."""
        return list({id(p): p for _, p in self.named_parameters()}.values())

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Have backward compute the gradients of all parameters, and optimisers change them, or freeze them (False)."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Clear the gradients of all parameters.

        Parameters
        ----------
        set_to_none : bool, optional
            False, as gradients keep their arrays.

        Raises
        ------
        ArgumentError
            For True; nothing was cleared.
        """
        check_keeps_gradients(self, set_to_none)
        for parameter in self.parameters():
            parameter.zero_grad()

    def train(self, mode: bool = True) -> Self:
        """Keep what backward needs, in this module and all inside it; parameters can be written to. False is `eval`."""
        mode = check_flag(self, "mode", mode)
        for module in self.modules():
            module.training = mode
        if not mode:
            self._lock(self.parameters())
            return self
        for parameter in self.parameters():
            parameter.unlock()
        return self

    def eval(self) -> Self:
        """Inference: keep nothing.

        The values of parameters become read-only until `train`, or an optimiser's step, so that what kernels read of them is
        packed once. `load_state_dict` still loads them; to edit one by hand call `train`, write, and call `eval` again. Views
        of a value that were taken before stay writable, as NumPy's do: what is written through them is not seen.
        """
        return self.train(False)

    def to(self, device: str | Device, stream: Any = None) -> Self:
        """Move parameters, running statistics and buffers to another device; forwards that are kept are forgotten.

        Handles made by `share` before no longer share running statistics afterwards: make them anew.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            Where to. An optimiser made before follows at its next step.
        stream : stream or int, optional
            On "cuda", where all work goes that is done for this model: of its calls, of optimisers and clipping of its
            parameters, of a `TrainStep`; a loss has a ``to`` of its own. A stream of ``numba.cuda``, or the handle of another
            library's (``torch.cuda.Stream.cuda_stream``, ``cupy.cuda.Stream.ptr``), which has to live as long as the model uses
            it. By default CUDA's default stream.

        Returns
        -------
        Module
            The module itself, all inside it moved too.

        Raises
        ------
        DeviceError
            If this machine lacks the device; nothing moved.
        OutOfMemoryError
            If the GPU has no room, which says how many bytes were asked for and free; all is where it was, but for forwards
            that were kept.
        ArgumentError
            For another name, or a stream that is none or comes with "cpu"; nothing moved.

        Notes
        -----
        Calls wait for nothing but what they give to the host as numbers: a loss as a float, a state dict, a move; and in an
        `Embedding` for the check of indices. Copies from and to the host that they make go to the stream, too, in order with
        the rest. Arrays that are passed must be ready in the order of the stream, and are written in it: what comes by DLPack
        is, by its producer; CUDA's default stream is in order with the streams of ``numba.cuda.stream()``, both ways, but not
        with PyTorch's or other non-blocking ones, for which ``stream.synchronize()`` or an event serves. The simulated GPU has
        shown where work goes, no real one yet.
        """
        target = as_device(self, device)
        stream = as_stream(self, target, stream, self.stream)
        for module in self.modules():
            module._check_move(target)
        moved: list[tuple[Module, Device, Any]] = []
        try:
            for module in self.modules():
                if module.device is not target or module.stream is not stream:
                    moved.append((module, module.device, module.stream))
                    module._move(target, stream)
        except BaseException as error:
            for module, *before in reversed(moved):
                try:
                    module._move(*before)
                except Exception as another:  # after an error that stays, the driver gives nothing back
                    error.add_note(f"{type(module).__name__} could not move back: {another}")
            raise
        return self

    def _check_move(self, device: Device) -> None:
        """Raise unless the module can run on a device; nothing has moved then."""

    def _move(self, device: Device, stream: Any) -> None:
        """Move what belongs to this module itself."""
        with self.device.on(self.stream):
            for value in vars(self).values():
                if isinstance(value, Parameter):
                    value.move(device, stream)
            if device is not self.device:
                found = {name: getattr(self, name) for name in self.buffer_names}
                copies = {n: device.from_host(self.device.to_host(a)) for n, a in found.items() if a is not None}
                vars(self).update(copies)  # all or none
            for name in self.buffer_names:
                if (kept := getattr(self, name)) is not None:
                    device.bind(kept, stream)
            self.device.wait()
        self.device, self.stream = device, stream
        self._derive()

    def _derive(self) -> None:
        """Make the arrays that follow from parameters, on their device; called by the constructor and after every move."""

    def _lock(self, parameters: Iterable[Parameter]) -> None:
        for parameter in parameters:
            parameter.lock()
        with self.device.on(self.stream):
            for module in self.modules():
                module._pack()

    def _pack(self) -> None:
        """Pack what later calls read of locked parameters."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of all parameters and running statistics, as NumPy arrays, under PyTorch's names and in its layouts."""
        with self.device.on(self.stream):
            return {name: device_of(array).to_host(array) for name, array in self.named_arrays()}

    def load_state_dict(self, arrays: Mapping[str, NDArray[Any]], strict: bool = True) -> Self:
        """Load parameters; all or nothing.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            As `state_dict` gives it.
        strict : bool, optional
            Refuse missing and unexpected names; otherwise they are passed over.

        Raises
        ------
        StateDictError
            Listing every missing, unexpected and mis-shaped name; nothing was loaded.
        """
        strict = check_flag(self, "strict", strict)
        locked = [parameter for parameter in self.parameters() if parameter.locked]
        for parameter in locked:
            parameter.unlock()
        try:
            with self.device.on(self.stream):
                load_arrays(self, dict(self.named_arrays()), arrays, strict)
        finally:
            self._lock(locked)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state dict to a file, all or nothing: the previous file stays until the new one is whole on the disk.

        Parameters
        ----------
        path : path
            The file, ending in ``.npz`` (NumPy's format, without pickled objects) or ``.safetensors`` (needs the package
            safetensors).

        Raises
        ------
        ArgumentError
            If the path ends in anything else.
        ImportError
            If safetensors is needed and not installed.
        OSError
            If the file cannot be written; the previous one is untouched.
        """
        save_weights(path, self.state_dict())

    def load(self, path: str | os.PathLike[str], strict: bool = True) -> Self:
        """Load a file that `save` wrote, or PyTorch through safetensors; all or nothing.

        Parameters
        ----------
        path : path
            The file, ending in ``.npz`` or ``.safetensors``.
        strict : bool, optional
            As `load_state_dict` takes it.

        Returns
        -------
        Module
            The module itself.

        Raises
        ------
        CheckpointError
            If the file is truncated, damaged or of another kind.
        StateDictError
            Listing every missing, unexpected and mis-shaped name; nothing was loaded.
        ArgumentError, ImportError
            As `save` does.
        OSError
            If the file cannot be opened.
        """
        try:
            return self.load_state_dict(load_weights(path), strict)
        except StateDictError as error:
            raise StateDictError(f"{os.fspath(path)}: {error}") from error

    def share(self) -> Self:
        """A second handle on the same parameters and running statistics, with buffers of its own.

        For a second thread, or for a second place in a program that runs between a forward and its backward. Gradients are
        shared as well: only one thread may train.

        Returns
        -------
        Module
            A model of the same structure, in the same mode, on the same device and stream.
        """
        parameters = self.parameters()
        guards = [p.guard for p in parameters if p.guard is not None]
        shared = [*parameters, *guards, *(array for _, array in self.named_arrays())]
        return copy.deepcopy(self, {id(a): a for a in shared})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arguments()})"

    def _arguments(self) -> str:
        """Constructor arguments, for the repr."""
        return ""
