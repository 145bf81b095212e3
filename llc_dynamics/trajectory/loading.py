"""Which tensor of a checkpoint goes where in a model: wrapped names, ties, wider formats, other versions' buffers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llc_dynamics.errors import DataError, ManifestMismatchError
from llc_dynamics.trajectory.state import StateEntry, StateLayout, bare, plain_names

if TYPE_CHECKING:
    import torch

#: What compilation, sharding, checkpointing of activations, data parallelism and averaging put into names.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
#: Names of a second copy of the model, which is not the one that was trained.
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?)(?![a-z])")
EXTRA_STATE = "_extra_state"
_ATTENTION = ("attn.bias", "attention.bias")
_CONSTANTS = (
    *_ATTENTION,
    "masked_bias",
    "inv_freq",
    "cos_cached",
    "sin_cached",
    "position_ids",
    "token_type_ids",
    "relative_position_index",
    "num_batches_tracked",
    "n_averaged",
    EXTRA_STATE,
)


def is_constant(name: str, shape: Iterable[int]) -> bool:
    """Whether this is by its name a buffer that a model makes from its configuration (a causal mask), or a counter.

    Models of one version of a library save them, those of another do not; the weights are the same.
    """
    # the mask of an attention has several dimensions, the bias of a layer of that name has one
    return name.endswith(_CONSTANTS) and not (name.endswith(_ATTENTION) and len(tuple(shape)) == 1)


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names -> the same without what wrappers put into them; "module." goes only where all names begin with it."""
    plain = {name: _drop(name, _WRAPPERS[:-1]) for name in names}
    parallel = [name for name in plain if name != "n_averaged"]
    while parallel and all(plain[name].startswith("module.") for name in parallel):
        plain |= {name: plain[name].removeprefix("module.") for name in parallel}
    return plain if len(set(plain.values())) == len(plain) else {name: name for name in plain}


@dataclass(frozen=True)
class Fit:
    """Where the tensors of a model come from in a checkpoint.

    Attributes
    ----------
    sources : names in the checkpoint by names of the model, in the model's order.
    left_out : names in the checkpoint that the model has nothing for.
    tied : pairs of names in the checkpoint that are one tensor in the model.
    """

    model: torch.nn.Module
    sources: dict[str, str]
    left_out: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]
    where: str

    @classmethod
    def of(
        cls, model: torch.nn.Module, stored: StateLayout, where: str, *, whose: str, advice: str, foreign: bool = False
    ) -> Fit:
        """Find the place of each tensor by the model's names, with or without wrappers and a prefix that all share.

        A name that the checkpoint lacks is filled by one that the model ties to it. A floating-point format may become
        wider, never narrower. A constant that the checkpoint lacks, or has in another form, stays the model's own.
        What the model has nothing for is left out if its function does not depend on it: constants, whole numbers,
        buffers that the model does not save.

        Parameters
        ----------
        where, whose, advice : messages are "{where}: 'w' is in {whose}, but not in the model; {advice}".
        foreign : the model decides what belongs to it: all outside its own modules is left out as well (a criterion,
            metrics, averaged copies).

        Raises
        ------
        ManifestMismatchError
            The checkpoint lacks a tensor of the model, has it in another shape or in a wider format, has more than the
            model, or has the model several times.
        DataError
            A module of the model has no shapes yet, or keeps other things than tensors.
        """
        own = _tensors(model)
        entries = {entry.name: entry for entry in stored.entries}
        ties = _ties(own)
        view, sources = _located(own, entries, ties, _names_of_today(bare(model), entries), f"{where}: {whose}")
        for name, tensor in own.items():
            if name in sources and _is_own_constant(name, tensor):
                entry = entries[sources[name]]
                if entry.dtype != _dtype(tensor) or entry.shape != tuple(tensor.shape):
                    del sources[name]
        used = set(sources.values())
        unused = [entry for name, entry in entries.items() if name not in used]
        buffers = {_drop(name, _WRAPPERS) for name, _ in bare(model).named_buffers()}

        def needless(entry: StateEntry) -> bool:
            place = view.to_model(_drop(entry.name, _WRAPPERS))
            real = entry.dtype.startswith(("float", "bfloat", "complex"))
            constant = entry.kind == "buffer" and (not real or is_constant(entry.name, entry.shape))
            return constant or place in buffers or (foreign and _outside(place, own))

        given = [_entry(name, _widened(entries[source].dtype, own[name]), entries[source].shape)
                 for name, source in sources.items()]  # fmt: skip
        given += [_entry(entry.name, entry.dtype, entry.shape) for entry in unused if not needless(entry)]
        wanted = [
            _entry(name, _dtype(tensor), tensor.shape)
            for name, tensor in own.items()
            if name in sources or not _is_own_constant(name, tensor)
        ]
        if problem := StateLayout(tuple(given)).difference(StateLayout(tuple(wanted)), whose):
            raise ManifestMismatchError(f"{where}: {problem}; {advice}")
        placed = [list(dict.fromkeys(sources[name] for name in names if name in sources)) for names in ties]
        tied = tuple((names[0], other) for names in placed for other in names[1:])
        return cls(model, sources, tuple(entry.name for entry in unused), tied, where)

    def arranged(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors of a checkpoint under the model's names.

        Raises `ManifestMismatchError` if two that the model ties have different values.
        """
        for first, other in self.tied:
            if not _equal(tensors[first], tensors[other]):
                raise ManifestMismatchError(
                    f"{self.where}: '{first}' and '{other}' are one tensor in the model, but have different values; "
                    "give a model that does not tie them"
                )
        return {name: tensors[source] for name, source in self.sources.items()}

    def with_constants(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same with what the checkpoint lacks, from the model: all of its state."""
        given = self.arranged(tensors)
        return {name: given.get(name, tensor.detach()) for name, tensor in _tensors(self.model).items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy the tensors of a checkpoint into the model, on whatever device it is."""
        import torch

        own = bare(self.model)
        if any(tensor.is_meta for tensor in own.parameters()):
            raise DataError(f"{self.where}: the model is on the meta device and has no memory; build it on another")
        given = self.arranged(tensors)
        state = {name: given[plain] for name, plain in plain_names(own, own.state_dict()).items() if plain in given}
        try:
            with torch.no_grad():
                own.load_state_dict(state, strict=False)
        except RuntimeError as error:
            reason = str(error).split("\n")[-1].strip()
            raise ManifestMismatchError(f"{self.where}: the model does not take these weights ({reason})") from error


@dataclass(frozen=True)
class _View:
    """How names of a model are made into those of a checkpoint: `removed` goes from their beginning, `added` comes."""

    added: str = ""
    removed: str = ""

    def to_checkpoint(self, name: str) -> str:
        return self.added + name.removeprefix(self.removed)

    def to_model(self, name: str) -> str | None:
        """None for a name that is not behind the prefix."""
        return self.removed + name.removeprefix(self.added) if name.startswith(self.added) else None


def _located(
    own: Mapping[str, torch.Tensor],
    entries: Iterable[str],
    ties: list[list[str]],
    today: Mapping[str, str],
    whose: str,
) -> tuple[_View, dict[str, str]]:
    """The view under which the checkpoint has most of the model, and the names that it finds."""
    plain: dict[str, list[str]] = {}
    for name in entries:
        for known in {_drop(name, _WRAPPERS), _drop(today.get(name, name), _WRAPPERS)}:
            plain.setdefault(known, []).append(name)

    def found_by(view: _View) -> dict[str, str]:
        found: dict[str, str] = {}
        used = set()
        for name in own:
            hits = plain.get(view.to_checkpoint(_drop(name, _WRAPPERS)), [])
            exact = view.to_checkpoint(name)
            source = exact if exact in entries else hits[0] if len(hits) == 1 else None
            if source is not None and source not in used:
                found[name] = source
                used.add(source)
        for names in ties:
            first = next((found[name] for name in names if name in found), None)
            found |= {name: found.get(name, first) for name in names if first is not None}
        return {name: found[name] for name in own if name in found}

    def missing(found: Mapping[str, str]) -> int:
        return sum(name not in found and not _is_own_constant(name, tensor) for name, tensor in own.items())

    best = _View(), found_by(_View())
    if not missing(best[1]):
        return best
    short = [_drop(name, _WRAPPERS) for name in own]
    views = [_View(added=prefix) for prefix in _prefixes(plain, set(short))]
    views += [_View(removed=prefix) for prefix in _prefixes(short, plain.keys())]
    tried = [best, *((view, found_by(view)) for view in views)]
    whole = [(view, found) for view, found in tried if not missing(found)]
    whole = [each for each in whole if not _AVERAGED.search(each[0].added)] or whole
    if any(found != whole[0][1] for _, found in whole):
        shown = [view.added or view.removed for view, _ in whole]
        raise ManifestMismatchError(
            f"{whose} has the names of the model several times, behind {' and '.join(shown[:3])}; say which when the "
            f"checkpoints are imported, as in --strip-prefix {shown[0]}"
        )
    return whole[0] if whole else min(tried, key=lambda each: missing(each[1]))


def _names_of_today(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Names in files of transformers (of any version) -> those that a model of it has, `embed_out` -> `lm_head`."""
    if not hasattr(model, "save_pretrained"):
        return {}
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, apply_renamings

        changes = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
    except (ImportError, AttributeError):
        # before its version 5, files have the names of the model
        return {}
    return {name: apply_renamings(name, changes) for name in names}


def _prefixes(longer: Iterable[str], shorter: Iterable[str]) -> list[str]:
    """What some of the longer names have before one of the shorter ones."""
    found: dict[str, None] = {}
    ends = set(shorter)
    for name in longer:
        parts = name.split(".")
        for position in range(1, len(parts)):
            if ".".join(parts[position:]) in ends:
                found[".".join(parts[:position]) + "."] = None
    return list(found)


def _outside(place: str | None, own: Iterable[str]) -> bool:
    """Whether a name belongs to none of the modules that the model has."""
    if place is None:
        return True
    children = {name.split(".")[0] for name in own}
    first, _, rest = place.partition(".")
    return bool(rest) and first not in children and not (first.isdigit() and any(each.isdigit() for each in children))


def _entry(name: str, dtype: str, shape: Iterable[int]) -> StateEntry:
    return StateEntry(name, "", dtype, tuple(shape), 0)


def _widened(dtype: str, tensor: torch.Tensor) -> str:
    """The format of the tensor if numbers of the stored one go into it without a loss, else the stored one."""
    import torch

    stored, wanted = getattr(torch, dtype), tensor.dtype
    # one byte: float8, which is no number without its scale
    if not stored.is_floating_point or min(stored.itemsize, wanted.itemsize) == 1:
        return dtype
    return _dtype(tensor) if torch.promote_types(stored, wanted) == wanted else dtype


def _is_own_constant(name: str, tensor: torch.Tensor) -> bool:
    """Whether the model makes this tensor itself, so that it needs none."""
    import torch

    return not isinstance(tensor, torch.nn.Parameter) and is_constant(name, tensor.shape)


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's own tensors under plain names; extra states that are no tensors are left where they are."""
    import torch

    own = bare(model)
    state = dict(own.state_dict())
    # the tensors themselves, by which ties are known
    state |= {name: value for name, value in own.named_parameters(remove_duplicate=False) if name in state}
    state |= {name: value for name, value in own.named_buffers(remove_duplicate=False) if name in state}
    plain = plain_names(own, state)
    for name, value in state.items():
        if torch.nn.parameter.is_lazy(value):
            raise DataError(f"'{name}' of the model has no shape yet; run the model on a batch first")
        if not isinstance(value, torch.Tensor) and not name.endswith(EXTRA_STATE):
            raise DataError(
                f"'{name}' of the model is a {type(value).__name__}, not a tensor: quantised modules cannot be sampled"
            )
    return {plain[name]: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _ties(own: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Groups of names of one tensor."""
    import torch

    groups: dict[object, list[str]] = {}
    for name, tensor in own.items():
        shared = tensor.layout == torch.strided and not tensor.is_meta and tensor.numel() > 0
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if shared else id(tensor)
        groups.setdefault(place, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _equal(first: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether all numbers are the same; NaN is the same as NaN."""
    return bool(((first == other) | ((first != first) & (other != other))).all())


def _drop(name: str, segments: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in segments) or name


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
