"""Models as people write them, each with its loss and its data, and what each way of running an estimate does on it."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import llc_dynamics as ld

SAMPLES, CLASSES, TOKENS, LENGTH, WIDTH = 40, 3, 11, 6, 8
SAME = None


@dataclass(frozen=True)
class Animal:
    """A model and what is expected of it.

    make : () -> (model, loss_fn, data).
    loop, vmap, microbatch : SAME, or a pattern of the error's text that says why not and what to do. "auto" is the loop
        on a CPU.
    digits : share of the traces' size to which the ways agree. In float32 the sums of a forward and a backward pass in
        another order differ by some 1e-6 of the loss, of which the trace is a difference.
    random : the loss draws random numbers, others in each way: only the same way twice agrees.
    twin : another animal, written the slow and plain way, whose estimate by the loop must be the same.
    settings : other settings of the estimate than the usual ones.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Any, Any]]
    loop: str | None = SAME
    vmap: str | None = SAME
    microbatch: str | None = SAME
    digits: float = 1e-3
    random: bool = False
    twin: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def born(self) -> tuple[nn.Module, Any, Any]:
        """Made from seeds of its own: the same each time."""
        torch.manual_seed(0)
        return self.make()


ZOO: dict[str, Animal] = {}

# What the error of a way that does not work must say.
NO_VMAP = "use 'loop'"
NO_MICROBATCH = "microbatch_size"
NO_REENTRANT = "use_reentrant=False"

# Few and short trajectories, of a size at which none is refused.
MALT = {"sampler": ld.MALT(localization=1e3, num_steps=4, step_size=1e-3)}
# Batches are then the caller's own tensors.
ALL = {"batch_size": SAMPLES}


def animal(**expected: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Adds what the function makes to the zoo, under its name."""

    def note(make: Callable[[], Any]) -> Callable[[], Any]:
        ZOO[make.__name__] = Animal(make.__name__, make, **expected)
        return make

    return note


# Data, losses and parts of models.


def points():
    """[S, 5], and a class of three for each."""
    x = torch.randn(SAMPLES, 5)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def images():
    x = torch.randn(SAMPLES, 1, 6, 6)
    return x, (x.mean((1, 2, 3)) > 0).long()


def sequences():
    x, y = points()
    return x[:, None] * torch.linspace(0, 1, 4)[:, None], y


def tokens():
    """Token 0 is padding from the length of a sample on."""
    t = torch.randint(1, TOKENS, (SAMPLES, LENGTH))
    length = torch.randint(2, LENGTH + 1, (SAMPLES,))
    t[torch.arange(LENGTH) >= length[:, None]] = 0
    return t, (t[:, 0] > TOKENS // 2).long()


def drawing(batch_of):
    """Data as a function: `batch_of` makes the batch of points and classes."""
    x, y = points()

    def draw(generator, batch_size):
        chosen = torch.randint(SAMPLES, (batch_size,), generator=generator)
        return batch_of(x[chosen], y[chosen])

    return draw


def outputs(model, batch):
    return model(batch[0])


def cross_entropy(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def squares(model, batch):
    return (model(batch[0]) - 1).square().flatten(1).mean(1)


def next_token(logits, t):
    """Mean over the tokens that are not padding, [B]."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), t[:, 1:], reduction="none", ignore_index=0)
    return losses.sum(1) / (t[:, 1:] != 0).sum(1).clamp(min=1)


def language_model(model, batch):
    return next_token(model(batch[0]), batch[0])


def head(width=WIDTH):
    return nn.Linear(width, CLASSES)


def network(first=None, second=None):
    return nn.Sequential(nn.Linear(5, WIDTH) if first is None else first, nn.Tanh(), second or head())


class Sequential(nn.Sequential):
    """Layers that may return more than one thing, of which the first is handed on."""

    def forward(self, x):
        for layer in self:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return x


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# Layers.


@animal()
def mlp():
    return network(), cross_entropy, points()


@animal()
def convolution_with_batch_norm_and_dropout():
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), head(16)),
    )
    data = images()
    model(data[0] + 1)  # running statistics of its own
    return model, cross_entropy, data


def last_of(layer, width=WIDTH):
    return Sequential(layer, Lambda(lambda h: h[:, -1]), head(width)), cross_entropy, sequences()


@animal()
def rnn():
    return last_of(nn.RNN(5, WIDTH, batch_first=True))


@animal()
def lstm():
    return last_of(nn.LSTM(5, WIDTH, batch_first=True))


@animal()
def gru_of_two_layers():
    return last_of(nn.GRU(5, WIDTH, 2, bidirectional=True, dropout=0.2, batch_first=True), 2 * WIDTH)


class Padded(nn.Module):
    """In evaluation mode and without gradients torch takes another path, whose padded positions are zero."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = head()

    def forward(self, t):
        return self.out(self.encoder(self.embedding(t), src_key_padding_mask=t == 0).mean(1))


@animal(settings=MALT)
def padded_transformer_encoder_on_the_usual_path():
    model = Padded()
    model.encoder.enable_nested_tensor = False
    for layer in model.encoder.layers:
        layer.linear1.register_forward_hook(lambda *_: None)  # torch leaves the fast path for a hook
    return model, ld.behavioural(outputs), tokens()


@animal(twin="padded_transformer_encoder_on_the_usual_path", settings=MALT)
def padded_transformer_encoder():
    return Padded(), ld.behavioural(outputs), tokens()


@animal()
def padded_transformer_encoder_with_a_given_loss():
    return Padded(), cross_entropy, tokens()


def averaged_with_padding(padding_idx):
    return bag_of_tokens(padding_idx=padding_idx), cross_entropy, tokens()


@animal()
def embedding_without_padding_row():
    model, loss_fn, data = averaged_with_padding(None)
    with torch.no_grad():
        model[0].weight[0] = 0
    return model, loss_fn, data


@animal(twin="embedding_without_padding_row")
def embedding_whose_padding_row_has_no_gradient():
    return averaged_with_padding(0)


@animal()
def causal_attention():
    class Causal(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(TOKENS, WIDTH)
            self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
            self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS)
            self.register_buffer("mask", torch.ones(LENGTH, LENGTH).triu(1).bool())

        def forward(self, t):
            h = self.embedding(t)
            h = h + self.attention(h, h, h, attn_mask=self.mask, need_weights=False)[0]
            return self.out(self.norm(h))

    return Causal(), language_model, tokens()


def bag_of_tokens(**settings):
    return Sequential(nn.Embedding(TOKENS, WIDTH, **settings), Lambda(lambda h: h.mean(1)), head())


@animal()
def embedding():
    return bag_of_tokens(), cross_entropy, tokens()


@animal(vmap=NO_VMAP, twin="embedding")
def sparse_embedding():
    return bag_of_tokens(sparse=True), cross_entropy, tokens()


@animal(vmap=NO_VMAP, twin="embedding")
def embedding_bag():
    return nn.Sequential(nn.EmbeddingBag(TOKENS, WIDTH, mode="mean", sparse=True), head()), cross_entropy, tokens()


@animal()
def group_and_layer_norm():
    layers = (nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.LayerNorm(64), head(64))
    return nn.Sequential(*layers), cross_entropy, images()


@animal()
def parameter_list_and_dict():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ParameterList([torch.randn(5, WIDTH), torch.randn(WIDTH, CLASSES)])
            self.by_name = nn.ParameterDict({"shift[0]": torch.randn(CLASSES), "log scale": torch.zeros(())})

        def forward(self, x):
            for weight in self.layers:
                x = torch.tanh(x @ weight)
            return x * self.by_name["log scale"].exp() + self.by_name["shift[0]"]

    return Lists(), cross_entropy, points()


# Weights that are made of others, shared, or held.


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.out = nn.Linear(WIDTH, TOKENS, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, t):
        return self.out(self.embedding(t).cumsum(1).tanh())


@animal()
def one_tensor_used_twice():
    model = Tied()
    del model.out
    model.out = lambda h: F.linear(h, model.embedding.weight)
    return model, language_model, tokens()


@animal(twin="one_tensor_used_twice")
def tied_weights():
    return Tied(), language_model, tokens()


SAME_PARAMETER = "the parameter itself"


@animal(loop=SAME_PARAMETER, vmap=SAME_PARAMETER, microbatch=SAME_PARAMETER)
def weights_that_are_tied_by_their_memory():
    model = Tied()
    model.out.weight = nn.Parameter(model.embedding.weight.data)
    return model, language_model, tokens()


@animal()
def orthogonal_parametrization():
    return network(second=nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH))), squares, points()


@animal()
def weight_norm_parametrization():
    return network(nn.utils.parametrizations.weight_norm(nn.Linear(5, WIDTH))), cross_entropy, points()


@animal()
def spectral_norm_parametrization():
    return network(nn.utils.parametrizations.spectral_norm(nn.Linear(5, WIDTH))), cross_entropy, points()


@animal(twin="weight_norm_parametrization")
def legacy_weight_norm():
    model, data = network(nn.utils.weight_norm(nn.Linear(5, WIDTH))), points()
    model(data[0])
    return model, cross_entropy, data


@animal()
def legacy_spectral_norm():
    model, data = network(nn.utils.spectral_norm(nn.Linear(5, WIDTH))), points()
    model(data[0])
    return model, cross_entropy, data


@animal()
def low_rank_adapter_on_a_frozen_base():
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base.requires_grad_(False)
            self.a = nn.Parameter(torch.randn(2, base.in_features))
            self.b = nn.Parameter(torch.zeros(base.out_features, 2))

        def forward(self, x):
            return self.base(x) + x @ self.a.T @ self.b.T

    return network(Adapted(nn.Linear(5, WIDTH)), head().requires_grad_(False)), cross_entropy, points()


class Experts(nn.Module):
    """Of four experts the last is never used."""

    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(5, 4), nn.ModuleList([nn.Linear(5, CLASSES) for _ in range(4)])
        with torch.no_grad():
            self.router.bias[3] = -1e3

    def forward(self, x):
        best = self.router(x).softmax(-1).max(-1)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        return every.take_along_dim(best.indices[:, None, None], 1)[:, 0] * best.values[:, None]


class RoutedExperts(Experts):
    def forward(self, x):
        best = self.router(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), CLASSES)
        for i, expert in enumerate(self.experts):
            chosen = (best.indices == i).nonzero()[:, 0]
            if len(chosen):
                out = out.index_add(0, chosen, expert(x[chosen]) * best.values[chosen, None])
        return out


@animal()
def experts():
    return Experts(), cross_entropy, points()


@animal(vmap=NO_VMAP, twin="experts")
def experts_that_are_skipped_without_samples():
    return RoutedExperts(), cross_entropy, points()


# Forward passes that do more than compute.


class Checkpointed(nn.Module):
    def __init__(self, reentrant, first):
        super().__init__()
        self.a, self.b, self.reentrant, self.first = nn.Linear(5, WIDTH), head(), reentrant, first

    def forward(self, x):
        if self.first:
            return self.b(checkpoint(lambda z: self.a(z).tanh(), x, use_reentrant=self.reentrant))
        return checkpoint(self.b, self.a(x).tanh(), use_reentrant=self.reentrant)


@animal(vmap=NO_VMAP, twin="mlp")
def checkpointed_block():
    return Checkpointed(reentrant=False, first=True), cross_entropy, points()


@animal(loop=NO_REENTRANT, vmap=NO_REENTRANT, microbatch=NO_REENTRANT)
def reentrant_checkpoint_of_the_first_block():
    return Checkpointed(reentrant=True, first=True), cross_entropy, points()


@animal(loop=NO_REENTRANT, vmap=NO_REENTRANT, microbatch=NO_REENTRANT)
def reentrant_checkpoint_of_the_last_block():
    return Checkpointed(reentrant=True, first=False), cross_entropy, points()


class HalfReentrant(Tied):
    """Of a tensor that is used twice, one use is hidden from autograd."""

    def forward(self, t):
        return self.out(checkpoint(lambda t: self.embedding(t).cumsum(1).tanh(), t, use_reentrant=True))


@animal(loop=NO_REENTRANT, vmap=NO_REENTRANT, microbatch=NO_REENTRANT)
def reentrant_checkpoint_that_hides_one_of_two_uses():
    return HalfReentrant(), language_model, tokens()


@animal(loop="detached", vmap="detached", microbatch="detached")
def trunk_that_is_detached_in_one_of_two_uses():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.one, self.other = nn.Linear(5, WIDTH), head(), head()

        def forward(self, x):
            h = self.trunk(x).tanh()
            return self.one(h) + self.other(h.detach())

    return TwoHeads(), cross_entropy, points()


class Forces(nn.Module):
    """F = - dE/dr."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(5, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, r):
        r = r.clone().requires_grad_()
        return -torch.autograd.grad(self.energy(r).sum(), r, create_graph=True)[0]


class ForcesByHand(Forces):
    def forward(self, r):
        first, _, second = self.energy
        return -((1 - first(r).tanh().square()) * second.weight[0]) @ first.weight


@animal()
def forces_by_hand():
    return ForcesByHand(), squares, points()


@animal(vmap=NO_VMAP, twin="forces_by_hand")
def forces_by_autograd():
    return Forces(), squares, points()


@animal(settings=MALT)
def forces_by_hand_behavioural():
    return ForcesByHand(), ld.behavioural(outputs), points()


@animal(vmap=NO_VMAP, twin="forces_by_hand_behavioural", settings=MALT)
def forces_by_autograd_behavioural():
    return Forces(), ld.behavioural(outputs), points()


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0].abs() < 2)


def with_function(function):
    return nn.Sequential(nn.Linear(5, WIDTH), Lambda(function), nn.Tanh(), head()), cross_entropy, points()


@animal()
def quantised_by_detaching():
    def straight_through(h):
        kept = torch.where(h.abs() < 2, h, h.detach())
        return kept + (h.round() - h).detach()

    return with_function(straight_through)


@animal(vmap=NO_VMAP, twin="quantised_by_detaching")
def autograd_function_of_ones_own():
    return with_function(StraightThrough.apply)


@animal()
def no_branch():
    return with_function(lambda h: h / 2)


@animal(vmap=NO_VMAP, twin="no_branch")
def branch_on_values():
    return with_function(lambda h: h / 2 if h.abs().max() > 0 else h)


@animal(vmap=NO_VMAP, twin="mlp")
def caches_as_plain_attributes():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.last, self.seen, self.table = None, [], {"scale": torch.ones(3)}
            self.total = torch.zeros(())

        def forward(self, x):
            h = self.net(x)
            self.last = h
            self.seen.append(h.detach())
            self.table["scale"] = h.detach().std(0)
            self.total += 1
            return h

    model, data = Caching(), points()
    model(data[0])
    return model, cross_entropy, data


class Stateful(nn.Module):
    """Goes on from the hidden state that the last batch has left, as long as nobody puts it back."""

    def __init__(self, forgets=False):
        super().__init__()
        self.layer, self.out, self.forgets = nn.GRU(5, WIDTH, batch_first=True), head(), forgets
        self.state = torch.ones(1, 1, WIDTH)

    def forward(self, x):
        h, state = self.layer(x, self.state.expand(1, len(x), WIDTH).contiguous())
        if not self.forgets:
            self.state = state.detach().mean(1, keepdim=True)
        return self.out(h[:, -1])


@animal()
def recurrent_layer_that_starts_anew():
    return Stateful(forgets=True), cross_entropy, sequences()


@animal(twin="recurrent_layer_that_starts_anew")
def recurrent_layer_that_keeps_its_state():
    return Stateful(), cross_entropy, sequences()


@animal()
def tensors_made_in_the_forward_pass():
    class Making(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.position = network(), nn.Embedding(LENGTH, 5)

        def forward(self, x):
            weights = torch.linspace(0, 1, LENGTH, dtype=x.dtype)
            return self.net(x + weights @ self.position(torch.arange(LENGTH))) + torch.zeros(CLASSES, dtype=x.dtype)

    return Making(), cross_entropy, points()


@animal(twin="mlp")
def buffers_that_a_forward_pass_writes_to():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("mean", torch.zeros(CLASSES), persistent=False)

        def forward(self, x):
            h = self.net(x)
            self.calls += 1
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            return h

    return Counting(), cross_entropy, points()


@animal(loop="detach", vmap="detach", microbatch="detach")
def parameter_that_a_forward_pass_replaces():
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = network(), nn.Parameter(torch.ones(CLASSES))

        def forward(self, x):
            self.scale = nn.Parameter(self.scale.clamp(0.5, 2))
            return self.net(x) * self.scale

    return Clipped(), cross_entropy, points()


@animal(twin="mlp")
def hooks_that_people_put_on():
    model, seen = network(), {}
    model[0].register_forward_hook(lambda *called: seen.update(first=called[2].detach()))
    model[0].register_forward_pre_hook(lambda _, given: (2 * given[0],))
    model[0].register_forward_pre_hook(lambda _, given: (given[0] / 2,))
    return model, cross_entropy, points()


# Numbers of other kinds.


class Fourier(nn.Module):
    def __init__(self, real):
        super().__init__()
        w = torch.randn(4, CLASSES, dtype=torch.complex64)
        self.w = nn.Parameter(torch.view_as_real(w).clone() if real else w)

    def forward(self, x):
        w = self.w if self.w.is_complex() else torch.view_as_complex(self.w)
        return (torch.fft.rfft(x, n=6) @ w).abs()


@animal()
def complex_parameters_as_real_ones():
    return Fourier(real=True), cross_entropy, points()


@animal(twin="complex_parameters_as_real_ones")
def complex_parameters():
    return Fourier(real=False), cross_entropy, points()


@animal(digits=1e-6)
def double_precision():
    x, y = points()
    return network().double(), cross_entropy, (x.double(), y)


@animal(vmap=NO_VMAP)
def one_parameter_in_double_precision():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = network(), nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return self.net(x) * self.scale

    return Scaled(), cross_entropy, points()


@animal(vmap=NO_VMAP, digits=0.3)
def bfloat16():
    x, y = points()
    return (
        network().bfloat16(),
        lambda m, b: F.cross_entropy(m(b[0]).float(), b[1], reduction="none"),
        (x.bfloat16(), y),
    )


@animal(digits=0.3)
def mixed_precision_in_the_loss():
    def loss_fn(model, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[0])
        return F.cross_entropy(logits.float(), batch[1], reduction="none")

    return network(), loss_fn, points()


# From transformers and Lightning.


@animal()
def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=TOKENS, n_positions=LENGTH, n_embd=WIDTH, n_layer=1, n_head=2)
    return GPT2LMHeadModel(config), lambda m, b: next_token(m(b[0]).logits, b[0]), tokens()


SMALL = {
    "vocab_size": TOKENS,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
}


@animal(vmap=NO_VMAP)
def bert_with_a_padding_mask():
    from transformers import BertConfig, BertForSequenceClassification

    def loss_fn(model, batch):
        t, y = batch
        return F.cross_entropy(model(t, attention_mask=(t != 0).long()).logits, y, reduction="none")

    return BertForSequenceClassification(BertConfig(**SMALL, num_labels=CLASSES)), loss_fn, tokens()


@animal(vmap=NO_VMAP)
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    def loss_fn(model, batch):
        t = batch[0]
        return next_token(model(input_ids=t, attention_mask=(t != 0).long()).logits, t)

    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1)), loss_fn, tokens()


def encoded(container):
    t, y = tokens()

    def draw(generator, batch_size):
        chosen = torch.randint(SAMPLES, (batch_size,), generator=generator)
        return container({"input_ids": t[chosen], "labels": y[chosen], "attention_mask": (t[chosen] != 0).long()})

    return draw


@animal()
def encoded_in_a_dict():
    def loss_fn(model, batch):
        weight = batch["attention_mask"].sum(1)
        return weight * F.cross_entropy(model(batch["input_ids"]), batch["labels"], reduction="none")

    return bag_of_tokens(), loss_fn, encoded(dict)


@animal(twin="encoded_in_a_dict")
def batch_encoding():
    from transformers import BatchEncoding

    def loss_fn(model, batch):
        labels = batch.pop("labels")
        weight = batch["attention_mask"].sum(1)
        return weight * F.cross_entropy(model(batch.input_ids), labels, reduction="none")

    return bag_of_tokens(), loss_fn, encoded(BatchEncoding)


@animal(twin="mlp")
def lightning_module():
    import pytorch_lightning as pl

    class Lit(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
            self.save_hyperparameters()

        def forward(self, x):
            return self.net(x)

        def losses(self, batch):
            return F.cross_entropy(self(batch[0]), batch[1], reduction="none")

    return Lit(), lambda model, batch: model.losses(batch), points()


@animal(twin="mlp")
def lightning_module_with_a_metric():
    import pytorch_lightning as pl
    from torchmetrics.classification import MulticlassAccuracy

    class Lit(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.accuracy = network(), MulticlassAccuracy(CLASSES)

        def losses(self, batch):
            logits = self.net(batch[0])
            self.accuracy.update(logits.detach(), batch[1])
            return F.cross_entropy(logits, batch[1], reduction="none")

    return Lit(), lambda model, batch: model.losses(batch), points()


# Wrappers.


@animal(twin="mlp")
def compiled():
    return torch.compile(network(), backend="aot_eager"), cross_entropy, points()


@animal(twin="mlp")
def data_parallel():
    return nn.DataParallel(network()), cross_entropy, points()


@animal(twin="mlp")
def scripted():
    return torch.jit.script(network()), cross_entropy, points()


@animal(twin="mlp")
def traced():
    model, data = network(), points()
    return torch.jit.trace(model, data[0][:4]), cross_entropy, data


@animal()
def averaged_copy():
    model = torch.optim.swa_utils.AveragedModel(network())
    model.update_parameters(network())
    return model, cross_entropy, points()


def lazy():
    return nn.Sequential(nn.LazyLinear(WIDTH), nn.Tanh(), nn.LazyLinear(CLASSES))


@animal()
def lazy_after_its_first_batch():
    model, data = lazy(), points()
    model(data[0])
    return model, cross_entropy, data


@animal(loop="one batch through", vmap="one batch through", microbatch="one batch through")
def lazy_before_its_first_batch():
    return lazy(), cross_entropy, points()


@animal()
def several_models():
    def loss_fn(models, batch):
        return (models[0](batch[0]) - models[1](batch[0])).square().mean(1) + cross_entropy(models[0], batch)

    return nn.ModuleList([network(), network()]), loss_fn, points()


# Batches and losses.


@animal()
def drawn():
    return network(), cross_entropy, drawing(lambda x, y: (x, y))


@animal(twin="drawn")
def loss_that_pops_from_its_batch():
    def loss_fn(model, batch):
        labels = batch.pop("labels")
        return cross_entropy(model, (*batch.values(), labels))

    return network(), loss_fn, drawing(lambda x, y: {"x": x, "labels": y})


def labelled_by(teacher_of):
    """Outputs of the model at w* as targets: the behavioural loss by hand."""
    model, (x, _) = network(), points()
    teacher = teacher_of(model)

    def draw(generator, batch_size):
        chosen = torch.randint(SAMPLES, (batch_size,), generator=generator)
        return x[chosen], teacher(x[chosen]).detach()

    return model, lambda m, b: (m(b[0]) - b[1]).square().mean(1), draw


@animal()
def labels_of_a_copy():
    return labelled_by(copy.deepcopy)


@animal(twin="labels_of_a_copy")
def labels_of_the_model_itself():
    return labelled_by(lambda model: model)


@animal(twin="drawn", vmap=NO_VMAP)
def loss_that_calls_backward_itself():
    def loss_fn(model, batch):
        losses = cross_entropy(model, batch)
        model.zero_grad()
        losses.mean().backward(retain_graph=True)
        return losses

    return network(), loss_fn, drawing(lambda x, y: (x, y))


@animal(settings=ALL)
def loss_that_works_on_copies():
    return network(), lambda m, b: cross_entropy(m, ((b[0] - 0.5) / 2, b[1].clamp(max=1))), points()


@animal(twin="loss_that_works_on_copies", settings=ALL)
def loss_that_works_in_place():
    def loss_fn(model, batch):
        x, y = batch
        x -= 0.5
        x /= 2
        y.clamp_(max=1)
        return cross_entropy(model, (x, y))

    return network(), loss_fn, points()


@animal(settings=ALL)
def forward_pass_that_works_on_a_copy():
    return nn.Sequential(Lambda(lambda x: 0.5 * x), network()), cross_entropy, points()


@animal(twin="forward_pass_that_works_on_a_copy", settings=ALL)
def forward_pass_that_works_in_place():
    return nn.Sequential(Lambda(lambda x: x.mul_(0.5)), network()), cross_entropy, points()


@animal(twin="drawn")
def user_dict():
    class Mine(UserDict):
        @property
        def labels(self):
            return self["labels"]

    return network(), lambda m, b: cross_entropy(m, (b["x"], b.labels)), drawing(lambda x, y: Mine(x=x, labels=y))


@dataclass
class Pair:
    x: torch.Tensor
    y: torch.Tensor
    weight: float = 2.0


@animal(twin="drawn")
def dataclass_batch():
    return network(), lambda m, b: (b.weight - 1) * cross_entropy(m, (b.x, b.y)), drawing(Pair)


class Graph:
    """Nothing that torch knows: tensors as attributes."""

    def __init__(self, x, y):
        self.x, self.y, self.name = x, y, "graph"


@animal(twin="drawn")
def object_with_tensors_in_attributes():
    def loss_fn(model, batch):
        batch.x *= 1
        batch.name = "seen"
        return cross_entropy(model, (batch.x, batch.y))

    return network(), loss_fn, drawing(Graph)


@animal(microbatch=NO_MICROBATCH)
def edges_for_the_whole_batch():
    def loss_fn(model, batch):
        x, edges, y = batch
        return cross_entropy(model, (x.index_add(0, edges[1], x[edges[0]]), y))

    def with_edges(x, y):
        return x, torch.stack([torch.arange(len(x)), torch.arange(len(x)).roll(1)]), y

    return network(), loss_fn, drawing(with_edges)


@animal(vmap=NO_VMAP, microbatch=NO_MICROBATCH)
def sparse_features():
    def loss_fn(model, batch):
        first, *others = model
        h = torch.sparse.mm(batch[0], first.weight.T) + first.bias
        return cross_entropy(nn.Sequential(*others), (h, batch[1]))

    return network(), loss_fn, drawing(lambda x, y: (x.relu().to_sparse(), y))


@animal(vmap=NO_VMAP)
def batches_padded_to_their_own_length():
    def draw(generator, batch_size):
        length = int(torch.randint(3, LENGTH + 1, (), generator=generator))
        return (torch.randint(1, TOKENS, (batch_size, length), generator=generator),)

    return Tied(), language_model, draw


@animal()
def positions_as_many_as_samples():
    """A tensor of B numbers that are no samples: cut into microbatches it is another function."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.position = nn.Embedding(TOKENS, WIDTH), nn.Embedding(16, WIDTH)
            self.out = nn.Linear(WIDTH, TOKENS)

        def forward(self, t, position):
            return self.out(torch.tanh(self.embedding(t) + self.position(position)))

    def draw(generator, batch_size):
        t = torch.randint(TOKENS, (batch_size, 16), generator=generator)
        return {"t": t, "position": torch.arange(16)}

    return Positions(), lambda m, b: next_token(m(**b), b["t"]), draw


@animal(microbatch=NO_MICROBATCH)
def loss_that_compares_the_samples_of_a_batch():
    """Contrastive: the other samples are the negatives."""

    def loss_fn(model, batch):
        h = F.normalize(model(batch[0]), dim=-1)
        return F.cross_entropy(h @ h.T / 0.1, torch.arange(len(h)), reduction="none")

    return network(), loss_fn, points()


@animal(random=True)
def loss_with_dropout_from_the_global_generator():
    def loss_fn(model, batch):
        return F.cross_entropy(model(F.dropout(batch[0], 0.2, training=True)), batch[1], reduction="none")

    return network(), loss_fn, points()


@animal(settings={**MALT, "observe": {"given": cross_entropy}})
def behavioural_and_given_loss():
    return network(), ld.behavioural(outputs, "kl"), points()
