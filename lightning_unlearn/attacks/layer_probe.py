"""What hidden states still tell: a linear probe at each layer that knows a true answer from wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import chain
from math import inf
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lightning_unlearn.attacks.base import Attack, Measurement
from lightning_unlearn.attacks.exam import FAILED, Exam, Scores, failed, mean_score
from lightning_unlearn.data.packing import TokenRow, pack
from lightning_unlearn.data.records import Record, RecordError, reason
from lightning_unlearn.evaluation.likelihood import row_likelihoods
from lightning_unlearn.evaluation.log import Sample
from lightning_unlearn.forward import evaluating, run_trunk
from lightning_unlearn.head import causal_lm
from lightning_unlearn.layers import decoder_layers
from lightning_unlearn.models import positions
from lightning_unlearn.parts import device_of

RANKED, CONTROL = "forget/true_above_wrong", "forget/control"
OUTPUT = "output"
SETS = ("forget", "retain")
SHUFFLES = 16  # probes of the control, of whose shares it is the mean


class LayerProbe(Attack):
    """Asks hidden states which answer is true: the share of wrong answers that a linear probe ranks below the true one.

    The probe is fitted on retain rows, which every model knows, and asked about forget rows: it finds how this model
    represents "true", and not what is true. It reads the state after the last word of an answer. Point "output" is the
    same share by the model's own likelihoods, so a layer above it knows what the output hides. Chance is 1/2; what
    wording alone gives away, the retained model's share and the control show, a probe fitted to labels that were
    shuffled within each row. Rows without wrong answers, or too long for the model, are left out and named.

    Args:
        layers: numbers of decoder layers, negative ones from the end; by default all.
        ridge: penalty on the squared weights of the probe, for standardised states.
        seed: of the shuffled labels.

    Raises:
        ValueError: if `ridge` is not above 0 and finite, or `layers` is empty.
    """

    x_name: ClassVar[str] = "layer"
    scores: ClassVar[dict[str, str]] = {RANKED: "True answers above wrong ones", CONTROL: "Control, shuffled labels"}

    def __init__(self, *, layers: Sequence[int] | None = None, ridge: float = 1.0, seed: int = 0) -> None:
        if layers is not None and not layers:
            raise ValueError(f"layers must hold a number, got {list(layers)}; leave it out for all")
        if not 0 < ridge < inf:
            raise ValueError(f"ridge must be above 0 and finite, got {ridge}")
        self.layers = None if layers is None else list(layers)
        self.ridge = ridge
        self.seed = seed

    def check(self, exam: Exam) -> None:
        """See `Attack`.

        Raises:
            ValueError: if no forget or no retain rows have wrong answers, or the model lacks a layer.
        """
        for name in SETS:
            if not any(record.perturbed_answers for record in exam.rows(name).values()):
                raise ValueError(f"data must have perturbed answers of {name} rows, got none")
        depth = exam.layers
        if depth is not None and not all(-depth <= layer < depth for layer in self.layers or ()):
            raise ValueError(f"layers must be in [-{depth}, {depth}), got {self.layers}")

    def points(self, model: nn.Module, exam: Exam) -> Iterator[Measurement]:
        """See `Attack`."""
        layers = self.layers or list(range(len(decoder_layers(causal_lm(model))[1])))
        samples = {name: [encoded(model, exam, name, *row) for row in exam.rows(name).items()] for name in SETS}
        groups = {name: [sample["rows"] for sample in of if "rows" in sample] for name, of in samples.items()}
        for name in SETS:
            if not groups[name]:
                raise ValueError(f"no {name} row could be asked: {samples[name][0][FAILED]}")
        without = failed(list(chain(*samples.values())))
        sizes = {name: [len(group) for group in of] for name, of in groups.items()}
        rows = {name: list(chain(*of)) for name, of in groups.items()}

        @cache  # one forward for all layers, and none if all are known
        def states(name: str) -> dict[int, Tensor]:
            return last_states(model, rows[name], layers, exam.tokens_per_batch)

        def probed(layer: int) -> Scores:
            return self._probe({name: states(name)[layer] for name in rows}, sizes)

        by_likelihood = partial(self._by_likelihood, model, exam, rows["forget"], sizes["forget"])
        yield OUTPUT, lambda: {**mean_score(RANKED, by_likelihood()), **without}
        for layer in layers:
            yield layer, lambda layer=layer: {**probed(layer), **without}

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


def candidates(record: Record) -> list[str]:
    """The true answer of a record and the wrong ones, all in the form of the paraphrase where there is one."""
    return [record.paraphrased_answer or record.answer, *record.perturbed_answers]


def encoded(model: nn.Module, exam: Exam, name: str, index: int, record: Record) -> Sample:
    """A row of an evaluation set with the tokens of its answers under "rows", or why it "failed"."""
    row: Sample = {"set": name, "index": index}
    if not record.perturbed_answers:
        return {**row, FAILED: "it has no wrong answers"}
    try:
        found = [exam.encoder.row(record, answer=text) for text in candidates(record)]
    except RecordError as error:
        return {**row, FAILED: reason(error, record)}
    longest, limit = max(len(one.input_ids) for one in found), positions(model)
    if limit is not None and longest > limit:
        return {**row, FAILED: f"it has {longest} tokens with an answer, the model takes {limit}"}
    return {**row, "rows": found}


def true_above_wrong(scores: Tensor, sizes: Sequence[int]) -> list[float]:
    """Of each row the share of wrong answers with a lower score than the true one; equal ones count half.

    Args:
        scores: of all answers, a row's true one first.
        sizes: answers of each row.

    Raises:
        ValueError: for scores that are not finite.

    Example:
        >>> true_above_wrong(torch.tensor([2.0, 1.0, 3.0, 5.0, 5.0]), [3, 2])
        [0.5, 0.5]
    """
    if not scores.isfinite().all():
        raise ValueError("scores must be finite, got NaN or infinity from the model's states or likelihoods")
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
