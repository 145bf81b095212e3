"""Models as someone brings them who has no idea of sampling: digits classifiers, a grokking transformer, a small GPT-2.

`MODELS` names them; each is trained in a minute or two on one core, and recorded at some 30 steps that are even in
log(step + 1). Nothing is downloaded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import llc_dynamics as ld

Tensors = tuple[torch.Tensor, ...]
CHECKPOINTS = 32
MODULUS = 53
WINDOW = 48
MEASURED = 500


@dataclass(frozen=True)
class OwnModel:
    """A model, its data, and how it is trained: AdamW on cross-entropy.

    build, data : functions, for what they return takes time. `data` gives (training data, held-out data), each a tuple
        (inputs [S, ...], classes [S] or [S, T]).
    batch_size : None for all the data at every step.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensors, Tensors]]
    num_steps: int
    learning_rate: float
    weight_decay: float = 0.0
    batch_size: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)

    def model(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build()

    def train(self, path: Path, num_steps: int | None = None, seed: int = 0) -> None:
        """Record a run; at each recorded step, the loss and accuracy on the training and the held-out data."""
        model, (seen, unseen) = self.model(seed), self.data()
        last = self.num_steps if num_steps is None else num_steps
        optimizer = torch.optim.AdamW(
            model.parameters(), self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )
        warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
        generator = torch.Generator().manual_seed(seed)
        schedule = ld.checkpoint_schedule(last, count=min(CHECKPOINTS, last + 1))
        recorded = set(schedule.tolist())
        with ld.Recorder(path, model, schedule, config={"model": self.name, "seed": seed}) as record:
            for step in range(last + 1):
                record(step, metrics(model, seen, unseen) if step in recorded else None)
                batch = seen
                if self.batch_size is not None:
                    rows = torch.randint(len(seen[0]), (self.batch_size,), generator=generator)
                    batch = tuple(each[rows] for each in seen)
                optimizer.zero_grad()
                loss(model, batch).mean().backward()
                optimizer.step()
                warmup.step()


def outputs(model: Any, batch: Tensors) -> torch.Tensor:
    """Logits [S, classes], or [S, T, classes] of a language model."""
    found = model(batch[0])
    return getattr(found, "logits", found)


def loss(model: Any, batch: Tensors) -> torch.Tensor:
    """Cross-entropy of each sample [S], a mean over tokens where there are several."""
    found = F.cross_entropy(outputs(model, batch).movedim(-1, 1), batch[1], reduction="none")
    return found if found.ndim == 1 else found.mean(1)


@torch.no_grad()
def metrics(model: nn.Module, seen: Tensors, unseen: Tensors) -> dict[str, float]:
    """Loss and accuracy on the first samples of both."""
    found = {}
    for name, whole in (("train", seen), ("test", unseen)):
        data = tuple(each[:MEASURED] for each in whole)
        found[f"loss/{name}"] = float(loss(model, data).mean())
        found[f"accuracy/{name}"] = float((outputs(model, data).argmax(-1) == data[1]).float().mean())
    return found


def digits() -> tuple[Tensors, Tensors]:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, shuffled; 1,400 to learn from."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(classes[order])
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def digits_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def digits_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )


def modular_addition() -> tuple[Tensors, Tensors]:
    """All pairs (a, b) and their sum modulo `MODULUS`; half of the pairs to learn from."""
    pairs = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS))
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    sums, half = pairs.sum(1) % MODULUS, len(pairs) // 2
    return (pairs[:half], sums[:half]), (pairs[half:], sums[half:])


class AdditionTransformer(nn.Module):
    """One layer of attention and an MLP, read at a last token "=", as in Nanda et al. 2023 (arXiv 2301.05217)."""

    def __init__(self, width: int = 64, heads: int = 4, hidden: int = 128) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(MODULUS + 1, width)
        self.position = nn.Parameter(torch.randn(3, width) / math.sqrt(width))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.unembed = nn.Linear(width, MODULUS, bias=False)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Pairs [S, 2] to logits of their sum [S, MODULUS]."""
        tokens = torch.cat([pairs, torch.full_like(pairs[:, :1], MODULUS)], 1)
        x = self.embedding(tokens) + self.position
        query, key, value = self.query(x[:, -1:]), self.key(x), self.value(x)
        split = [each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (query, key, value)]
        mixed = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)[:, 0]
        x = x[:, -1] + self.out(mixed)
        return self.unembed(x + self.mlp(x))


@functools.cache
def _text() -> tuple[torch.Tensor, int]:
    """The first 300,000 characters of Python's own reference, as numbers; and how many different ones there are."""
    from pydoc_data.topics import topics

    text = "".join(dict.fromkeys(topics[name] for name in sorted(topics)))[:300_000]
    characters = sorted({*text})
    place = {character: i for i, character in enumerate(characters)}
    return torch.tensor([place[character] for character in text]), len(characters)


def text_windows() -> tuple[Tensors, Tensors]:
    """Windows of `WINDOW` characters and the ones that follow each; every tenth window is held out."""
    text, _ = _text()
    rows = (len(text) - 1) // WINDOW
    x, y = (text[shift : shift + rows * WINDOW].reshape(rows, WINDOW) for shift in (0, 1))
    held = torch.arange(rows) % 10 == 9
    return (x[~held], y[~held]), (x[held], y[held])


def char_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": WINDOW, "vocab_size": _text()[1]}
    return GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, use_cache=False)).eval()


MODELS = {
    each.name: each
    for each in (
        OwnModel("digits-mlp", digits_mlp, digits, 3000, 1e-3, batch_size=64),
        OwnModel("digits-cnn", digits_cnn, digits, 3000, 1e-3, batch_size=64),
        OwnModel("grokking", AdditionTransformer, modular_addition, 4000, 3e-3, weight_decay=1.0, betas=(0.9, 0.98)),
        OwnModel("char-gpt2", char_gpt2, text_windows, 2000, 3e-3, weight_decay=0.01, batch_size=32),
    )
}
