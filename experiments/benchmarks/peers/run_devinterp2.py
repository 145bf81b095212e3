"""devinterp 2.0.1, which samples language models: sample indices are passed as its `input_ids`.

A data set of rows [i, 0] stands in for the tokens; the loss function looks sample i up and returns shape (batch, 1),
the (batch, seq - 1) that the tool asks for.

Options: "feed" is "huggingface" (the `datasets.Dataset` of its documentation) or "tensor" (the same rows from a plain
tensor, which its loader also takes, and quicker); "observe" passes the data as an observable, as its README does;
"independent_batches" gives each chain batches of its own, as its documentation offers; "device" is "cpu" by default.
With `baseline="data"` the initial loss is averaged over as many batches as the data holds, rather than over 32.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from peers.adapter import Estimate, Prepare, main
from peers.problems import Problem
from peers.settings import Settings

KERNELS = {"sgld": "sgmcmc_sgld", "rmsprop_sgld": "rmsprop_sgld"}


def load() -> Prepare:
    import datasets
    import torch
    from devinterp.slt.llc import llc

    from peers.modules import build, data_of, loss_of

    class Indices(torch.utils.data.Dataset):
        """Rows {"input_ids": [i, 0]} straight from a tensor."""

        def __init__(self, count: int) -> None:
            self.rows = torch.stack((torch.arange(count), torch.zeros(count, dtype=torch.int64)), dim=1)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": self.rows[index]}

        def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
            # One index for the whole batch; the loader asks for this where it exists.
            return [{"input_ids": row} for row in self.rows[indices].unbind()]

    def prepare(problem: Problem, settings: Settings) -> Callable[[int], Estimate]:
        module, loss = build(problem), loss_of(problem)
        device = settings.options.get("device", "cpu")
        inputs, targets = (part.to(device) for part in data_of(problem))
        count = len(inputs)
        if settings.options.get("feed", "tensor") == "huggingface":
            dataset = datasets.Dataset.from_dict({"input_ids": [[index, 0] for index in range(count)]})
            dataset.set_format("torch")
        else:
            dataset = Indices(count)
        baseline = {}
        if settings.baseline == "data":
            baseline["num_init_loss_batches"] = count // settings.batch_size
        # The default of 32, or what was asked for; the tool evaluates it once for every chain.
        init_batches = baseline.get("num_init_loss_batches", 32)

        def loss_fn(model: torch.nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
            index = input_ids[:, 0]
            return loss(model(inputs[index]), targets[index])[:, None]

        def run(seed: int) -> Estimate:
            observe = bool(settings.options.get("observe", False))
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = llc(
                    model=module,
                    dataset=dataset,
                    observables={"train": dataset} if observe else {},
                    lr=settings.step_size,
                    n_beta=settings.nbeta,
                    localization=settings.localization,
                    num_chains=settings.num_chains,
                    num_draws=settings.num_draws,
                    num_burnin_steps=settings.num_burnin,
                    batch_size=settings.batch_size,
                    sampling_method=KERNELS[settings.kernel],
                    match_sampling_input_ids_across_chains=not settings.options.get("independent_batches", False),
                    init_seed=100 + 1000 * seed,
                    loss_fn=loss_fn,
                    output_path=Path(folder) / "samples.zarr",
                    device=device,
                    **baseline,
                )
                chains = [float(value) for value in result["llc_per_chain"].values]
                # Its mean is over all steps; the same run with the burn-in left out by hand.
                settled = result["loss_trace"].values[:, settings.num_burnin :].mean()
                after = settings.nbeta * (float(settled) - float(result["init_loss"]))
                mean, spread = float(result["llc_mean"]), float(result["llc_std"])
            steps = settings.num_chains * settings.num_steps
            observed = 3 * settings.num_chains * settings.num_draws if observe else 0
            return Estimate(
                estimate=mean,
                standard_error=spread,
                error_meaning="standard deviation over chains (llc_std)",
                gradients=steps,
                forwards=settings.num_chains * init_batches + observed,
                extra={"per_chain": chains, "estimate_after_burnin": after},
            )

        return run

    return prepare


if __name__ == "__main__":
    main("devinterp2", "devinterp", load)
