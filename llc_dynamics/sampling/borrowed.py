"""A caller's module while the chains use it: in evaluation mode, on copies of its buffers; afterwards as it was."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from llc_dynamics.errors import DataError


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside, what the caller has switched on around the call does not reach the estimate.

    Inference mode would keep autograd out. Autocast would change the precision, and its cache of cast weights does not
    see that chains move them; a loss function that switches autocast on by itself keeps it, without the cache. Fused
    attention for inference gives other values at padded positions than the layers that are trained.
    """
    cached, fused = torch.is_autocast_cache_enabled(), torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(torch.set_autocast_cache_enabled, cached)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_autocast_cache_enabled(False)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


class BorrowedModule:
    """Attributes of the modules of `model`, kept to be given back; its parameters are the caller's own business.

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

    def __enter__(self) -> BorrowedModule:
        with self._stack as stack:
            copies: dict[int, torch.Tensor] = {}
            for module in self._model.modules():
                if isinstance(module, torch.jit.ScriptModule):
                    stack.callback(setattr, module, "training", module.training)
                    self._swap_scripted(module, stack)
                else:
                    self._keep_attributes(module, stack)
                    self._swap_buffers(module, copies)
                module.training = False
            if any(isinstance(module, nn.RNNBase) for module in self._model.modules()):
                # those of cuDNN have no gradient in evaluation mode
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._buffers, self._scripted = [], []

    def reset(self) -> None:
        """Undo what a forward pass did to the buffers, so that no chain sees what another one left behind."""
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

    @staticmethod
    def _keep_attributes(module: nn.Module, stack: ExitStack) -> None:
        """Whatever a forward pass assigns to a module is taken back: caches, counters, weights that hooks compute."""
        kept, buffers = dict(module.__dict__), dict(module._buffers)

        def give_back() -> None:
            module.__dict__.clear()
            module.__dict__.update(kept)
            module._buffers.clear()
            module._buffers.update(buffers)

        stack.callback(give_back)

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


def require_usable(model: nn.Module) -> None:
    """Raise `DataError` for weights that cannot be moved, with the reason."""
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
        if problem is not None:
            raise DataError(f"'{name}' of the model {problem}")
