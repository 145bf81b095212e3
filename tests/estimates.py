"""Estimates for tests: settings given by themselves, bare chains, chains that are made up, what findings say."""

from dataclasses import fields, replace
from types import SimpleNamespace

import torch

import llc_dynamics as ld
from llc_dynamics.llc import EstimateSettings, judged
from llc_dynamics.llc.summary import summarise
from llc_dynamics.sampling import Chains, ChainSettings, Target
from llc_dynamics.seeding import torch_generator

_SETTINGS = {each.name for each in fields(EstimateSettings)}


def estimate(model, loss_fn, data, **given):
    """`ld.estimate_llc` with all that is a setting in `settings=`."""
    settings = EstimateSettings(**{name: given.pop(name) for name in _SETTINGS & given.keys()})
    return ld.estimate_llc(model, loss_fn, data, settings=settings, **given)


def run_chains(flat, batches, kernel, *, nbeta, observed=None, **settings):
    """The traces of `num_draws` draws of new chains at this nbeta."""
    settings = ChainSettings(sampler=replace(kernel, nbeta=nbeta), **settings)
    return Chains(flat, batches, settings, observed).advance(settings.num_draws)


def result_of(
    traces,
    blocks=("w",),
    *,
    dimension=10,
    nbeta=1.0,
    num_samples=10,
    localization=float("nan"),
    loss_fn=None,
    sampler=ld.Underdamped(),  # noqa: B008
    thresholds=None,
):
    """The judged result of traces that were made up."""
    chains = SimpleNamespace(
        traces=traces,
        model=SimpleNamespace(names=blocks, dimension=dimension, loss_fn=loss_fn, device=torch.device("cpu")),
        batches=SimpleNamespace(num_samples=num_samples, batch_size=num_samples),
        target=Target(torch.zeros(1), nbeta, localization),
        kernel=sampler,
        chain_method="loop",
        vmap_problem=None,
        num_gradients=0,
        blocks_without_gradient=(),
    )
    return judged(summarise(chains, EstimateSettings(sampler=sampler)), thresholds)


def start_of(origin, seed, gamma, too_high, chain=0):
    """Where a chain starts, [d]: w* + N(0, 1/gamma), halved while the loss is `too_high(w)`."""
    away = torch.empty_like(origin).normal_(generator=torch_generator(seed, "start", chain)) / gamma**0.5
    while too_high(origin + away):
        away = away / 2
    return origin + away


def texts(findings):
    return [finding.text for finding in findings]


def codes(findings):
    return [finding.code for finding in findings]
