"""A model with all that turns its answers into samples: likelihoods, generated answers, and judges of these.

A row that cannot be evaluated says why in its sample, and the others go on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import torch
from torch import nn

from lightning_unlearn.data.packing import TokenRow
from lightning_unlearn.data.records import HOLDOUT, Record, RecordError, reason
from lightning_unlearn.data.requests import must_go
from lightning_unlearn.data.set_options import SetOptions
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.likelihood import RowLikelihood, group_likelihoods, row_likelihoods
from lightning_unlearn.evaluation.log import Sample
from lightning_unlearn.evaluation.tofu import probabilities
from lightning_unlearn.generation import generate
from lightning_unlearn.gradient_norms import row_gradient_norms
from lightning_unlearn.metrics.cosine_similarity import cosine_similarity
from lightning_unlearn.metrics.entailment import output_entails_target, target_entails_output
from lightning_unlearn.metrics.exact_match import exact_match
from lightning_unlearn.metrics.fluency import fluency
from lightning_unlearn.metrics.hub import words
from lightning_unlearn.metrics.nli import NLIModel
from lightning_unlearn.metrics.rouge import rouge_recall
from lightning_unlearn.metrics.rouge_f1 import rouge_l_f1
from lightning_unlearn.metrics.sentence_encoder import SentenceEncoder
from lightning_unlearn.metrics.token_entropy import token_entropy
from lightning_unlearn.models import positions
from lightning_unlearn.parts import is_sharded

_DIGITS = 6  # of a token's numbers: float32 has no more


@dataclass(frozen=True, slots=True)
class Row:
    """A record and where it stands: the index counts from 0 within its set."""

    set: str
    index: int
    record: Record


@dataclass(frozen=True)
class _Encoded:
    """A row in tokens, or why it cannot be evaluated.

    Attributes:
        row: the record and where it stands.
        prompt: what the model answers.
        group: the answer, its paraphrase if there is one, and the wrong answers.
        failed: "" where it can.
    """

    row: Row
    prompt: list[int] = field(default_factory=list)
    group: list[TokenRow] = field(default_factory=list)
    failed: str = ""

    @property
    def attacked(self) -> bool:
        """Whether membership attacks tell its set from another."""
        return must_go(self.row.set) or self.row.set == HOLDOUT


@dataclass(frozen=True)
class Judge:
    """Evaluates rows of any sets together.

    Attributes:
        model: a causal LM.
        encoder: turns records into tokens.
        generation: options of `generation.generate`.
        tokens_per_batch: most tokens in a batch of likelihoods.
        sentence_encoder: None to leave cosine similarity out.
        nli: None to leave entailment out.
        reference: model that the reference attack compares with; None to leave it out.
        gradient_norms: whether the gradient norms of forget and holdout rows are wanted.
    """

    model: nn.Module
    encoder: Encoder
    generation: dict[str, Any]
    tokens_per_batch: int
    sentence_encoder: SentenceEncoder | None
    nli: NLIModel | None
    reference: nn.Module | None = None
    gradient_norms: bool = False

    def samples(self, rows: Sequence[Row], options: SetOptions = SetOptions()) -> list[Sample]:  # noqa: B008
        """Evaluate rows; where the model is sharded over processes, all must call this, if with no rows.

        Args:
            rows: of sets that are asked in the same way.
            options: how.
        """
        encoded = [self._encode(row, options) for row in rows]
        made = iter(self._evaluated([row for row in encoded if not row.failed], options))
        return [_sample(row, {"failed": row.failed} if row.failed else next(made)) for row in encoded]

    def _encode(self, row: Row, options: SetOptions) -> _Encoded:
        record = row.record
        texts = [record.answer, *filter(None, [record.paraphrased_answer]), *record.perturbed_answers]
        try:
            found = _Encoded(row, self.encoder.prompt(record), [self.encoder.row(record, answer=x) for x in texts])
        except RecordError as error:
            return _Encoded(row, failed=reason(error, record))
        limit, longest = positions(self.model) or inf, max(len(text.input_ids) for text in found.group)
        if options.generate and len(found.prompt) >= limit:
            return _Encoded(row, failed=f"the prompt has {len(found.prompt)} tokens, the model takes {limit}")
        if longest > limit:
            return _Encoded(row, failed=f"the row has {longest} tokens, the model takes {limit} (max_length cuts rows)")
        return found

    def _evaluated(self, rows: Sequence[_Encoded], options: SetOptions) -> list[Sample]:
        """Likelihoods and answers of rows; of those for which memory or the model's positions run out, why."""
        try:
            numbers = self._likelihoods(rows)
            answers = self._answers(rows, options) if options.generate else [{}] * len(rows)
        except (torch.OutOfMemoryError, IndexError) as error:
            if is_sharded(self.model):  # the other processes are in the midst of it
                raise
            if len(rows) == 1:
                return [{"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}]
            half = len(rows) // 2
            return [*self._evaluated(rows[:half], options), *self._evaluated(rows[half:], options)]
        return [
            found | answer if _is_finite(found) else {"failed": "the model's likelihoods are not finite"}
            for found, answer in zip(numbers, answers, strict=True)
        ]

    def _likelihoods(self, rows: Sequence[_Encoded]) -> list[Sample]:
        """Score every text of every row in one go, and hand each row its own."""
        found = group_likelihoods(self.model, [row.group for row in rows], tokens_per_batch=self.tokens_per_batch)
        result = []
        for row, (answer, *others) in zip(rows, found, strict=True):
            # Where a set has no paraphrase, its answer takes that place (TOFU).
            paraphrase = others.pop(0) if row.row.record.paraphrased_answer else answer
            result.append(self._numbers(answer, paraphrase, others))
        attacked = [(row.group[0], numbers) for row, numbers in zip(rows, result, strict=True) if row.attacked]
        answers = [answer for answer, _ in attacked]
        if self.reference is not None:
            found_by_reference = row_likelihoods(self.reference, answers, in_detail=False)
            for (_, numbers), theirs in zip(attacked, found_by_reference, strict=True):
                numbers["reference_nll"] = theirs.nll
        if self.gradient_norms:
            for (_, numbers), norm in zip(attacked, row_gradient_norms(self.model, answers), strict=True):
                numbers["gradient_norm"] = norm
        return result

    def _numbers(self, answer: RowLikelihood, paraphrase: RowLikelihood, wrong: list[RowLikelihood]) -> Sample:
        return {
            "answer_nll": answer.nll,
            "answer_tokens": answer.tokens,
            "paraphrase_nll": paraphrase.nll,
            "paraphrase_tokens": paraphrase.tokens,
            "perturbed_nll": [row.nll for row in wrong],
            "perturbed_tokens": [row.tokens for row in wrong],
            "token_text": [self.encoder.tokenizer.decode([token]) for token in answer.targets],
            "token_log_prob": _rounded(answer.log_prob),
            "token_predictive_entropy": _rounded(answer.entropy),
            "token_log_prob_variance": _rounded(answer.log_prob_variance),
            "token_correct": answer.correct,
        }

    def _answers(self, rows: Sequence[_Encoded], options: SetOptions) -> list[Sample]:
        tokenizer = self.encoder.tokenizer
        limit = options.max_new_tokens or self.generation["max_new_tokens"]
        generation = self.generation | {"max_new_tokens": limit}
        made = generate(
            self.model, tokenizer, [row.prompt for row in rows], stop_ids=[self.encoder.end_id], **generation
        )
        if not rows:
            return []
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in made]
        outputs = [options.until_stop(text).strip() for text in texts]
        targets = [self._target(row.row.record, options, limit) for row in rows]
        pairs = list(zip(outputs, targets, strict=True))
        columns: dict[str, Sequence[Any]] = {"generation": outputs}
        recalls = [rouge_recall(*pair) for pair in pairs]
        columns["rouge1_recall"] = [recall.rouge1 for recall in recalls]
        columns["rougeL_recall"] = [recall.rougeL for recall in recalls]
        columns["rougeL_f1"] = [rouge_l_f1(*pair) for pair in pairs]
        columns["exact_match"] = [exact_match(*pair) for pair in pairs]
        columns["fluency"] = [fluency(words(output)) for output in outputs]
        columns["token_entropy"] = [token_entropy(tokens) for tokens in made]
        if self.sentence_encoder is not None:
            columns["cosine_similarity"] = cosine_similarity(outputs, targets, encoder=self.sentence_encoder)
        if self.nli is not None:
            columns["entailment"] = _entailments([row.row.set for row in rows], outputs, targets, self.nli)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _target(self, record: Record, options: SetOptions, tokens: int) -> str:
        """Return what an answer is judged by: the true one, or as much of it as so many tokens hold."""
        text = record.answer
        if not options.clip:
            return text
        encoded = self.encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return text[: encoded.offset_mapping[:tokens][-1][1]]


def _sample(encoded: _Encoded, found: Sample) -> Sample:
    """Put a row's texts beside its numbers."""
    row = encoded.row
    texts = {"subject": row.record.subject, "question": row.record.asked, "answer": row.record.answer}
    sample = {"set": row.set, "index": row.index, **texts, **found}
    if "failed" not in sample:
        sample["answer_zlib_bytes"] = len(zlib.compress(row.record.answer.encode()))
        sample["probability"] = probabilities([sample], row.set).item()
    return sample


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _is_finite(numbers: Sample) -> bool:
    """Whether every likelihood is a number."""
    values = (value if isinstance(value, list) else [value] for value in numbers.values())
    return all(isfinite(x) for listed in values for x in listed if isinstance(x, float))


def _entailments(sets: Sequence[str], outputs: Sequence[str], targets: Sequence[str], nli: NLIModel) -> list[bool]:
    """Ask of each row whether it is entailed, in the direction of its set."""
    found: dict[int, bool] = {}
    for of_forget, entails in ((True, output_entails_target), (False, target_entails_output)):
        chosen = [i for i, name in enumerate(sets) if must_go(name) == of_forget]
        labels = entails([outputs[i] for i in chosen], [targets[i] for i in chosen], model=nli)
        found |= dict(zip(chosen, labels, strict=True))
    return [found[i] for i in range(len(sets))]
