"""What people hand in as data and as numbers: the estimate is that of a tuple of tensors, or it says what to write."""

from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import llc_dynamics as ld
from llc_dynamics.errors import ConfigError, DataError
from llc_dynamics.llc.identity import digest_tensors, tensor_data_id
from llc_dynamics.sampling.batches import make_batches

CPU = torch.device("cpu")
N = 60
Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor
    note: str = "held out"


def samples():
    x = torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] > 0).long()


def network():
    torch.manual_seed(0)
    return nn.Linear(5, 2)


def by_place(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def by_key(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def by_attribute(model, batch):
    return F.cross_entropy(model(batch.x), batch.y, reduction="none")


def estimate(data, loss_fn=by_place, **settings):
    return ld.estimate_llc(
        network(), loss_fn, data, **{"num_chains": 2, "num_draws": 10, "num_burnin": 3, "batch_size": 16, **settings}
    )


class ByIndex(Dataset):
    """Samples one by one, in a container of the user's choice."""

    def __init__(self, make=lambda x, y: (x, y)):
        self.make, self.tensors = make, samples()

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.make(self.tensors[0][index], int(self.tensors[1][index]))


class Columns:
    """Like a data set of Hugging Face: no `Dataset` of torch, rows are dicts, many at once by `__getitems__`."""

    def __init__(self, tensors):
        self.columns, self.asked = tensors, []

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.columns.items()}

    def __getitems__(self, indices):
        self.asked.append(len(indices))
        return [self[index] for index in indices]


class TestContainers:
    """Bit for bit the chains of `data=(x, y)`."""

    @pytest.mark.parametrize("batch_size", [16, N])
    @pytest.mark.parametrize(
        ("make", "loss_fn"),
        [
            (lambda x, y: [x, y], by_place),
            (lambda x, y: (x.numpy(), y.numpy()), by_place),
            (lambda x, y: (x.numpy()[::-1][::-1], y), by_place),
            (lambda x, y: (x.numpy().astype(">f4"), np.asfortranarray(y.numpy())), by_place),
            (lambda x, y: (x.requires_grad_(), y), by_place),
            (lambda x, y: (x.t().contiguous().t(), y), by_place),
            (lambda x, y: (torch.zeros_like(x, requires_grad=True) + x, y), by_place),
            (lambda x, y: TensorDataset(x, y), by_place),
            (lambda x, y: Subset(TensorDataset(x, y), range(N)), by_place),
            (lambda x, y: Subset(TensorDataset(x.flip(0), y.flip(0)), np.arange(N)[::-1]), by_place),
            (lambda x, y: Pair(x, y), by_attribute),
            (lambda x, y: {"x": x, "y": y}, by_key),
            (lambda x, y: {"x": x.numpy(), "y": y, "pad": 0}, by_key),
            (lambda x, y: UserDict(x=x, y=y), by_key),
            (lambda x, y: Record(x, y), by_attribute),
            (lambda x, y: {"in": {"x": [x]}, "y": (y,)}, lambda m, b: by_place(m, (b["in"]["x"][0], b["y"][0]))),
            (lambda *_: ByIndex(), by_place),
            (lambda *_: ByIndex(lambda x, y: {"x": x.numpy(), "y": np.int64(y)}), by_key),
            (lambda *_: ConcatDataset([ByIndex()]), by_place),
            (lambda x, y: Columns({"x": x, "y": y}), by_key),
        ],
    )
    def test_same_chains(self, make, loss_fn, batch_size):
        wanted = estimate(samples(), batch_size=batch_size)
        found = estimate(make(*samples()), loss_fn, batch_size=batch_size)
        np.testing.assert_array_equal(found.trace, wanted.trace)
        assert found.num_samples == N

    def test_tokenizer_output(self):
        transformers = pytest.importorskip("transformers")
        x, y = samples()
        found = estimate(transformers.BatchEncoding({"x": x, "y": y}), by_key)
        np.testing.assert_array_equal(found.trace, estimate((x, y)).trace)

    def test_kind_of_container_is_kept(self):
        x, y = samples()
        for data in ({"x": x, "y": y}, Pair(x, y), UserDict(x=x), Record(x, y), (x, y)):
            assert type(next(make_batches(data, 8, None, CPU).stream(0)).content) is type(data)
        assert type(next(make_batches([x, y], 8, None, CPU).stream(0)).content) is tuple
        assert next(make_batches(Record(x, y), 8, None, CPU).stream(0)).content.note == "held out"

    @pytest.mark.parametrize("batch_size", [8, N])
    def test_batches_are_copies(self, batch_size):
        x, y = samples()
        before = x.clone()
        for data in ((x, y), {"x": x.numpy(), "y": y}, TensorDataset(x, y), Subset(TensorDataset(x), range(N))):
            content = next(make_batches(data, batch_size, None, CPU).stream(0)).content
            (content["x"] if isinstance(content, dict) else content[0]).zero_()
        assert torch.equal(x, before)

    def test_inputs_that_a_loss_differentiates_by(self):
        def gradient_penalty(model, batch):
            return torch.autograd.grad(model(batch[0]).square().sum(), batch[0], create_graph=True)[0].square().mean(1)

        x = samples()[0].requires_grad_()
        batches = make_batches((x,), 8, None, CPU)
        content = next(batches.stream(0)).content
        assert content[0].is_leaf
        assert gradient_penalty(network(), content).requires_grad
        assert x.grad is None

    def test_made_in_inference_mode(self):
        with torch.inference_mode():
            data = tuple(part.clone() for part in samples())
        for size in (16, N):
            np.testing.assert_array_equal(
                estimate(data, batch_size=size).trace, estimate(samples(), batch_size=size).trace
            )
        found = estimate(lambda *_: data, batch_size=N, num_samples=N)
        assert np.isfinite(found.llc)

    def test_function_that_gives_arrays_in_a_dict(self):
        x, y = samples()

        def draw(generator, size):
            chosen = torch.randint(N, (size,), generator=generator)
            return {"x": x[chosen], "y": y[chosen]}

        def draw_arrays(generator, size):
            return {name: part.numpy() for name, part in draw(generator, size).items()}

        one, other = (estimate(each, by_key, num_samples=N) for each in (draw, draw_arrays))
        np.testing.assert_array_equal(one.trace, other.trace)

    def test_dataset_that_changes_its_samples(self):
        class Scaled(TensorDataset):
            def __getitem__(self, index):
                return tuple(2 * part for part in super().__getitem__(index))

        x = samples()[0]
        content = next(make_batches(Scaled(x), N, None, CPU).stream(0)).content
        assert torch.equal(content[0], 2 * x)

    def test_many_samples_at_once_where_the_data_set_can(self):
        columns = Columns(dict(zip("xy", samples(), strict=True)))
        next(make_batches(columns, 16, None, CPU).stream(0))
        assert columns.asked == [1, 16]

    def test_identity(self):
        x, y = samples()
        same = [(x, y), [x, y], TensorDataset(x, y), (x.numpy(), y.numpy()), Subset(TensorDataset(x, y), range(N))]
        assert {tensor_data_id(data) for data in same} == {digest_tensors({"0": x, "1": y})}
        assert tensor_data_id({"x": x, "y": y}) == tensor_data_id({"y": y, "x": x})
        assert tensor_data_id({"x": x}) != tensor_data_id({"x": x + 1})
        assert tensor_data_id(ByIndex()) is None


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(5), 0


def collate(rows):
    return torch.utils.data.default_collate(rows)


class TestWhatToWrite:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (lambda: DataLoader(TensorDataset(*samples()), 24), r"data=loader\.dataset, batch_size=24"),
            (
                lambda: DataLoader(ByIndex(), 24, collate_fn=collate),
                r"lambda generator, batch_size: loader\.collate_fn\(\[loader\.dataset\[i\] .* batch_size=24, .*=60",
            ),
            (lambda: DataLoader(Endless(), 24), r"islice\(loader\.dataset"),
            (Endless, r"default_collate\(list\(itertools\.islice\(dataset"),
            (lambda: iter(DataLoader(ByIndex(), 24)), r"only be run through.*data=loader\.dataset"),
            (lambda: (sample for sample in ByIndex()), "generator, which can only be run through"),
            (lambda: samples()[0], r"data=\(tensor,\)"),
            (lambda: samples()[0].numpy(), r"data=\(array,\)"),
            (lambda: pytest.importorskip("pandas").DataFrame({"a": [1.0]}), r"to_numpy\(dtype='float32'\)"),
            (lambda: "data/train.pt", "load it first"),
            (lambda: None, "data is None; data is a tuple or dict of tensors"),
            (network, "takes the model, then loss_fn, then data"),
            (lambda: 3, "data is a int; data is a tuple"),
            (lambda: {"train": ByIndex(), "test": ByIndex()}, r"data=data\['train'\]"),
            (lambda: list(ByIndex()), r"list of 60 tuples, samples.*default_collate\(data\)"),
            (lambda: [{"x": torch.zeros(4)}] * 9, "list of 9 dicts, samples"),
            (lambda: {"x": [[1, 2], [3, 4]]}, r"no tensor, but int.*return_tensors"),
            (lambda: {"x": samples()[0], "y": samples()[1].tolist()}, r"60 values outside of tensors \(int\)"),
            (lambda: {"x": samples()[0], "y": np.array(["cat"] * N)}, "array of <U3"),
            (lambda: (samples()[0], samples()[1][:-1]), r"\[60, 5\], \[59\]"),
            (lambda: {"x": samples()[0], "temperature": torch.tensor(2.0)}, r"\[60, 5\], \[\]"),
            (lambda: (samples()[0].to_sparse(), samples()[1]), r"sparse_coo.*to_dense"),
            (lambda: (samples()[0].to("meta"),), "meta"),
            (lambda: (torch.nested.nested_tensor([torch.zeros(2, 5), torch.zeros(3, 5)]),), "nested.*padded"),
            (lambda: ByIndex, r"data is the class ByIndex.*data=ByIndex\(\.\.\.\)"),
            (dict, "nothing"),
            (lambda: (torch.zeros(0, 5),), "no samples"),
        ],
    )
    def test_message(self, data, message):
        with pytest.raises(DataError, match=message):
            estimate(data())

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda x, y: {"x": x.tolist(), "y": y}, r"'x' as a list of 5 numbers.*with_format"),
            (lambda x, y: (x[: y + 2], y), r"do not make a batch: RuntimeError: stack.*one shape"),
            (lambda x, _: (x, object()), "do not make a batch: TypeError"),
            (lambda x, y: {"x": x, "y": y}["z"], "reading samples of data .a ByIndex. failed: KeyError"),
        ],
    )
    def test_samples_that_make_no_batch(self, make, message):
        with pytest.raises(DataError, match=message):
            estimate(ByIndex(make))

    def test_lines_that_are_shown_work(self):
        loader = DataLoader(ByIndex(), 16, collate_fn=collate)
        for kind in (loader, DataLoader(TensorDataset(*samples()), 16)):
            with pytest.raises(DataError) as caught:
                estimate(kind)
            line = str(caught.value).partition("data=")[2]
            arguments = eval(f"dict(data={line})", {"torch": torch, "loader": kind})
            assert np.isfinite(estimate(arguments.pop("data"), **arguments).llc)


class TestFunctionsThatFail:
    def test_short_last_batch(self):
        batches = iter(DataLoader(TensorDataset(*samples()), 16))
        with pytest.raises(DataError, match=r"a batch of 12 samples, and batch_size is 16.*drop_last"):
            estimate(lambda *_: next(batches), num_samples=N)

    def test_iterator_at_its_end(self):
        batches = iter(DataLoader(TensorDataset(*samples()), 16, drop_last=True))
        with pytest.raises(DataError, match=r"no more batches \(StopIteration\).*data=loader\.dataset, batch_size=16"):
            estimate(lambda *_: next(batches), num_samples=N)

    def test_error_of_the_function(self):
        with pytest.raises(DataError, match=r"data\(generator, 16\) failed: KeyError: 'train'") as caught:
            estimate(lambda *_: {}["train"], num_samples=N)
        assert isinstance(caught.value.__cause__, KeyError)

    @pytest.mark.parametrize(
        "content",
        [
            (torch.zeros(3, 16),),  # time first
            (torch.zeros(9, 4), torch.zeros(2, 12)),  # a graph: nodes, edges
            (torch.zeros(64, 4),),  # all tokens in one row
            (torch.tensor(2.0),),
            None,
        ],
    )
    def test_batches_that_may_be_meant_so(self, content):
        stream = make_batches(lambda *_: content, 16, 100, CPU).stream(0)
        assert next(stream).content is content or next(stream).content[0] is content[0]


class TestNumbers:
    @pytest.mark.parametrize("kind", [np.int64, np.int16, np.array, torch.tensor])
    def test_settings(self, kind):
        plain = {"num_chains": 2, "num_draws": 10, "num_burnin": 3, "batch_size": 16, "num_samples": 50, "seed": 3}
        others = {"max_draws": 20, "steps_per_draw": 2, "microbatch_size": 8, "target_error": 0.5}
        given = {name: kind(value) for name, value in (plain | others).items() if name != "target_error"}
        found = ld.EstimateSettings(**given, target_error=np.float64(0.5))
        assert found == ld.EstimateSettings(**plain, **others)
        assert {type(value) for value in dataclasses.asdict(found).values()} <= {
            int,
            float,
            bool,
            str,
            dict,
            type(None),
        }
        np.testing.assert_array_equal(
            estimate(samples(), **{name: kind(value) for name, value in plain.items()}).trace,
            estimate(samples(), **plain).trace,
        )

    @pytest.mark.parametrize("kernel", [ld.SGLD, ld.MALT, ld.HMC, ld.MALA, ld.Underdamped, ld.RMSpropSGLD])
    def test_kernels(self, kernel):
        found = kernel(step_size=np.float32(0.25), localization=np.int64(100), nbeta=torch.tensor(8.0))
        assert found == kernel(step_size=0.25, localization=100, nbeta=8.0)
        assert {type(found.step_size), type(found.localization), type(found.nbeta)} == {float, int}

    @pytest.mark.parametrize("value", [np.True_, True, np.float64(2.5), "2", None, np.array([2])])
    def test_refused_as_before(self, value):
        with pytest.raises(ConfigError, match="num_chains must be a whole number"):
            ld.EstimateSettings(num_chains=value)

    @pytest.mark.parametrize("name", ["batch_size", "num_samples", "max_draws", "microbatch_size"])
    def test_counts_that_are_none(self, name):
        with pytest.raises(ConfigError, match=name):
            ld.EstimateSettings(target_error=0.1, **{name: 2.5})

    @pytest.mark.parametrize(
        "make",
        [
            lambda: ld.EstimateSettings(target_error="small"),
            lambda: ld.EstimateSettings(max_seconds="60"),
            lambda: ld.EstimateSettings(num_samples=[100]),
            lambda: ld.MALT(target_acceptance="high"),
            lambda: ld.RMSpropSGLD(decay=None),
            lambda: ld.SGLD(nbeta=[1.0, 2.0]),
            lambda: ld.Thresholds(r_hat="1.1"),
            lambda: ld.calibrate(network(), by_place, samples(), nbeta="hot"),
            lambda: ld.llc_spectrum(network(), by_place, samples(), ["a"]),
        ],
    )
    def test_what_is_no_number(self, make):
        with pytest.raises(ConfigError, match="must be"):
            make()

    def test_curve_goes_on_with_other_kinds_of_numbers(self, tmp_path):
        model = network()
        with ld.TrajectoryWriter(tmp_path / "run", model, rows_per_shard=np.int64(1)) as writer:
            for step in (0, 10):
                writer.record(np.int64(step))
        plain = {"num_chains": 2, "num_draws": 10, "num_burnin": 3, "batch_size": 16, "seed": 3}
        given = {name: np.int64(value) for name, value in plain.items()}
        sampler = ld.SGLD(step_size=np.float64(1e-4), localization=np.float32(100))
        first = ld.llc_curve(
            tmp_path / "run",
            model,
            by_place,
            samples(),
            sampler=sampler,
            workers=np.int64(1),
            threads=np.int64(1),
            **given,
        )
        stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "llc").rglob("*.h5")}
        again = ld.llc_curve(
            tmp_path / "run",
            model,
            by_place,
            TensorDataset(*samples()),
            sampler=ld.SGLD(1e-4, localization=100),
            **plain,
        )
        np.testing.assert_array_equal(first.values, again.values)
        assert stored == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "llc").rglob("*.h5")}

    @pytest.mark.parametrize("steps", ["all", 10, torch.tensor(10), [0.5], ["last"]])
    def test_steps_that_are_none(self, tmp_path, steps):
        with ld.TrajectoryWriter(tmp_path / "run", network()) as writer:
            writer.record(0)
        with pytest.raises(ConfigError, match=r"steps.* must be a"):
            ld.llc_curve(tmp_path / "run", network(), by_place, samples(), steps=steps)

    def test_calibrate_and_spectrum(self):
        loss_fn = ld.behavioural(lambda model, batch: model(batch["x"]))
        data = {"x": samples()[0].numpy()}
        found = ld.calibrate(
            network(), loss_fn, data, gradients=np.int64(300), num_chains=np.int64(2), trials=False, seed=np.int64(1)
        )
        assert type(found.settings.num_draws) is int
        gammas = torch.tensor([100.0, 1000.0], requires_grad=True)
        spectrum = ld.llc_spectrum(
            network(), loss_fn, data, gammas, num_chains=np.int64(2), num_draws=np.int64(10), num_burnin=np.int64(2)
        )
        assert spectrum.values.shape == (1, 1, 2)
