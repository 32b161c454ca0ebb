"""What hidden states still tell: a linear probe at each layer that knows a true answer from wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import Exam, Scores, mean_score
from lightning_unlearn.data.packing import TokenRow, pack
from lightning_unlearn.data.records import Record
from lightning_unlearn.evaluation.likelihood import row_likelihoods
from lightning_unlearn.forward import evaluating, run_trunk
from lightning_unlearn.head import causal_lm
from lightning_unlearn.layers import decoder_layers
from lightning_unlearn.parts import device_of

RANKED, CONTROL = "forget/true_above_wrong", "forget/control"
OUTPUT = "output"
SHUFFLES = 16  # probes of the control, of whose shares it is the mean


class LayerProbe(Attack):
    """Asks hidden states which answer is true: the share of wrong answers that a linear probe ranks below the true one.

    The probe is fitted on retain rows, which every model knows, and asked about forget rows: it finds how this model
    represents "true", and not what is true. It reads the state after the last word of an answer. Point "output" is the
    same share by the model's own likelihoods, so a layer above it knows what the output hides. Chance is 1/2; what
    wording alone gives away, the retained model's share and the control show, a probe fitted to labels that were
    shuffled within each row.

    Args:
        layers: numbers of decoder layers; by default all.
        ridge: penalty on the squared weights of the probe, for standardised states.
        seed: of the shuffled labels.

    Raises:
        ValueError: if `ridge` is not above 0.
    """

    x_name: ClassVar[str] = "layer"
    scores: ClassVar[dict[str, str]] = {RANKED: "True answers above wrong ones", CONTROL: "Control, shuffled labels"}

    def __init__(self, *, layers: Sequence[int] | None = None, ridge: float = 1.0, seed: int = 0) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge must be above 0, got {ridge}")
        self.layers = None if layers is None else list(layers)
        self.ridge = ridge
        self.seed = seed

    def check(self, exam: Exam) -> None:
        """See `Attack`.

        Raises:
            ValueError: if forget or retain rows have no wrong answers.
        """
        for name in ("forget", "retain"):
            if not all(record.perturbed_answers for record in exam.rows(name)):
                raise ValueError(f"LayerProbe needs perturbed answers of every {name} row, got rows without any")

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`."""
        layers = self.layers or list(range(len(decoder_layers(causal_lm(model))[1])))
        texts = {name: candidates(exam.rows(name)) for name in ("retain", "forget")}
        sizes = {name: [len(group) for group in groups] for name, groups in texts.items()}
        rows = {name: _rows(exam, name, groups) for name, groups in texts.items()}

        @cache  # one forward for all layers, and none if all are known
        def states(name: str) -> dict[int, Tensor]:
            return last_states(model, rows[name], layers, exam.tokens_per_batch)

        yield OUTPUT, lambda: mean_score(RANKED, self._by_likelihood(model, exam, rows["forget"], sizes["forget"]))
        for layer in layers:
            yield layer, lambda layer=layer: self._probe({name: states(name)[layer] for name in rows}, sizes)

    def _probe(self, states: dict[str, Tensor], sizes: dict[str, list[int]]) -> Scores:
        draws = torch.Generator().manual_seed(self.seed)
        shuffled = [torch.randint(size, (SHUFFLES,), generator=draws) for size in sizes["retain"]]
        true = [torch.cat([torch.zeros(1, dtype=torch.int64), at]) for at in shuffled]
        labels = torch.cat([2 * one_hot(at, size).T - 1 for size, at in zip(sizes["retain"], true, strict=True)])
        scores = states["forget"] @ ridge_directions(states["retain"], labels.double(), self.ridge)
        ranked, *control = (true_above_wrong(column, sizes["forget"]) for column in scores.unbind(1))
        return {**mean_score(RANKED, ranked), CONTROL: fmean(fmean(shares) for shares in control)}

    def _by_likelihood(
        self, model: nn.Module, exam: Exam, rows: Sequence[TokenRow], sizes: Sequence[int]
    ) -> list[float]:
        scored = row_likelihoods(model, rows, tokens_per_batch=exam.tokens_per_batch)
        return true_above_wrong(torch.tensor([-row.nll / row.tokens for row in scored]), sizes)


def candidates(records: Sequence[Record]) -> list[list[str]]:
    """The true answer of each record and the wrong ones, all in the form of the paraphrase where there is one."""
    return [[record.paraphrased_answer or record.answer, *record.perturbed_answers] for record in records]


def true_above_wrong(scores: Tensor, sizes: Sequence[int]) -> list[float]:
    """Of each row the share of wrong answers with a lower score than the true one; equal ones count half.

    Args:
        scores: of all answers, a row's true one first.
        sizes: answers of each row.

    Example:
        >>> true_above_wrong(torch.tensor([2.0, 1.0, 3.0, 5.0, 5.0]), [3, 2])
        [0.5, 0.5]
    """
    rows = scores.double().split(list(sizes))
    return [float(((row[0] > row[1:]).double() + (row[0] == row[1:]).double() / 2).mean()) for row in rows]


def ridge_directions(states: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """Weights [D, K] of linear probes, one for each column of labels: ridge regression on standardised states.

    Args:
        states: float64 [N, D], as they are; so are those that the weights are for.
        labels: float64 [N, K].
        ridge: penalty, relative to the variance of a standardised state.
    """
    spread = states.std(0).clamp(min=1e-6)
    z = (states - states.mean(0)) / spread
    gram = z.T @ z / len(z) + ridge * torch.eye(z.shape[1], dtype=z.dtype)
    return torch.linalg.solve(gram, z.T @ (labels - labels.mean(0)) / len(z)) / spread[:, None]


@torch.no_grad()
def last_states(model: nn.Module, rows: Sequence[TokenRow], layers: Sequence[int], budget: int) -> dict[int, Tensor]:
    """Hidden states of each row at its last labelled position, float64 [M, D] by layer, all layers in one forward."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with evaluating(model):
        for chosen in _chunks(rows, budget):
            batch = pack({"rows": chosen}).to(device_of(model))
            ends = batch.row_tokens("rows").cumsum(0) - 1
            states, _ = run_trunk(model, batch, layers=layers)
            for layer in layers:
                found[layer].append(states[layer].index_select(0, ends).double().cpu())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def _rows(exam: Exam, name: str, texts: Sequence[Sequence[str]]) -> list[TokenRow]:
    pairs = zip(exam.rows(name), texts, strict=True)
    return [exam.encoder.row(record, answer=text) for record, group in pairs for text in group]


def _chunks(rows: Sequence[TokenRow], budget: int) -> Iterator[list[TokenRow]]:
    """Cut rows, in their order, into batches of at most so many tokens."""
    chunk: list[TokenRow] = []
    used = 0
    for row in rows:
        if chunk and used + len(row.input_ids) > budget:
            yield chunk
            chunk, used = [], 0
        chunk.append(row)
        used += len(row.input_ids)
    yield chunk
