"""Runs of other programs' checkpoints: layouts, names of steps, and files that are damaged or hostile."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from interchange_runs import bits, kill_at_each_change
from safetensors.torch import save_file

import llc_dynamics as ld
from llc_dynamics.cli import main
from llc_dynamics.errors import (
    ConfigError,
    CorruptRunError,
    DataError,
    LLCDynamicsError,
    ManifestMismatchError,
    MissingPackageError,
    TrajectoryError,
)
from llc_dynamics.runs import find_checkpoints
from llc_dynamics.runs.weight_files import load_state


def weights(step):
    """Tensors of several formats, a scalar among them, other ones for every step."""
    draw = torch.Generator().manual_seed(step)
    return {
        "layer.weight": torch.randn(3, 4, generator=draw),
        "layer.bias": torch.randn(3, generator=draw),
        "norm.running_mean": torch.randn(3, generator=draw),
        "half": torch.randn(5, generator=draw).bfloat16(),
        "count": torch.tensor(step),
        "mask": torch.arange(3) > step % 3,
    }


def save(state, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def require_weights(run, steps):
    assert run.steps.tolist() == steps
    for step in steps:
        stored = run.state_dict(step)
        assert {name: bits(tensor) for name, tensor in stored.items()} == {
            name: bits(tensor) for name, tensor in weights(step).items()
        }


@pytest.mark.parametrize(
    "name",
    [
        "step_{}.pt",
        "model-{}.safetensors",
        "{}.pth",
        "run2-iter{:07}.bin",
        "epoch=1-step={}.ckpt",
        "step{}/model.safetensors",
        "step{}/pytorch_model.bin",
        "checkpoint-{}/model.safetensors",
        "pythia-70m-step{}/pytorch_model.bin",
    ],
)
def test_usual_layouts(tmp_path, name):
    for step in (1000, 0, 512):
        save(weights(step), tmp_path / "given" / name.format(step))
    (tmp_path / "given" / "README.md").write_text("a model")
    run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
    require_weights(run, [0, 512, 1000])
    assert run.complete
    assert run.verify().ok
    kinds = {entry.name: entry.kind for entry in run.manifest.state.entries}
    assert kinds == dict.fromkeys(kinds, "parameter") | dict.fromkeys(("norm.running_mean", "count", "mask"), "buffer")
    assert run.provenance["imported"]["from"] == "given"
    assert run.provenance["imported"]["checkpoints"] == 3


def test_what_training_leaves_beside_the_weights(tmp_path):
    """The folder of a Hugging Face Trainer: a final model, optimisers, settings that are pickles."""
    for step in (500, 1000):
        folder = tmp_path / "given" / f"checkpoint-{step}"
        save(weights(step), folder / "model.safetensors")
        torch.save({"state": {}}, folder / "optimizer.pt")
        torch.save(torch.get_rng_state(), folder / "rng_state.pth")
        (folder / "trainer_state.json").write_text("{}")
        pickle.dump(slice(3), (folder / "training_args.bin").open("wb"))
    save(weights(1), tmp_path / "given" / "model.safetensors")
    pickle.dump(slice(3), (tmp_path / "given" / "training_args.bin").open("wb"))
    require_weights(ld.import_checkpoints(tmp_path / "given", tmp_path / "run"), [500, 1000])


def test_checkpoints_in_several_files(tmp_path):
    for step, ending in ((0, "safetensors"), (8, "bin")):
        state, folder = weights(step), tmp_path / "given" / f"step{step}"
        names = sorted(state)
        stem = "model" if ending == "safetensors" else "pytorch_model"
        files = [f"{stem}-0000{part}-of-00002.{ending}" for part in (1, 2)]
        weight_map = {name: files[position % 2] for position, name in enumerate(names)}
        for file in files:
            save({name: state[name] for name in names if weight_map[name] == file}, folder / file)
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    require_weights(ld.import_checkpoints(tmp_path / "given", tmp_path / "run"), [0, 8])

    index = tmp_path / "given" / "step0" / "model.safetensors.index.json"
    whole = index.read_text()
    for change, error, words in (
        (whole.replace("model-00002", "../../step8/model-00002"), DataError, "not in its folder; refused"),
        (whole.replace("model-00002", "/etc/model-00002"), DataError, "not in its folder; refused"),
        (whole.replace("model-00002", "model-00003"), CorruptRunError, "model-00003.*missing"),
        (whole.replace('"count"', '"counts"'), CorruptRunError, "has no 'counts'"),
        ("{}", CorruptRunError, "not an index"),
        ("[1", CorruptRunError, "not an index"),
    ):
        index.write_text(change)
        with pytest.raises(error, match=words):
            ld.import_checkpoints(tmp_path / "given", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_of_the_hugging_face_cache(tmp_path):
    cache = tmp_path / "models--owner--name"
    (cache / "refs").mkdir(parents=True)
    for step in (0, 16, 1000):
        commit = f"{step:040x}"
        save(weights(step), cache / "blobs" / f"{step}.bin")
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "pytorch_model.bin").symlink_to(cache / "blobs" / f"{step}.bin")
        (cache / "refs" / f"step{step}").write_text(commit)
    (cache / "refs" / "main").write_text(f"{1000:040x}")
    (cache / "refs" / "step9").write_text("../../../outside")
    require_weights(ld.import_checkpoints(cache, tmp_path / "run"), [0, 16, 1000])


def test_patterns(tmp_path):
    for name in ("a/model_10_ema.pt", "a/model_10_raw.pt", "a/model_20_raw.pt", "b2/s30/weights.pt", "b2/s30/ema.pt"):
        step = int(re.findall("[1-9]0", name)[0])
        save(weights(step), tmp_path / name)

    def find(folder, pattern):
        found = find_checkpoints(tmp_path / folder, pattern)
        return {step: str(path.relative_to(tmp_path)) for step, path in found.items()}

    assert find("a", "model_{step}_raw.pt") == {10: "a/model_10_raw.pt", 20: "a/model_20_raw.pt"}
    assert find(".", "a/*_{step}_ema.pt") == {10: "a/model_10_ema.pt"}
    assert find(".", "b*/s{step}/weights.pt") == {30: "b2/s30/weights.pt"}
    with pytest.raises(TrajectoryError, match=r"several files may be the checkpoint \(ema.pt, weights.pt\).*'s{step}/"):
        find("b2", "s{step}")
    with pytest.raises(TrajectoryError, match=r"step 10 twice, in model_10_ema.pt and model_10_raw.pt"):
        find("a", "model_{step}_*.pt")
    with pytest.raises(TrajectoryError, match=r"no checkpoint matches 'x{step}'; it has model_10_ema.pt"):
        find("a", "x{step}")
    for pattern in ("model.pt", "{step}/{step}", "/{step}", "../{step}"):
        with pytest.raises(ConfigError, match=r"write {step} once"):
            find("a", pattern)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no checkpoints in it"),
        (["notes.txt"], "no checkpoints in it"),
        (["final.pt", "step5.pt"], r"no step in the name of final\.pt; say with --pattern"),
        (["model10k.pt"], "no step in the name of model10k"),
        (["lr0.5.pt"], "no step in the name"),
        (["run2_5.pt"], r"several numbers in the name of run2_5\.pt"),
        (["step5.pt", "step05.pt"], r"step 5 twice, in step05\.pt and step5\.pt"),
        (["step5.pt", "step5.safetensors"], "step 5 twice"),
        ([f"step{1 << 70}.pt"], "is no step of a training"),
    ],
)
def test_steps_that_names_do_not_say(tmp_path, names, words):
    (tmp_path / "given").mkdir()
    for name in names:
        (tmp_path / "given" / name).write_bytes(b"x")
    with pytest.raises(TrajectoryError, match=words):
        ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["given"]


def test_state_dicts_inside_of_other_things(tmp_path):
    state, path = weights(7), tmp_path / "step7.pt"
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    for content, key, prefix in (
        ({"model": state, "optimizer": optimizer, "step": 7}, None, ""),
        ({"state_dict": state, "epoch": 1}, None, ""),
        ({"model": state, "ema": weights(8)}, None, ""),
        ({"a": {"b": state}, "model": weights(8)}, "a/b", ""),
        ({f"module.{name}": tensor for name, tensor in state.items()}, None, "module."),
    ):
        torch.save(content, path)
        loaded = load_state(path, key, prefix)
        assert {name: bits(tensor) for name, tensor in loaded.items()} == {n: bits(t) for n, t in state.items()}
    for content, key, prefix, words in (
        ({"model": state, "state_dict": state}, None, "", "several state dicts in it .*--key model"),
        ({"encoder": state, "step": 7}, None, "", r"no state dict found .*It has: encoder \(dict\), step \(int\)"),
        ({"model": state}, "modle", "", r"no 'modle' .*it has: model \(dict\)"),
        ({"model": state, "step": 7}, "step", "", "'step' is no state dict"),
        ({"model": state}, "model/count", "", "'model/count' is no state dict"),
        ([state], None, "", "holds a list, not a state dict"),
        ({}, None, "", "no state dict found"),
        ({"model": state}, None, "module.", "'layer.weight' does not begin with 'module.'"),
    ):
        torch.save(content, path)
        with pytest.raises(LLCDynamicsError, match=words) as caught:
            load_state(path, key, prefix)
        assert "step7.pt" in str(caught.value)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert {name: bits(tensor) for name, tensor in load_state(path).items()} == {n: bits(t) for n, t in state.items()}


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_checkpoint_that_differs_is_named(tmp_path, ending):
    for change, words in (
        (lambda state: state.pop("half"), "'half' [5] is in {0}, but not in this file"),
        (lambda state: state.update(more=torch.ones(2)), "'more' [2] is in this file, but not in {0}"),
        (
            lambda state: state.update({"layer.bias": torch.ones(4)}),
            "'layer.bias' has shape [3] in {0}, but [4] in this file",
        ),
        (lambda state: state.update(half=torch.ones(5)), "'half' is bfloat16 in {0}, but float32 in this file"),
        (
            lambda state: [state.update({f"net.{name}": state.pop(name)}) for name in list(state)],
            "is in {0}, but not in this file; a run holds one model",
        ),
    ):
        for step in (1, 2, 3):
            state = weights(step)
            if step == 2:
                change(state)
            save(state, tmp_path / "given" / f"step{step}.{ending}")
        with pytest.raises(ManifestMismatchError) as caught:
            ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
        assert f"step2.{ending}: " in str(caught.value)
        assert words.format(tmp_path / "given" / f"step1.{ending}") in str(caught.value)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["given"]


def test_another_order_of_the_tensors_is_the_same_checkpoint(tmp_path):
    save(weights(1), tmp_path / "given" / "step1.pt")
    save(dict(reversed(weights(2).items())), tmp_path / "given" / "step2.pt")
    require_weights(ld.import_checkpoints(tmp_path / "given", tmp_path / "run"), [1, 2])


class _RunsCode:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path):
    mark = tmp_path / "code was run"
    folder = tmp_path / "given"
    folder.mkdir()
    path = folder / "step1.pt"
    hostile = {"weight": torch.ones(2), "evil": _RunsCode(mark)}
    torch.save(hostile, path)
    torch.load(path, weights_only=False)
    assert mark.exists(), "the file would run code if it were let"
    mark.rmdir()
    for write in (
        lambda: torch.save(hostile, path),
        lambda: torch.save({"model": hostile, "x": 1}, path),
        lambda: torch.save(hostile, path, _use_new_zipfile_serialization=False),
        lambda: pickle.dump(hostile, path.open("wb")),
        lambda: pickle.dump(_RunsCode(mark), path.open("wb")),
        lambda: path.write_bytes(b"cos\nsystem\n(S'touch \"" + str(mark).encode() + b"\"'\ntR."),
    ):
        write()
        with pytest.raises((DataError, CorruptRunError), match=r"step1\.pt: (it asks to run code|not a sound)"):
            ld.import_checkpoints(folder, tmp_path / "run")
        assert not mark.exists()
        assert not (tmp_path / "run").exists()
    torch.save(hostile, path)
    with pytest.raises(DataError, match=r"step1\.pt: it asks to run code \(posix\.mkdir\), which was not done"):
        ld.import_checkpoints(folder, tmp_path / "run")


def test_old_torch_cannot_read_pickles_safely(tmp_path, monkeypatch):
    save(weights(1), tmp_path / "step1.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(MissingPackageError, match=r"needs torch 2\.6 or newer, this is 2\.5\.1"):
        load_state(tmp_path / "step1.pt")


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_damaged_files_are_named(tmp_path, ending):
    path = tmp_path / "given" / f"step1.{ending}"
    save(weights(1), path)
    whole = path.read_bytes()
    for content in (b"", b"x", whole[:-7], whole[: len(whole) // 2], whole[:100], b"\0" * 1000, b"\xff" * 1000):
        path.write_bytes(content)
        with pytest.raises((CorruptRunError, DataError), match=rf"step1\.{ending}: not a sound"):
            ld.import_checkpoints(tmp_path / "given", tmp_path / "run")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["given"]


def test_files_that_claim_more_than_they_hold(tmp_path):
    path = tmp_path / "step1.pt"
    torch.save({"w": torch.ones(1).expand(1 << 40)}, path)
    with pytest.raises(DataError, match=r"its tensors would take 4,398,046,511,104 bytes.*refused"):
        load_state(path)
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(1 << 22))
    with pytest.raises(DataError, match="claims more bytes than it has"):
        load_state(path)
    huge = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(huge).to_bytes(8, "little") + huge)
    with pytest.raises(CorruptRunError, match="not a sound safetensors file"):
        load_state(tmp_path / "x.safetensors")
    sparse = {"w": torch.eye(3).to_sparse()}
    torch.save(sparse, path)
    with pytest.raises(DataError, match="'w'"):
        ld.import_checkpoints(tmp_path, tmp_path / "run", pattern="step{step}.pt")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for step in (0, 5):
        save({"net": weights(step), "step": step, "teacher": weights(step + 1)}, Path(f"given/model_{step}.pt"))
    save(weights(0), Path("given/final.pt"))
    assert main(["import", "given", "--out", "run"]) == 1
    assert "no step in the name of final.pt" in capsys.readouterr().err
    command = ["import", "given", "--out", "run", "--pattern", "model_{step}.pt"]
    assert main([*command, "--key", "pupil"]) == 1
    assert "no 'pupil'" in capsys.readouterr().err
    assert main([*command, "--key", "net"]) == 0
    assert "ld.llc_curve" in capsys.readouterr().out
    require_weights(ld.Trajectory("run"), [0, 5])
    assert main([*command, "--key", "net"]) == 1
    assert "holds a run; nothing in it was changed" in capsys.readouterr().err
    for verb in ("llc", "calibrate"):
        assert main([verb, "run"]) == 1
        assert "ld." in (message := capsys.readouterr().err), message
    assert main(["import", "run", "--out", "other"]) == 1
    assert "this is a run already" in capsys.readouterr().err
    assert main(["import", "missing", "--out", "other"]) == 1
    assert main(["import", "given/final.pt", "--out", "other"]) == 1
    assert "not a file that `llc-dynamics export` wrote" in capsys.readouterr().err
    assert main(["import", "given/final.pt", "--out", "other", "--key", "x"]) == 1
    assert not Path("other").exists()


def test_killed_at_any_change_an_import_goes_on(tmp_path):
    for step in range(5):
        save(weights(step), tmp_path / "given" / f"step{step}.safetensors")
    out = tmp_path / "run"

    def check(number):
        if out.exists():
            require_weights(ld.Trajectory(out), list(range(5)))
            shutil.rmtree(out)
        assert number < 100

    kill_at_each_change(lambda: ld.import_checkpoints(tmp_path / "given", out), check)
    require_weights(ld.import_checkpoints(tmp_path / "given", out), list(range(5)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "run"]
    # What was left by an import of other files is not gone on with.
    out.rename(tmp_path / ".again.unfinished")
    save(weights(4), tmp_path / "given" / "step0.safetensors")
    run = ld.import_checkpoints(tmp_path / "given", tmp_path / "again")
    assert torch.equal(run.state_dict(0)["count"], torch.tensor(4))


def test_with_the_model_at_hand(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    save(dict(model.state_dict()), tmp_path / "given" / "step1.pt")
    run = ld.import_checkpoints(tmp_path / "given", tmp_path / "run", model=model, config={"width": 3})
    assert {entry.name for entry in run.manifest.state.entries if entry.kind == "buffer"} == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
    assert run.config == {"width": 3}
    run.load_into(model, 1)
    with pytest.raises(
        ManifestMismatchError, match=r"step1\.pt: '0\.weight' has shape \[3, 2\] in the file, but \[4, 2\]"
    ):
        ld.import_checkpoints(tmp_path / "given", tmp_path / "other", model=torch.nn.Sequential(torch.nn.Linear(2, 4)))
