"""A caller's module while the chains use it: in evaluation mode, each time in the same state; afterwards as it was."""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from llc_dynamics.errors import ConfigError, DataError, printable


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside, what the caller has switched on around the call does not reach the estimate.

    Inference mode would keep autograd out. Autocast would change the precision, and its cache of cast weights does not
    see that chains move them (nor does that of `parametrize.cached`); a loss function that switches autocast on by
    itself keeps it, without the cache. Fused attention for inference gives other values at padded positions than the
    layers that are trained.
    """
    cached, fused = torch.is_autocast_cache_enabled(), torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_uncached_parametrizations())
        stack.callback(torch.set_autocast_cache_enabled, cached)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_autocast_cache_enabled(False)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


@contextmanager
def _uncached_parametrizations() -> Iterator[None]:
    kept, parametrize._cache_enabled = parametrize._cache_enabled, 0
    try:
        yield
    finally:
        parametrize._cache_enabled = kept


@contextmanager
def new_tensors_on(device: torch.device) -> Iterator[None]:
    """Inside, tensors are made on `device` rather than on a default device of another kind that the caller has set.

    The plain default, the CPU, is left: people write models for it that run elsewhere, and the mode costs time.
    """
    default = torch.get_default_device().type
    if default in ("cpu", device.type):
        yield
    else:
        with torch.device(device):
            yield


class BorrowedModule:
    """What the modules of `model` keep beside their parameters: put back before each evaluation, and in the end.

    These are buffers, of which a forward pass sees copies, and plain attributes: caches, counters, metrics, the hidden
    state of a recurrent layer, weights that hooks compute. If an evaluation left something in them, the loss at w and
    that at w* would not be the same function. What they hold in tensors, lists, dicts, sets and deques is kept as well;
    what is inside of other objects is not.

    The mode is set on every module by itself: `model.eval()` may do more, such as merging adapters into weights.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._stack = ExitStack()
        #: Owner of a buffer, its name there, the copy that a forward pass sees, its clean values, its version.
        self._buffers: list[tuple[dict[str, torch.Tensor | None], str, torch.Tensor, torch.Tensor, int]] = []
        #: The same for buffers that stay where they are, with the memory of the copy.
        self._scripted: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]] = []
        #: `__dict__` of each module and what is in it; what puts back the contents of these attributes.
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._contents: list[Callable[[], None]] = []

    def __enter__(self) -> BorrowedModule:
        with self._stack as stack:
            modules = list(self._model.modules())
            copies: dict[int, torch.Tensor] = {}
            own = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
            kept = [(module.__dict__, dict(module.__dict__), module._buffers, dict(module._buffers)) for module in own]
            stack.callback(_give_back, kept)  # of all, before the mode of one of them changes that of another
            for module in modules:
                if isinstance(module, torch.jit.ScriptModule):
                    stack.callback(setattr, module, "training", module.training)
                    self._swap_scripted(module, stack)
                else:
                    self._swap_buffers(module, copies)
                module.training = False
                if isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward:
                    module.padding_idx = None  # it changes no output, but hides the gradient by the padding row
            self._attributes = [(module.__dict__, dict(module.__dict__)) for module in own]
            seen: set[int] = set()
            for _, attributes in self._attributes:
                for name, value in attributes.items():
                    if name in ("_parameters", "_modules"):  # what is assigned in a forward pass
                        found: Iterable[tuple[Callable[[], None], int]] = [(_container_keeper(value), 0)]
                    else:
                        found = () if name in _OF_ALL_MODULES else _contents(value, seen)
                    for restore, size in found:
                        stack.callback(restore)
                        if size <= _LARGEST_COMPARED:
                            self._contents.append(restore)
            if any(isinstance(module, nn.RNNBase) for module in self._model.modules()):
                # those of cuDNN have no gradient in evaluation mode
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._buffers, self._scripted, self._attributes, self._contents = [], [], [], []

    def reset(self) -> None:
        """Undo what a forward pass did, so that no evaluation sees what another one left behind."""
        self._put_back_attributes()
        for row, (owner, name, copy, clean, version) in enumerate(self._buffers):
            if owner.get(name) is not copy:
                owner[name] = copy
            if copy._version != version:
                copy.copy_(clean)
                self._buffers[row] = (owner, name, copy, clean, copy._version)
        for row, (buffer, copy, clean, version) in enumerate(self._scripted):
            if buffer._version != version:
                copy.copy_(clean)
                self._scripted[row] = (buffer, copy, clean, buffer._version)

    def _put_back_attributes(self) -> None:
        for there, kept in self._attributes:
            if len(there) != len(kept) or not all(map(operator.is_, there.values(), kept.values())):
                there.clear()
                there.update(kept)
        for restore in self._contents:
            restore()

    def _swap_buffers(self, module: nn.Module, copies: dict[int, torch.Tensor]) -> None:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                clean = buffer.to(self._device)
                copy = copies.setdefault(id(buffer), clean.clone())
                module._buffers[name] = copy
                self._buffers.append((module._buffers, name, copy, clean, copy._version))

    def _swap_scripted(self, module: nn.Module, stack: ExitStack) -> None:
        """The buffers of a scripted module are out of reach; they get other memory instead."""
        for buffer in module.buffers(recurse=False):
            clean = buffer.data
            copy = clean.to(self._device, copy=True)
            stack.callback(setattr, buffer, "data", clean)
            buffer.data = copy
            self._scripted.append((buffer, copy, clean.to(self._device), buffer._version))


# What every module has: weights, buffers and the mode, which are dealt with by themselves, and hooks.
_OF_ALL_MODULES = frozenset(vars(nn.Module()))
_CONTAINERS = (tuple, list, dict, OrderedDict, defaultdict, set, deque)
# Larger containers (a vocabulary, all the data) are compared at the end only: it would cost more than small models do.
_LARGEST_COMPARED = 1000


def _give_back(kept: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]]) -> None:
    for attributes, own, buffers, own_buffers in kept:
        attributes.clear()
        attributes.update(own)
        buffers.clear()
        buffers.update(own_buffers)


def _contents(value: Any, seen: set[int]) -> Iterator[tuple[Callable[[], None], int]]:
    """What puts back the values of a plain attribute that a forward pass may write into, and how many are compared."""
    if id(value) in seen or isinstance(value, nn.Parameter | nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        if not (value.is_meta or value.is_inference()):
            yield _tensor_keeper(value), 1
    elif type(value) in _CONTAINERS:
        for each in list(value.values() if isinstance(value, dict) else value):
            yield from _contents(each, seen)
        if type(value) is not tuple:
            yield _container_keeper(value), len(value)


def _tensor_keeper(tensor: torch.Tensor) -> Callable[[], None]:
    clean, version = tensor.detach().clone(), tensor._version

    def restore() -> None:
        nonlocal version
        if tensor._version != version:
            tensor.detach().copy_(clean)
            version = tensor._version

    return restore


def _container_keeper(container: Any) -> Callable[[], None]:
    kept, put = container.copy(), container.update if isinstance(container, dict | set) else container.extend

    def items(each: Any) -> Iterator[Any]:
        return itertools.chain(each, each.values()) if isinstance(each, dict) else iter(each)

    def restore() -> None:
        if len(container) != len(kept) or not all(map(operator.is_, items(container), items(kept))):
            container.clear()
            put(kept)

    return restore


def usable_device(device: str | int | torch.device) -> torch.device:
    """Raises `ConfigError` for a device that is unknown or not there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:
        text = printable(str(error).split("\n")[0], 120)
        raise ConfigError(f"device={device!r} cannot be used ({text}); leave it out, or give 'cpu'") from error
    if found.type == "meta":
        raise ConfigError("device='meta' computes nothing; leave it out, or give 'cpu'")
    return found


def require_usable(model: nn.Module) -> None:
    """Raise `DataError` for weights that cannot be moved, with the reason."""
    places: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        problem = None
        if torch.nn.parameter.is_lazy(tensor):
            problem = "is not initialised yet (a lazy module): pass one batch through the model first"
        elif tensor.is_meta:
            problem = "is on the meta device and has no values: load the weights first"
        elif tensor.is_inference():
            problem = "was made under torch.inference_mode(), which no gradient can pass: build the model outside of it"
        elif hasattr(tensor, "device_mesh"):
            problem = "is spread over processes (DTensor): gather the full state dict into a plain model first"
        elif tensor.requires_grad and tensor.layout is not torch.strided:
            problem = f"is stored as {tensor.layout}: make it dense"
        elif tensor.layout is torch.strided and tensor.numel():
            place = tensor.data_ptr(), tensor.shape, tensor.stride()
            if (other := places.setdefault(place, name)) != name and isinstance(tensor, nn.Parameter):
                problem = (
                    f"shares its memory with '{other}', and chains would move one without the other: tie them by "
                    "assigning the parameter itself, not its .data"
                )
        if problem is not None:
            raise DataError(f"'{name}' of the model {problem}")
