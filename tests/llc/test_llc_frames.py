"""Results and curves as pandas, xarray and ArviZ objects: the same numbers; and what a stored point brings back."""

import dataclasses
import json
import subprocess
import sys

import estimates
import numpy as np
import pytest
import torch
from estimates import texts
from problems import outputs, regression, squared_error
from torch import nn

import llc_dynamics as ld
from llc_dynamics.errors import DataError, MissingPackageError
from llc_dynamics.finding import Finding
from llc_dynamics.llc.storage import Identity, read_point, write_point
from llc_dynamics.sampling import FailedChain

pd = pytest.importorskip("pandas", reason='needs pip install "llc-dynamics[frames]"')
xr = pytest.importorskip("xarray", reason='needs pip install "llc-dynamics[frames]"')
arviz_stats = pytest.importorskip("arviz_stats")
pytest.importorskip("arviz_base", reason='needs pip install "llc-dynamics[frames]"')

TRACES = ("trace", "distance_trace", "virial_trace")
EXPLODED = Finding("loss_exploded", "test")
SHORT = {"num_chains": 3, "num_draws": 30, "num_burnin": 10, "batch_size": 16}


def absolute_error(model, batch):
    return (model(batch[0]) - batch[1]).abs().mean(1)


def estimate(sampler=None, loss_fn=squared_error, **changes):
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(1)
        model.bias.zero_()
    return estimates.estimate(model, loss_fn, regression(), sampler=sampler or ld.SGLD(1e-3), **SHORT | changes)


@pytest.fixture(scope="module")
def result():
    return estimate()


@pytest.fixture(scope="module")
def broken():
    """Chain 1 has died at draw 7."""
    found = estimate(seed=1)
    traces = {name: getattr(found, name).copy() for name in TRACES}
    for values in traces.values():
        values[1, 7:] = np.nan
    return dataclasses.replace(found, failed_chains=(FailedChain(1, 17, EXPLODED),), **traces)


@pytest.fixture(scope="module")
def curve(broken):
    """Three points: with fewer chains, with a dead chain, with more draws."""
    return ld.LLCCurve({0: estimate(num_chains=2), 10: broken, 30: estimate(num_draws=50)}, "mine")


def test_a_result_is_one_row(result):
    frame = result.to_pandas()
    assert frame.shape[0] == 1
    row = frame.iloc[0]
    for name in ("llc", "standard_error", "r_hat", "ess", "virial", "virial_error", "nbeta", "num_samples", "loss"):
        assert row[name] == getattr(result, name), name
    assert (row["interval_low"], row["interval_high"]) == result.interval(0.95)
    assert row["converged"] == result.converged
    assert row["reasons"] == "; ".join(texts(result.reasons))
    assert row["failed_chains"] == 0
    assert frame.columns.is_unique


def test_no_single_value_of_a_result_is_left_out(result):
    named = {
        each.name
        for each in dataclasses.fields(result)
        if isinstance(getattr(result, each.name), bool | int | float | str)
    }
    assert len(named) > 20
    assert named <= set(result.to_pandas().columns)
    assert named <= set(result.to_xarray().data_vars)


def test_draws_are_a_table_of_chain_and_draw(broken):
    frame = broken.to_pandas(draws=True)
    assert frame.index.names == ["chain", "draw"]
    assert [*frame.columns] == ["llc", "distance", "virial"]
    for column, trace in zip(frame.columns, TRACES, strict=True):
        np.testing.assert_array_equal(frame[column].unstack().to_numpy(), getattr(broken, trace))
    assert np.isnan(frame["llc"][1, 7])
    assert frame["llc"][1, 6] == broken.trace[1, 6]


def test_an_xarray_data_set_holds_everything(broken):
    data = broken.to_xarray()
    assert dict(data.sizes) == {"chain": 3, "draw": 30, "block": 2}
    for name in TRACES:
        assert data[name].dims == ("chain", "draw")
        np.testing.assert_array_equal(data[name], getattr(broken, name))
    assert data["llc"].item() == broken.llc
    assert data["loss"].item() == "given"
    assert data["virial_by_block"].sel(block="weight").item() == broken.virial_by_block["weight"]
    assert data["virial_by_block_error"].sel(block="bias").item() == broken.virial_by_block_error["bias"]
    assert json.loads(data.attrs["settings"]) == broken.settings
    assert json.loads(data.attrs["provenance"]) == broken.provenance
    assert set(json.loads(data.attrs["thresholds"])) >= {"r_hat", "min_ess"}
    json.dumps(data.attrs, allow_nan=False)


def test_attributes_hold_no_number_that_json_has_not(result):
    strange = dataclasses.replace(result, settings={"limit": float("inf"), "other": float("nan")})
    text = strange.to_xarray().attrs["settings"]
    assert json.loads(text, parse_constant=pytest.fail) == {"limit": "inf", "other": "nan"}


def test_observed_losses():
    found = estimate(observe={"absolute": absolute_error})
    value, error = found.observed["absolute"]
    row, data = found.to_pandas().iloc[0], found.to_xarray()
    assert (row["observed.absolute"], row["observed.absolute.standard_error"]) == (value, error)
    assert data["observed"].sel(observed_loss="absolute").item() == value
    assert data["observed_error"].sel(observed_loss="absolute").item() == error


@pytest.mark.parametrize("name", ["llc", "distance", "virial"])
def test_arviz_finds_our_diagnostics_in_the_data_tree(result, broken, name):
    trace = dict(zip(("llc", "distance", "virial"), TRACES, strict=True))[name]
    for found in (result, broken):
        tree = found.to_datatree()
        alive = [chain for chain in range(3) if chain not in [failed.chain for failed in found.failed_chains]]
        assert tree.posterior.chain.values.tolist() == alive
        np.testing.assert_array_equal(tree.posterior[name], getattr(found, trace)[alive])
        assert tree.posterior[name].dims == ("chain", "draw")
        assert json.loads(tree.attrs["settings"]) == found.settings
    rhat, ess = (getattr(arviz_stats, statistic)(result.to_datatree()) for statistic in ("rhat", "ess"))
    expected = {"llc": (result.r_hat, result.ess), "distance": (result.r_hat_distance, None)}.get(name, (None, None))
    for value, own in zip((rhat, ess), expected, strict=True):
        if own is not None:
            np.testing.assert_allclose(value[name].item(), own, rtol=1e-12)
    assert {"llc", "distance", "virial"} == set(arviz_stats.summary(result.to_datatree()).index)


def test_without_a_surviving_chain_there_is_no_data_tree(broken):
    dead = dataclasses.replace(broken, failed_chains=tuple(FailedChain(chain, 1, EXPLODED) for chain in range(3)))
    with pytest.raises(DataError, match="to_xarray"):
        dead.to_datatree()
    assert dead.to_xarray().sizes["draw"] == 30


def test_a_curve_is_one_row_for_each_step(curve):
    frame = curve.to_pandas()
    assert frame.index.name == "step"
    assert frame.index.tolist() == [0, 10, 30]
    np.testing.assert_array_equal(frame["llc"], curve.values)
    np.testing.assert_array_equal(frame["standard_error"], curve.standard_errors)
    np.testing.assert_array_equal(frame["converged"], curve.converged)
    np.testing.assert_array_equal(frame["virial"], curve.virial.values)
    assert frame["failed_chains"].tolist() == [0, 1, 0]
    assert frame["reasons"].tolist() == ["; ".join(texts(reasons)) for reasons in curve.reasons]
    draws = curve.to_pandas(draws=True)
    assert draws.index.names == ["step", "chain", "draw"]
    for step, result in zip(curve.steps, curve.results, strict=True):
        np.testing.assert_array_equal(draws.loc[step]["llc"].unstack().to_numpy(), result.trace)


def test_a_curve_fills_up_shorter_points(curve):
    data = curve.to_xarray()
    assert dict(data.sizes) == {"step": 3, "other_step": 3, "chain": 3, "draw": 50, "block": 2}
    assert data.attrs["name"] == "mine"
    assert data.step.values.tolist() == [0, 10, 30]
    for place, result in enumerate(curve.results):
        chains, draws = result.trace.shape
        for name in TRACES:
            values = data[name].isel(step=place).transpose("chain", "draw").values
            np.testing.assert_array_equal(values[:chains, :draws], getattr(result, name))
            assert np.isnan(values[chains:]).all()
            assert np.isnan(values[:, draws:]).all()
        assert data["llc"].isel(step=place).item() == result.llc
        assert data["num_samples"].isel(step=place).item() == 64
    settings = json.loads(data.attrs["settings"])
    assert settings["batch_size"] == 16
    assert not {"seed", "num_chains", "num_draws"} & set(settings)  # not common to all points


def test_arviz_diagnostics_of_a_curve(curve):
    tree = curve.to_datatree()
    assert tree.posterior["llc"].dims == ("chain", "draw", "step")
    np.testing.assert_array_equal(tree.posterior["llc"].sel(step=30), curve.results[2].trace)
    assert np.isnan(tree.posterior["llc"].sel(step=10, chain=1)).all()
    np.testing.assert_allclose(arviz_stats.rhat(tree)["llc"].sel(step=30).item(), curve.results[2].r_hat)


def test_curves_by_hand():
    curve = ld.Curve([0, 5], [2.0, 1.0], [0.1, 0.2], "loss", samples=[[1, 2, 3], [0, 1, 2]])
    frame, data = curve.to_pandas(), curve.to_xarray()
    assert [*frame.columns] == ["value", "standard_error"]
    assert frame.loc[5].tolist() == [1.0, 0.2]
    assert data["samples"].dims == ("step", "sample")
    assert data["value"].sel(step=0).item() == 2.0
    assert data.attrs == {"name": "loss"}
    assert [*ld.Curve([1], [2.0]).to_pandas().columns] == ["value"]


@pytest.mark.parametrize(
    ("package", "method"), [("pandas", "to_pandas"), ("xarray", "to_xarray"), ("arviz_base", "to_datatree")]
)
def test_a_missing_package_is_named(monkeypatch, curve, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    things = [curve, curve.results[0], *([] if method == "to_datatree" else [ld.Curve([1], [2.0])])]
    for thing in things:
        with pytest.raises(MissingPackageError, match=r'pip install "llc-dynamics\[frames\]"'):
            getattr(thing, method)()


def test_importing_the_package_brings_none_of_them_in():
    program = (
        "import sys, llc_dynamics, llc_dynamics.curve\nassert not {'pandas', 'xarray', 'arviz_base'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": ld.SGLD(1e-3), "observe": {"absolute": absolute_error}},
        {"sampler": ld.RMSpropSGLD(1e-3)},
        {"sampler": ld.Underdamped(0.02), "observe": {"one": absolute_error, "two": squared_error}},
        {"sampler": ld.MALA(1e-3), "batch_size": 64},
        {"sampler": ld.MALT(), "loss_fn": ld.behavioural(outputs), "observe": {"given": squared_error}},
        {"sampler": ld.SGLD(1e3), "num_draws": 5},  # all chains die
    ],
)
def test_a_stored_point_brings_back_every_field(tmp_path, changes):
    changes = dict(changes)
    found = estimate(changes.pop("sampler"), **changes)
    path = tmp_path / "step-3.h5"
    write_point(path, 3, found, Identity({}, "", np.zeros((2, 1))))
    stored, _ = read_point(path)
    for each in dataclasses.fields(found):
        own, back = getattr(found, each.name), getattr(stored, each.name)
        assert type(own) is type(back), each.name
        if isinstance(own, np.ndarray | float):
            np.testing.assert_array_equal(back, own, err_msg=each.name)
        else:
            np.testing.assert_equal(back, own, err_msg=each.name)
