"""Checkpoint folders as other libraries write them: imported, and an LLC curve on them is that of the same weights."""

import argparse
import collections
import datetime
import enum
import io
import json
import os
import pathlib
import random
import re
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.errors import CorruptRunError, DataError, LLCDynamicsError, ManifestMismatchError
from llc_dynamics.runs import find_checkpoints
from llc_dynamics.runs.weight_files import load_state

TOKENS = torch.randint(0, 20, (40, 6), generator=torch.Generator().manual_seed(0))
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.lm_head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        return self.lm_head(self.wte(tokens))


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Sequential(nn.Tanh(), nn.Linear(5, 2)))


def token_loss(model, batch):
    out = model(batch[0])
    return F.cross_entropy(getattr(out, "logits", out).transpose(1, 2), batch[0], reduction="none").mean(1)


def square_loss(model, batch):
    return (model(batch[0]) - batch[0][:, :2]).square().mean(1)


def trained(make, steps, seed=0):
    """Checkpoints of a model that moves a little at each step."""
    torch.manual_seed(seed)
    model, states = make(), {}
    for step in steps:
        with torch.no_grad():
            for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
                tensor.add_(0.1 * torch.rand_like(tensor))
        states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return states


def save(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)


def curve_of(run, model):
    loss, data = (token_loss, (TOKENS,)) if run.steps.size and has_tokens(model) else (square_loss, (X,))
    sampler = ld.SGLD(step_size=1e-5, localization=10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve = ld.llc_curve(run, model, loss, data, sampler=sampler, num_chains=2, num_burnin=2, num_draws=4)
    assert np.isfinite(curve.values).all()
    return curve.values


def has_tokens(model):
    return any(isinstance(module, nn.Embedding) for module in model.modules())


def require_curve(run, make, states, folder):
    """A curve of the imported run is that of a run which was recorded from the same weights."""
    model = make()
    with ld.TrajectoryWriter(folder, model) as writer:
        for step, state in states.items():
            model.load_state_dict(state)
            writer.record(step)
    assert run.steps.tolist() == list(states)
    np.testing.assert_array_equal(curve_of(run, make()), curve_of(ld.Trajectory(folder), make()))


def require_all(folder, tmp_path, make, states, **options):
    """The folder becomes the same run with its model at hand and without."""
    known = ld.import_checkpoints(folder, tmp_path / "known", model=make(), **options)
    require_curve(known, make, states, tmp_path / "direct")
    unknown = ld.import_checkpoints(folder, tmp_path / "unknown", **options)
    require_curve(unknown, make, states, tmp_path / "direct again")
    return known, unknown


# --- Folders that libraries write -------------------------------------------------------------------------------------


def small_gpt2():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def test_the_trainers_folders_of_a_gpt2_with_tied_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path / "given"), max_steps=2, save_steps=1, per_device_train_batch_size=4, report_to=[],
        use_cpu=True, disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in TOKENS]
    transformers.Trainer(small_gpt2(), settings, train_dataset=rows).train()
    names = {path.name for path in (tmp_path / "given" / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"} <= names
    assert "lm_head.weight" not in load_state(tmp_path / "given" / "checkpoint-2" / "model.safetensors")
    states = {}
    for step in (1, 2):
        read = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "given" / f"checkpoint-{step}")
        states[step] = read.state_dict()
    known, unknown = require_all(tmp_path / "given", tmp_path, small_gpt2, states)
    assert torch.equal(known.state_dict(2)["lm_head.weight"], states[2]["transformer.wte.weight"])
    assert "lm_head.weight" not in unknown.state_dict(2)
    # the base model knows its names without the prefix, and the other way round
    base = transformers.GPT2Model(small_gpt2().config)
    unknown.load_into(base, 2)
    assert torch.equal(base.wte.weight, states[2]["transformer.wte.weight"])
    save(dict(base.state_dict()), tmp_path / "base" / "step2.pt")
    run = ld.import_checkpoints(tmp_path / "base", tmp_path / "of base", model=small_gpt2())
    assert torch.equal(run.state_dict(2)["lm_head.weight"], base.wte.weight)


def test_lightnings_files_with_a_criterion_and_settings_beside_the_weights(tmp_path):
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Module(pl.LightningModule):
        def __init__(self, options=None, where=None, scale=None):  # noqa: ARG002
            super().__init__()
            self.save_hyperparameters()
            self.model = network()
            self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
            self.states = {}

        def training_step(self, batch, index):  # noqa: ARG002
            return self.criterion(self.model(batch[0]), (batch[0][:, 0] > 0).long())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

        def on_train_batch_end(self, *_):
            self.states[self.global_step] = {name: t.clone() for name, t in self.model.state_dict().items()}

    module = Module(argparse.Namespace(lr=0.1), tmp_path, np.float64(2.0))
    keep = ModelCheckpoint(tmp_path / "given", save_top_k=-1, every_n_train_steps=1, save_last=True)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), 20)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(max_steps=2, callbacks=[keep], accelerator="cpu", devices=1, **quiet).fit(module, loader)
    with pytest.warns(UserWarning, match=r"left out, as no weights of the model: criterion\.weight"):
        run = ld.import_checkpoints(tmp_path / "given", tmp_path / "net", model=network())
    assert run.provenance["imported"]["left_out"] == ["criterion.weight"]
    require_curve(run, network, module.states, tmp_path / "direct")
    whole = ld.import_checkpoints(tmp_path / "given", tmp_path / "whole", model=Module())
    assert "criterion.weight" in whole.state_dict(2)
    # without the model, a floating-point tensor may be a parameter, and none is dropped in silence
    unknown = ld.import_checkpoints(tmp_path / "given", tmp_path / "unknown")
    unknown.load_into(Module(), 2)
    with pytest.raises(ManifestMismatchError, match=r"'criterion\.weight' \[2\] is in the run.*import them again with"):
        unknown.load_into(network(), 2)


def test_names_that_transformers_writes_into_files_alone(tmp_path):
    """A Pythia on the disk has `embed_out`, the model of transformers 5 `lm_head`."""
    transformers = pytest.importorskip("transformers", minversion="5")
    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}

    def make():
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes, num_attention_heads=2))

    states = trained(make, (0, 512))
    for step, state in states.items():
        halves = {n.replace("lm_head", "embed_out"): t.half() for n, t in state.items()}
        old = {"attention.bias": torch.ones(1, 1, 8, 8).tril() > 0, "attention.masked_bias": torch.tensor(-1e9).half()}
        halves |= prefixed(old | {"attention.rotary_emb.inv_freq": torch.rand(2)}, "gpt_neox.layers.0.")
        save(halves, tmp_path / "given" / f"step{step}" / "pytorch_model.bin")
    rounded = {step: {name: t.half().float() for name, t in state.items()} for step, state in states.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*left out")
        known, unknown = require_all(tmp_path / "given", tmp_path, make, rounded)
    assert "lm_head.weight" in known.state_dict(0)
    assert "embed_out.weight" in unknown.state_dict(0)


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def renamed(state, old, new):
    return {name.replace(old, new): tensor for name, tensor in state.items()}


def compiled(model):
    return torch.compile(model, backend="eager")


def inner_wrapped(model):
    """As activation checkpointing and compilation of single blocks leave it."""
    model[2] = nn.DataParallel(compiled(model[2]))
    return model


WRAPPED = {
    "averaged": lambda model: AveragedModel(model).state_dict(),
    "compiled": lambda model: compiled(model).state_dict(),
    "parallel": lambda model: nn.DataParallel(model).state_dict(),
    "averaged copy of a compiled one": lambda model: AveragedModel(compiled(model)).state_dict(),
    "compiled and parallel": lambda model: compiled(nn.DataParallel(model)).state_dict(),
    "compiled blocks": lambda model: inner_wrapped(model).state_dict(),
    "sharded": lambda model: prefixed(renamed(model.state_dict(), "2.", "2._fsdp_wrapped_module."), "module."),
    "recomputed": lambda model: renamed(model.state_dict(), "2.1", "2._checkpoint_wrapped_module.1"),
    "in a module": lambda model: prefixed(compiled(model).state_dict(), "net."),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_anywhere_in_the_names(tmp_path, kind):
    states = trained(network, (3, 7))
    for step, state in states.items():
        model = network()
        model.load_state_dict(state)
        save({"model": dict(WRAPPED[kind](model)), "step": step}, tmp_path / "given" / f"step{step}.pt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*left out")
        known, unknown = require_all(tmp_path / "given", tmp_path, network, states)
    assert list(known.state_dict(7)) == list(states[7])
    # a wrapped model takes them as well
    for wrapped in (AveragedModel(network()), compiled(nn.DataParallel(network())), inner_wrapped(network())):
        for run in (known, unknown):
            run.load_into(wrapped, 7)
            found = dict(wrapped.named_parameters())
            assert torch.equal(next(iter(found.values())), states[7]["0.weight"])


def test_wrappers_in_a_checkpoint_of_several_files(tmp_path):
    state = trained(network, (3,))[3]
    weight_map = {f"module.{name}": f"pytorch_model-0000{name[0]}-of-00003.bin" for name in state}
    for file in set(weight_map.values()):
        part = {name: tensor for name, tensor in prefixed(state, "module.").items() if weight_map[name] == file}
        save(part, tmp_path / "given" / "step3" / file)
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "given" / "step3" / "pytorch_model.bin.index.json").write_text(index)
    require_all(tmp_path / "given", tmp_path, network, {3: state})


def test_two_copies_of_the_model_in_one_file(tmp_path):
    state, other = trained(network, (1, 2)).values()
    save(prefixed(state, "student.") | prefixed(other, "teacher."), tmp_path / "given" / "step1.pt")
    with pytest.raises(ManifestMismatchError, match=r"several times, behind student\. and teacher\.; say which"):
        ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=network())
    save(state | prefixed(other, "ema_model."), tmp_path / "averaged" / "step1.pt")
    with pytest.warns(UserWarning, match="left out"):
        run = ld.import_checkpoints(tmp_path / "averaged", tmp_path / "first", model=network())
    assert torch.equal(run.state_dict(1)["0.weight"], state["0.weight"])
    save(prefixed(other, "ema.module.") | prefixed(state, "net."), tmp_path / "both" / "step1.pt")
    with pytest.warns(UserWarning, match=r"left out, as no weights of the model: ema\.module\.0\.weight"):
        run = ld.import_checkpoints(tmp_path / "both", tmp_path / "second", model=network())
    assert torch.equal(run.state_dict(1)["0.weight"], state["0.weight"])
    save(prefixed(state, "ema_model.") | state, tmp_path / "averaged" / "step2.pt")
    save(state, tmp_path / "averaged" / "step0.pt")
    with pytest.warns(UserWarning, match=r"left out, as no weights of the model: ema_model\.0\.weight"):
        ld.import_checkpoints(tmp_path / "averaged", tmp_path / "later", model=network())
    # one tensor is not taken for two parameters of the model
    half = nn.Linear(4, 2, bias=False)
    half.net = nn.Linear(4, 2, bias=False)
    save({"weight": torch.ones(2, 4)}, tmp_path / "half" / "step1.pt")
    with pytest.raises(ManifestMismatchError, match=r"'net\.weight' \[2, 4\] is in the model, but not in the file"):
        ld.import_checkpoints(tmp_path / "half", tmp_path / "other", model=half)
    run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=network(), strip_prefix="teacher.")
    assert torch.equal(run.state_dict(1)["0.weight"], other["0.weight"])


# --- Ties, formats, buffers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["wte.weight", "lm_head.weight", "both", "said in the file"])
def test_one_name_of_a_tie_is_enough(tmp_path, kept):
    states = trained(Tied, (100, 200))
    for step, state in states.items():
        path = tmp_path / "given" / f"checkpoint-{step}" / "model.safetensors"
        if kept == "said in the file":
            model = Tied()
            model.load_state_dict(state)
            path.parent.mkdir(parents=True)
            save_model(model, path)
        else:
            save({n: t.clone() for n, t in state.items() if kept in ("both", n)}, path)
    known, unknown = require_all(tmp_path / "given", tmp_path, Tied, states)
    assert set(known.state_dict(100)) == {"wte.weight", "lm_head.weight"}
    assert (len(unknown.state_dict(100)) == 2) == (kept in ("both", "said in the file"))


def test_a_tie_is_under_another_name_in_each_step(tmp_path):
    states = trained(Tied, (1, 2, 3))
    for step, name in ((1, "wte.weight"), (2, "lm_head.weight")):
        save({name: states[step][name]}, tmp_path / "given" / f"step{step}.pt")
    save(states[3], tmp_path / "given" / "step3.pt")
    run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=Tied())
    require_curve(run, Tied, states, tmp_path / "direct")
    with pytest.raises(ManifestMismatchError, match=r"step2\.pt: 'wte\.weight'.*give the model"):
        ld.import_checkpoints(tmp_path / "given", tmp_path / "other")


def test_two_values_for_one_tensor_are_refused(tmp_path):
    states = trained(Tied, (1, 2))
    save(states[1] | {"lm_head.weight": states[2]["lm_head.weight"]}, tmp_path / "given" / "step1.pt")
    with pytest.raises(ManifestMismatchError, match=r"step1\.pt: 'wte\.weight' and 'lm_head\.weight' are one tensor"):
        ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=Tied())
    run, model = ld.import_checkpoints(tmp_path / "given", tmp_path / "run"), Tied()
    before = model.wte.weight.clone()
    with pytest.raises(ManifestMismatchError, match="are one tensor in the model"):
        run.load_into(model, 1)
    assert torch.equal(model.wte.weight, before)
    model.lm_head.weight = nn.Parameter(torch.zeros(20, 8))
    run.load_into(model, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_for_a_model_in_float32(tmp_path, dtype):
    halves = {step: {n: t.to(dtype) for n, t in state.items()} for step, state in trained(Tied, (0, 8)).items()}
    for step, state in halves.items():
        save(state, tmp_path / "given" / f"step{step}" / "pytorch_model.bin")
    widened = {step: {name: tensor.float() for name, tensor in state.items()} for step, state in halves.items()}
    known, _ = require_all(tmp_path / "given", tmp_path, Tied, widened)
    assert known.state_dict(8)["wte.weight"].dtype == dtype
    save(widened[8], tmp_path / "wide" / "step8.pt")
    with pytest.raises(ManifestMismatchError, match=rf"is float32 in the file, but {str(dtype)[6:]} in the model"):
        ld.import_checkpoints(tmp_path / "wide", tmp_path / "run", model=Tied().to(dtype))


class Attention(nn.Module):
    """With a causal mask, that is saved or is not."""

    def __init__(self, persistent=False, dtype=torch.bool):
        super().__init__()
        self.attn = nn.Linear(4, 2)
        self.attn.register_buffer("attn_mask", torch.ones(4), persistent=False)
        self.query = nn.Module()
        self.query.attn = nn.Module()
        self.query.attn.register_buffer("bias", torch.ones(1, 1, 4, 4).tril().to(dtype), persistent=persistent)
        self.query.register_buffer("inv_freq", torch.ones(2), persistent=persistent)

    def forward(self, x):
        return self.attn(x * self.attn.attn_mask)


@pytest.mark.parametrize("made", [False, True, "in float32"])
def test_buffers_of_another_version_of_the_library(tmp_path, made):
    states = trained(Attention, (0, 1000))
    old = {"query.attn.bias": torch.ones(1, 1, 4, 4).tril() > 0, "query.inv_freq": torch.ones(2),
           "query.attn.masked_bias": torch.tensor(-1e9), "embeddings.position_ids": torch.arange(4),
           "attn.attn_mask": torch.ones(4)}  # fmt: skip
    for step, state in states.items():
        save(state | old, tmp_path / "given" / f"step{step}" / "pytorch_model.bin")

    def make():
        return Attention(bool(made), torch.float32 if made == "in float32" else torch.bool)

    with pytest.warns(UserWarning, match=r"left out, as no weights of the model: .*masked_bias"):
        known = ld.import_checkpoints(tmp_path / "given", tmp_path / "known", model=make())
    unknown = ld.import_checkpoints(tmp_path / "given", tmp_path / "unknown")
    kinds = {entry.name: entry.kind for entry in unknown.manifest.state.entries}
    assert kinds["attn.bias"] == "parameter"
    assert kinds["query.attn.bias"] == kinds["query.inv_freq"] == "buffer"
    own = {name: tensor for name, tensor in make().state_dict().items() if "query" in name}
    for run in (known, unknown):
        assert run.steps.tolist() == [0, 1000]
        model = make()
        run.load_into(model, 1000)
        assert torch.equal(model.attn.weight, states[1000]["attn.weight"])
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.items())
    # files without what the model of today saves
    for step, state in states.items():
        save(state, tmp_path / "new" / f"step{step}" / "pytorch_model.bin")
    fresh = ld.import_checkpoints(tmp_path / "new", tmp_path / "new run", model=make())
    require_curve(fresh, make, {step: state | own for step, state in states.items()}, tmp_path / "direct")


def test_a_parameter_with_the_name_of_a_mask_is_a_parameter(tmp_path):
    model = nn.Module()
    model.attn = nn.Module()
    model.attn.bias = nn.Parameter(torch.rand(2, 3))
    model.attn.weight = nn.Parameter(torch.rand(2))
    save(dict(model.state_dict()), tmp_path / "given" / "step1.pt")
    save({"attn.weight": torch.ones(2)}, tmp_path / "fewer" / "step1.pt")
    known = ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=model)
    assert {entry.kind for entry in known.manifest.state.entries} == {"parameter"}
    with pytest.raises(ManifestMismatchError, match=r"'attn\.bias' \[2, 3\] is in the model, but not in the file"):
        ld.import_checkpoints(tmp_path / "fewer", tmp_path / "other", model=model)
    del model.attn.bias
    with pytest.raises(ManifestMismatchError, match=r"'attn\.bias' \[2, 3\] is in the run, but not in the model"):
        known.load_into(model, 1)


def test_what_the_function_depends_on_is_not_let_go(tmp_path):
    state = trained(network, (1,))[1]
    untracked, extra = network(), torch.ones(2, 2)
    untracked[1] = nn.BatchNorm1d(5, track_running_stats=False)
    for given, model, words in (
        ({n: t for n, t in state.items() if n != "2.1.bias"}, network(), "'2.1.bias' [2] is in the model, but not in"),
        ({n: t for n, t in state.items() if n != "1.running_var"}, network(), "'1.running_var' [5] is in the model"),
        (state | {"3.weight": extra}, network(), "'3.weight' [2, 2] is in the file, but not in the model"),
        (state | {"2.3.weight": extra}, network(), "'2.3.weight' [2, 2] is in the file"),
        (prefixed(state, "net.") | {"net.2.2.weight": extra}, network(), "'net.2.2.weight' [2, 2] is in the file"),
        (state, untracked, "'1.running_mean' [5] is in the file, but not in the model"),
        ({"weight": torch.ones(2, 4), "bias": extra[0]}, nn.Linear(4, 2, bias=False), "'bias' [2] is in the file"),
    ):
        save(dict(given), tmp_path / "given" / "step1.pt")
        with pytest.raises(ManifestMismatchError, match=re.escape(f"step1.pt: {words}")):
            ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=model)
        run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
        with pytest.raises(ManifestMismatchError, match=re.escape(words.replace("the file", "the run"))):
            run.load_into(model, 1)
        (tmp_path / "run").rename(tmp_path / f"run{len(list(tmp_path.iterdir()))}")


# --- Other things in the files ----------------------------------------------------------------------------------------


class Settings:
    """A class of the training's own program."""

    class Kind(enum.Enum):
        first = 1

    def __init__(self):
        self.kind = Settings.Kind.first
        self.__dict__["lr"] = 0.1

    def __setstate__(self, state):
        raise SystemExit("code of the file was run")


class Attributes(dict):
    """Settings that may be had as attributes, as several libraries have them."""

    def __init__(self, *given):
        super().__init__(*given)
        self.__dict__ = self


class Runs:
    """Would make a folder when it is read."""

    def __init__(self, mark, function):
        self.mark, self.function = mark, function

    def __reduce__(self):
        return self.function, (str(self.mark),)


def make_folder(path):
    os.mkdir(path)


BESIDE = {
    "numpy scalar": np.float64(0.3),
    "array": np.arange(3),
    "numpy generator": np.random.default_rng(0),
    "states of generators": [np.random.get_state(), random.getstate(), torch.get_rng_state()],  # noqa: NPY002
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("out")),
    "simple namespace": types.SimpleNamespace(lr=0.1),
    "date": datetime.datetime(2024, 1, 1),
    "enum": Settings.Kind.first,
    "settings": Settings(),
    "attributes": Attributes({"lr": 0.1}),
    "defaultdict": collections.defaultdict(list, {"loss": [0.1]}),
    "deque": collections.deque([0.1], maxlen=5),
    "range and slice": [range(3), slice(2), frozenset({1})],
    "bytes": io.BytesIO(b"x"),
    "a function": make_folder,
    "a whole optimiser": torch.optim.Adam(nn.Linear(2, 2).parameters()),
    "a loss": nn.CrossEntropyLoss(torch.ones(2)),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", BESIDE)
def test_other_things_beside_the_weights(tmp_path, kind, zipped):
    states = trained(network, (1, 2))
    for step, state in states.items():
        (tmp_path / "given").mkdir(exist_ok=True)
        path = tmp_path / "given" / f"step{step}.pt"
        content = {"model": state, "other": BESIDE[kind], "nested": {"here": [BESIDE[kind]]}}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    allowed = set(torch.serialization.get_safe_globals())
    if kind == "a loss" and not zipped:  # torch's old format writes a module's source with it
        with pytest.raises(CorruptRunError, match=r"more than tensors and plain values.*model\.state_dict\(\) alone"):
            ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
        assert set(torch.serialization.get_safe_globals()) == allowed
        return
    run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert all(torch.equal(run.state_dict(2)[name], tensor) for name, tensor in states[2].items())


def test_nothing_beside_the_weights_runs(tmp_path):
    state, path = trained(network, (1,))[1], tmp_path / "step1.pt"
    for function in (make_folder, io.open_code, pathlib.Path.mkdir):
        torch.save({"model": state, "other": Runs(tmp_path / "mark", function)}, path)
        try:
            loaded = load_state(path)
        except LLCDynamicsError:
            continue
        assert torch.equal(loaded["0.weight"], state["0.weight"])
    assert not (tmp_path / "mark").exists()
    for function in (
        os.mkdir,
        eval,
        exec,
        print,
        __import__,
        __import__("subprocess").call,
        __import__("runpy").run_path,
    ):
        torch.save({"model": state, "other": Runs(tmp_path / "mark", function)}, path)
        with pytest.raises(DataError, match=r"step1\.pt: it asks to run code \(.*\), which was not done"):
            load_state(path)
        assert not (tmp_path / "mark").exists()


def test_other_things_in_place_of_weights(tmp_path):
    state, path = trained(network, (1,))[1], tmp_path / "step1.pt"
    for content, words in (
        ({"model": state | {"0.weight": np.ones((5, 4))}}, r"no state dict found.*model \(OrderedDict|model \(dict"),
        (state | {"0.weight": argparse.Namespace()}, r"'0\.weight' is a argparse\.Namespace"),
        (state | {"epoch": 3}, r"'epoch' is a int\); save the tensors alone"),
        (nn.Linear(2, 2), r"holds a pickled object torch\.nn\.modules\.linear\.Linear, not a state dict"),
        ({"model": nn.Linear(2, 2)}, r"model \(torch\.nn\.modules\.linear\.Linear\)"),
    ):
        torch.save(content, path)
        with pytest.raises((DataError, CorruptRunError), match=words):
            load_state(path)
    torch.save({"model": state, "loss": np.float64(1)}, path, pickle_protocol=4)
    with pytest.raises(DataError, match="another pickle_protocol"):
        load_state(path)


class WithExtra(nn.Linear):
    """A layer with a state that is no tensor."""

    def get_extra_state(self):
        return {"scale": 2.0}

    def set_extra_state(self, _):
        raise AssertionError("no checkpoint has one")


@pytest.mark.parametrize("extra", [{"scale": 1.0}, io.BytesIO(b"x"), torch.ones(3), None])
def test_extra_states_are_left_out(tmp_path, extra):
    states = trained(lambda: nn.Linear(4, 2), (1, 2))
    for step, state in states.items():
        save(state | {"_extra_state": extra}, tmp_path / "given" / f"step{step}.pt")
    for number, make in enumerate((lambda: nn.Linear(4, 2), lambda: WithExtra(4, 2))):
        with pytest.warns(UserWarning, match="left out.*_extra_state"):
            known = ld.import_checkpoints(tmp_path / "given", tmp_path / f"known{number}", model=make())
        assert list(known.state_dict(1)) == ["weight", "bias"]
        unknown = ld.import_checkpoints(tmp_path / "given", tmp_path / f"unknown{number}")
        np.testing.assert_array_equal(curve_of(known, make()), curve_of(unknown, make()))


def test_the_command_line_says_in_a_line_what_is_left_out(tmp_path, capsys):
    save(trained(network, (1,))[1] | {"\x1b[2J_extra_state": {}}, tmp_path / "given" / "step1.pt")
    assert main(["import", str(tmp_path / "given"), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'given'}: left out, as no weights of the model: \\x1b[2J_extra_state\n")
    assert said.err == ""


# --- What a later estimate would refuse -------------------------------------------------------------------------------


def test_what_no_estimate_takes_is_said_at_import(tmp_path):
    state = trained(network, (1,))[1]
    frozen = network().requires_grad_(False)
    for given, model, words in (
        (state | {"0.bias": torch.full((5,), torch.nan)}, None, "NaN or infinite at step 1"),
        (state | {"0.weight": state["0.weight"].to(torch.float8_e4m3fn)}, None, r"'0\.weight' is float8_e4m3fn"),
        ({"weight": torch.ones(2, 4, dtype=torch.int8), "scale": torch.ones(2)}, None, "'weight' is int8"),
        ({"weight": torch.ones(2, 4, dtype=torch.int8)}, None, "nothing to sample"),
        (state, frozen, r"call requires_grad_\(True\)"),
    ):  # fmt: skip
        save(dict(given), tmp_path / "given" / "step1.pt")
        with pytest.warns(UserWarning, match=words):
            run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=model)
        run.path.rename(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
    for dtype in (torch.int8, torch.float8_e5m2):
        save(state | {"0.weight": state["0.weight"].to(dtype)}, tmp_path / "given" / "step1.pt")
        with pytest.raises(ManifestMismatchError, match=rf"'0\.weight' is {str(dtype)[6:]} in the file, but float32"):
            ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=network())
    for model in (nn.Sequential(nn.LazyLinear(5)), torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})):
        with pytest.raises(DataError, match=r"has no shape yet|quantised modules cannot be sampled"):
            ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=model)
    save(state, tmp_path / "given" / "step1.pt")
    with torch.device("meta"), pytest.raises(DataError, match="on the meta device"):
        ld.import_checkpoints(tmp_path / "given", tmp_path / "run").load_into(network(), 1)
    # its names and ties are enough for an import
    tied = trained(Tied, (1,))[1]
    save({"wte.weight": tied["wte.weight"]}, tmp_path / "tied" / "step1.pt")
    with torch.device("meta"):
        model = Tied()
    assert len(ld.import_checkpoints(tmp_path / "tied", tmp_path / "of tied", model=model).state_dict(1)) == 2


def test_a_model_with_a_state_dict_of_its_own(tmp_path):
    class Own(Tied):
        def state_dict(self):
            return {name: tensor.clone() for name, tensor in super().state_dict().items()}

    states = trained(Own, (1, 2))
    for step, state in states.items():
        save({"lm_head.weight": state["lm_head.weight"]}, tmp_path / "given" / f"step{step}.pt")
    require_all(tmp_path / "given", tmp_path, Own, states)


def test_weights_are_found_among_other_states(tmp_path):
    state = trained(network, (1,))[1]
    for name in ("adapter.bin", "optimizer.bin", "scheduler.bin", "random_states_0.pth", "scaler.pt"):
        save(state, tmp_path / "folders" / "step7" / name)
    assert find_checkpoints(tmp_path / "folders")[7].name == "adapter.bin"
    for name in ("model_{}.pt", "optimizer_{}.pt", "optim-{}.pth", "rng_state_{}.pt"):
        for step in (1, 20):
            save(state, tmp_path / "files" / name.format(step))
    assert [path.name for path in find_checkpoints(tmp_path / "files").values()] == ["model_1.pt", "model_20.pt"]
    for step in (1, 20):
        save(state, tmp_path / "only" / f"optimizer_{step}.pt")
    assert list(find_checkpoints(tmp_path / "only")) == [1, 20]
