"""Training a linear transformer: its recursion on moments, compiled and not, against the tokens themselves.

    OMP_NUM_THREADS=1 python experiments/benchmarks/recursion.py [--rounds 5]

A step is the draw of the batch, loss, gradient and Adam. Tokens are 20 examples and one query a context, as the model
is written down; the recursion needs no query, since its loss is the mean over all. Compiled, the gradient is summed
over parts of 256 contexts, as in the recipe of the table. The sides take turns within one run, and the figure is the
ratio of the smallest processor times. Prints a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch
from common import command_line, markdown_head, markdown_row, timed

from llc_dynamics.batch import parts
from llc_dynamics.seeding import torch_generator
from llc_dynamics.systems.linear_transformer.system import MixedNoiseRegression
from llc_dynamics.systems.linear_transformer.task import draw_tokens

_BATCHES, _LAYERS, _STEPS = (256, 1024), (2, 4, 7), 20
_PART = 256


def updates(system: MixedNoiseRegression, form: str, batch: int) -> Callable[[], None]:
    """Some steps of training in one of the forms."""
    model = system.build(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    generator = torch_generator(0, "benchmark")
    own = torch.compile(system.loss, dynamic=False) if form == "compiled" else system.loss

    def losses() -> Iterator[torch.Tensor]:
        if form != "tokens":
            for part in parts(system.sample(generator, batch), _PART if form == "compiled" else batch):
                yield own(model, part).sum() / batch
            return
        sizes = (batch, system.dimension, system.num_examples)
        x, y, w, _ = draw_tokens(generator, *sizes, system.noise)
        query = torch.randn(w.shape, generator=generator)
        predicted = model.token_predictions(x, y, query)[-1]
        yield 0.5 * (predicted - (w * query).sum(1)).square().mean()

    def run() -> None:
        for _ in range(_STEPS):
            model.zero_grad()
            for value in losses():
                value.backward()
            optimizer.step()

    return run


def main() -> None:
    rounds = command_line(__doc__, rounds=5).parse_args().rounds
    torch.set_num_threads(1)
    forms = ("tokens", "recursion", "compiled")
    print(markdown_head(["FULL, layers", "batch", *(f"{form}, ms" for form in forms), "tokens / compiled"]))
    for layers, batch in product(_LAYERS, _BATCHES):
        torch._dynamo.reset()
        functions = {form: updates(MixedNoiseRegression(num_layers=layers), form, batch) for form in forms}
        functions["compiled"]()  # compiles
        times = {form: float("inf") for form in forms}
        for _ in range(rounds):
            for form, function in functions.items():
                times[form] = min(times[form], 1e3 * timed(function)[1] / _STEPS)
        print(markdown_row([layers, batch, *times.values(), times["tokens"] / times["compiled"]]), flush=True)


if __name__ == "__main__":
    main()
