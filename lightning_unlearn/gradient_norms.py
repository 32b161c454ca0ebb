"""The norm of each row's gradient over all weights, for the rows of a batch in one backward pass.

Rows do not see each other, so what flows back to a row's tokens is that row's alone. A linear layer with inputs a and
output gradients b has the gradient b^T a, whose squared norm is the sum over tokens t, s of (a_t . a_s)(b_t . b_s): it
takes no gradient of a weight (Goodfellow, arXiv 1510.01799; for sequences Li et al., arXiv 2110.05679).

Shapes: B rows, L longest row, T packed tokens, n labelled tokens of a row, I inputs and O outputs of a layer, D hidden
size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from transformers.pytorch_utils import Conv1D

from lightning_unlearn.data.bins import by_size
from lightning_unlearn.data.packing import PackedBatch, TokenRow, pack
from lightning_unlearn.forward import evaluating, hidden_states, token_statistics
from lightning_unlearn.head import HasTrunk, Head, causal_lm, output_head
from lightning_unlearn.parts import device_of, is_sharded


class _Unusual(Exception):
    """A module whose gradient cannot be told apart by rows."""


def row_gradient_norms(model: nn.Module, rows: Sequence[TokenRow], *, tokens_per_batch: int = 2048) -> list[float]:
    """Compute the L2 norm over all weights of the gradient of each row's mean NLL, in the rows' order.

    Adapters are no weights of their own: the norm is over the weights that they are added to, so that merging them
    changes nothing. The model is in eval mode meanwhile, and which parameters train is left as it was. A model with
    modules that mix tokens in an unusual way, such as experts, takes one backward pass a row.

    Args:
        model: a causal LM, see `lightning_unlearn.forward`; frozen and 4-bit weights count too.
        rows: tokenised rows.
        tokens_per_batch: most tokens in a batch; a longer row gets a batch of its own.

    Raises:
        ValueError: for a sharded model, or `tokens_per_batch` below 1.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}")
    if is_sharded(model):
        raise ValueError("gradient norms need a whole model, got a sharded one")
    device, found = device_of(model), torch.zeros(len(rows), dtype=torch.float64)
    with evaluating(model), torch.enable_grad():
        for chosen in by_size([len(row.input_ids) for row in rows], tokens_per_batch):
            batch = pack({"rows": [rows[i] for i in chosen]}).to(device)
            try:
                with _frozen(model):
                    squares = _squared_norms(model, batch)
            except _Unusual:
                squares = [_squared_norm_of_one(model, pack({"rows": [rows[i]]}).to(device)) for i in chosen]
            found[chosen] = torch.as_tensor(squares, dtype=torch.float64)
    return found.sqrt().tolist()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within it no parameter wants a gradient; afterwards those that did do."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@dataclass
class _Norms:
    """Squared norms of a batch's rows, added up while gradients flow back.

    Attributes:
        batch: packed rows of one role.
        squares: [B].
        tied: the weight that embeds tokens and is the head's too, or None.
        of_head: for each row hidden states [n, D] and what flows back to the raw logits of its tokens, [n, L].
    """

    batch: PackedBatch
    squares: Tensor
    tied: nn.Parameter | None = None
    of_head: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def by_rows(self, x: Tensor) -> Tensor:
        """Lay out [1, T, ...], [B, L, ...] or the same with heads before tokens as [B, L, ...], zeros for no token."""
        packed, padded = (1, len(self.batch.input_ids)), (len(self.batch), max(self.batch.lengths))
        fits = [x.shape[:2] in (packed, padded), x.ndim == 4 and (x.shape[0], x.shape[2]) in (packed, padded)]
        if sum(fits) != 1:
            raise _Unusual
        x = x if fits[0] else x.transpose(1, 2)
        return x if x.shape[:2] == padded else nn.utils.rnn.pad_sequence(x[0].split(self.batch.lengths), True)

    def linear(self, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Add a linear layer's."""
        a, b = _wide(self.by_rows(inputs)), _wide(self.by_rows(gradient))
        self.squares += ((a @ a.mT) * (b @ b.mT)).sum((1, 2))
        if module.bias is not None:
            self.squares += b.sum(1).square().sum(1)

    def embedding(self, module: nn.Embedding, ids: Tensor, gradient: Tensor) -> None:
        """Add an embedding's, and what it has in common with a head of the same weight."""
        ids, e = self.by_rows(ids), _wide(self.by_rows(gradient)) * getattr(module, "embed_scale", 1.0)
        if module.padding_idx is not None:
            e = e * (ids != module.padding_idx).unsqueeze(-1)
        self.squares += ((ids.unsqueeze(1) == ids.unsqueeze(2)) * (e @ e.mT)).sum((1, 2))
        if module.weight is self.tied:
            common = [
                (back * (h @ row[: back.shape[1]].T)).sum() for (h, back), row in zip(self.of_head, e, strict=True)
            ]
            self.squares += 2 * torch.stack(common)

    def tokenwise(self, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Add a norm's, or that of any other module that treats every token alike."""

        def loss(weights: dict[str, Tensor], x: Tensor, b: Tensor) -> Tensor:
            return (_wide(functional_call(module, weights, (x,))) * b).sum()

        weights = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
        found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, self.by_rows(inputs), _wide(self.by_rows(gradient)))
        for value in found.values():
            self.squares += _wide(value).flatten(1).square().sum(1)

    def head(self, head: Head, hidden: Tensor) -> Tensor:
        """Add the output head's, a row at a time, and return what flows back to the hidden states [N, D]."""
        flows = torch.empty_like(hidden)
        counts = self.batch.row_tokens("rows").tolist()
        ends = torch.tensor(counts).cumsum(0).tolist()
        ids = self.batch.input_ids.split(self.batch.lengths)
        for row, (end, count) in enumerate(zip(ends, counts, strict=True)):
            span = slice(end - count, end)
            h = hidden[span].detach().requires_grad_()
            logits = head.logits(h)
            z = _wide(logits.detach())
            dz = z.softmax(-1)
            dz[torch.arange(count), self.batch.targets[span]] -= 1
            dz /= max(count, 1)
            (flows[span],) = torch.autograd.grad(logits, h, dz.to(logits.dtype))
            raw, h = dz * head.logit_scale, _wide(h.detach())
            if head.softcap is not None:
                raw *= 1 - (z / head.softcap).square()
            self.squares[row] += ((raw @ raw.T) * (h @ h.T)).sum()
            if head.bias is not None:
                self.squares[row] += raw.sum(0).square().sum()
            self.of_head.append((h, raw[:, ids[row]]))
        return flows


def _squared_norms(model: nn.Module, batch: PackedBatch) -> Tensor:
    """[B], of a model none of whose parameters wants a gradient."""
    inner, head = causal_lm(model), output_head(model)
    if isinstance(inner, HasTrunk):
        raise _Unusual
    tied = head.layer.weight if head.layer is not None else None
    norms = _Norms(
        batch, torch.zeros(len(batch), device=batch.input_ids.device, dtype=_wide(head.weight[:0]).dtype), tied
    )
    known = list(_modules(inner, norms))  # all of them, before any has a hook
    hooks = [module.register_forward_hook(_reader(norms, add)) for module, add in known if module is not head.layer]
    try:
        hidden = hidden_states(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    torch.autograd.backward(hidden, norms.head(head, hidden))
    return norms.squares


def _wide(x: Tensor) -> Tensor:
    """The tensor in float32 or more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


Add = Callable[[nn.Module, Tensor, Tensor], None]


def _modules(inner: nn.Module, norms: _Norms) -> Iterator[tuple[nn.Module, Add]]:
    """Modules that hold weights, adapters left out, each with what adds its norm."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [module for module in inner.modules() if isinstance(module, BaseTunerLayer)]
    bases = {id(part) for layer in adapted for part in layer.get_base_layer().modules()}
    adapters = {id(part) for layer in adapted for part in layer.modules()} - bases
    for module in inner.modules():
        if id(module) in adapters or next(module.parameters(recurse=False), None) is None:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            yield module, norms.linear
        elif type(module) is nn.Embedding or (isinstance(module, nn.Embedding) and hasattr(module, "embed_scale")):
            yield module, norms.embedding
        elif type(module).__name__.endswith("Norm"):
            yield module, norms.tokenwise
        else:
            raise _Unusual


def _reader(norms: _Norms, add: Add) -> Callable[[nn.Module, tuple, Tensor], None]:
    """A forward hook that has a module's norm added once the gradient of its output is known."""
    seen = set()

    def read(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if not torch.is_grad_enabled():  # the model is tried before its first batch
            return
        if module in seen or len(inputs) != 1:  # the gradients of two calls add up before their norm is taken
            raise _Unusual
        seen.add(module)
        (given,) = (x.detach() for x in inputs)
        norms.by_rows(given)  # an unusual shape is found before the gradients flow
        if not output.requires_grad:
            output.requires_grad_()  # an embedding, where the graph begins
        output.register_hook(lambda gradient: add(module, given, gradient))

    return read


def _squared_norm_of_one(model: nn.Module, batch: PackedBatch) -> float:
    """Of a batch of one row, from the gradients of the weights themselves."""
    weights = [weight for name, weight in model.named_parameters() if not _is_adapter(name)]
    wanted = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(weight.is_floating_point())
        loss = -token_statistics(model, batch).log_prob.mean()
        gradients = torch.autograd.grad(loss, [w for w in weights if w.requires_grad], allow_unused=True)
        return sum(_wide(x.detach()).square().sum().item() for x in gradients if x is not None)
    finally:
        for weight, wants in zip(weights, wanted, strict=True):
            weight.requires_grad_(wants)


def _is_adapter(name: str) -> bool:
    return any(part.startswith("lora_") for part in name.split("."))
