"""A model with all that turns its answers into samples: likelihoods, generated answers, and judges of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.requests import must_go
from lightning_unlearn.data.set_options import SetOptions
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.likelihood import RowLikelihood, row_likelihoods
from lightning_unlearn.evaluation.log import Sample
from lightning_unlearn.evaluation.tofu import probabilities
from lightning_unlearn.generation import generate
from lightning_unlearn.metrics.cosine_similarity import cosine_similarity
from lightning_unlearn.metrics.entailment import output_entails_target, target_entails_output
from lightning_unlearn.metrics.exact_match import exact_match
from lightning_unlearn.metrics.nli import NLIModel
from lightning_unlearn.metrics.rouge import rouge_recall
from lightning_unlearn.metrics.rouge_f1 import rouge_l_f1
from lightning_unlearn.metrics.sentence_encoder import SentenceEncoder
from lightning_unlearn.metrics.token_entropy import token_entropy

_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A record and where it stands: the index counts from 0 within its set."""

    set: str
    index: int
    record: Record


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
    """

    model: nn.Module
    encoder: Encoder
    generation: dict[str, Any]
    tokens_per_batch: int
    sentence_encoder: SentenceEncoder | None
    nli: NLIModel | None

    def samples(self, rows: Sequence[Row], options: SetOptions = SetOptions()) -> list[Sample]:  # noqa: B008
        """Evaluate rows; where the model is sharded over processes, all must call this, if with no rows.

        Args:
            rows: of sets that are asked in the same way.
            options: how.
        """
        records = [row.record for row in rows]
        likelihoods = self._likelihoods(records)
        answers = self._answers(rows, options) if options.generate else [{}] * len(rows)
        samples = []
        for row, values, answer in zip(rows, likelihoods, answers, strict=True):
            record = row.record
            sample: Sample = {"set": row.set, "index": row.index, "subject": record.subject}
            sample |= {"question": record.asked, "answer": record.answer, **values}
            sample["probability"] = probabilities([sample], row.set).item()
            samples.append(sample | answer)
        return samples

    def _likelihoods(self, records: Sequence[Record]) -> list[Sample]:
        """Score every text of every record in one go, and hand each record its own."""
        texts = [
            [r.answer, *([r.paraphrased_answer] if r.paraphrased_answer else []), *r.perturbed_answers] for r in records
        ]
        rows = [self.encoder.row(r, answer=text) for r, group in zip(records, texts, strict=True) for text in group]
        found = iter(row_likelihoods(self.model, rows, tokens_per_batch=self.tokens_per_batch))
        result = []
        for record, group in zip(records, texts, strict=True):
            answer, *others = [next(found) for _ in group]
            # Where a set has no paraphrase, its answer takes that place (TOFU).
            paraphrase = others.pop(0) if record.paraphrased_answer else answer
            result.append(self._numbers(answer, paraphrase, others))
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
            "token_log_prob": [round(value, _DIGITS) for value in answer.log_prob],
            "token_predictive_entropy": [round(value, _DIGITS) for value in answer.entropy],
        }

    def _answers(self, rows: Sequence[Row], options: SetOptions) -> list[Sample]:
        tokenizer = self.encoder.tokenizer
        prompts = [self.encoder.prompt(row.record) for row in rows]
        limit = options.max_new_tokens or self.generation["max_new_tokens"]
        generation = self.generation | {"max_new_tokens": limit}
        made = generate(self.model, tokenizer, prompts, stop_ids=[self.encoder.end_id], **generation)
        if not rows:
            return []
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in made]
        outputs = [options.until_stop(text).strip() for text in texts]
        targets = [self._first(row.record.answer, limit) if options.clip else row.record.answer for row in rows]
        pairs = list(zip(outputs, targets, strict=True))
        columns: dict[str, Sequence[Any]] = {"generation": outputs}
        recalls = [rouge_recall(*pair) for pair in pairs]
        columns["rouge1_recall"] = [recall.rouge1 for recall in recalls]
        columns["rougeL_recall"] = [recall.rougeL for recall in recalls]
        columns["rougeL_f1"] = [rouge_l_f1(*pair) for pair in pairs]
        columns["exact_match"] = [exact_match(*pair) for pair in pairs]
        columns["token_entropy"] = [token_entropy(tokens) for tokens in made]
        if self.sentence_encoder is not None:
            columns["cosine_similarity"] = cosine_similarity(outputs, targets, encoder=self.sentence_encoder)
        if self.nli is not None:
            columns["entailment"] = _entailments([row.set for row in rows], outputs, targets, self.nli)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _first(self, text: str, tokens: int) -> str:
        """Return as much of a text as so many tokens hold."""
        encoded = self.encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return text[: encoded.offset_mapping[:tokens][-1][1]]


def _entailments(sets: Sequence[str], outputs: Sequence[str], targets: Sequence[str], nli: NLIModel) -> list[bool]:
    """Ask of each row whether it is entailed, in the direction of its set."""
    found: dict[int, bool] = {}
    for of_forget, entails in ((True, output_entails_target), (False, target_entails_output)):
        chosen = [i for i, name in enumerate(sets) if must_go(name) == of_forget]
        labels = entails([outputs[i] for i in chosen], [targets[i] for i in chosen], model=nli)
        found |= dict(zip(chosen, labels, strict=True))
    return [found[i] for i in range(len(sets))]
