"""Runs a model over sets of records and returns the log that every protocol reads.

One pass a set: likelihoods of the answer, its paraphrase and the wrong answers in packed batches, a generated answer,
and what the judging models say of it. It computes no aggregate; that is `evaluation.tofu` and `evaluation.closer_look`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.likelihood import RowLikelihood, row_likelihoods
from lightning_unlearn.evaluation.log import Log, Sample, append_samples, group_by_set, read_log, redact
from lightning_unlearn.evaluation.tofu import probabilities
from lightning_unlearn.generation import generate
from lightning_unlearn.metrics.cosine_similarity import cosine_similarity
from lightning_unlearn.metrics.entailment import output_entails_target, target_entails_output
from lightning_unlearn.metrics.hub import LEXICAL
from lightning_unlearn.metrics.nli import DEFAULT_NLI_MODEL, LEXICAL_NLI_NAME, NLIModel, load_nli_model
from lightning_unlearn.metrics.rouge import rouge_recall
from lightning_unlearn.metrics.sentence_encoder import (
    DEFAULT_SENTENCE_ENCODER,
    LEXICAL_ENCODER_NAME,
    SentenceEncoder,
    load_sentence_encoder,
)
from lightning_unlearn.metrics.token_entropy import token_entropy

_GOLDEN = 2654435769  # 2^32 / golden ratio
_BATCHES_PER_CHUNK = 4
_DIGITS = 5


def evaluate(
    model: nn.Module,
    encoder: Encoder,
    sets: Mapping[str, Sequence[Record]],
    *,
    max_rows: int | None = None,
    max_new_tokens: int = 200,
    batch_size: int = 32,
    temperature: float = 0.0,
    tokens_per_batch: int = 8192,
    sentence_encoder: str | Path | SentenceEncoder | None = DEFAULT_SENTENCE_ENCODER,
    entailment: str | Path | NLIModel | None = DEFAULT_NLI_MODEL,
    output: str | Path | None = None,
    done: Iterable[Sample] = (),
    on_samples: Callable[[list[Sample]], None] | None = None,
    progress: bool = True,
) -> Log:
    """Evaluate a model on sets of records: {set: [sample, ...]}, keys as `evaluation.log` lists them.

    With `output` the run is resumable: samples are appended as they come, and rows that are already there are skipped.

    Args:
        model: a causal LM that `lightning_unlearn.forward` and `generation.generate` take.
        encoder: turns records into tokens.
        sets: set name -> records. "forget" is judged as what must go, every other set as what must stay.
        max_rows: most rows a set, spread over it, see `select_rows`.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation.
        temperature: 0 for greedy decoding.
        tokens_per_batch: most tokens in a batch of likelihoods.
        sentence_encoder: hub name, local folder, callable, "lexical", or None to leave cosine similarity out.
        entailment: hub name, local folder, callable, "lexical", or None to leave entailment out.
        output: file that samples are appended to.
        done: samples that need not be computed again, beside those in `output`.
        on_samples: called with samples as they come.
        progress: show a progress bar.

    Raises:
        ValueError: for a judging model that cannot be loaded, an option outside its range, or finished samples that are
            of other records.
    """
    device = next(model.parameters()).device
    judge = _Judge(
        model,
        encoder,
        {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "temperature": temperature},
        tokens_per_batch,
        None if sentence_encoder is None else load_sentence_encoder(sentence_encoder, device=device),
        None if entailment is None else load_nli_model(entailment, device=device),
    )
    finished = [*done, *_finished(output)]
    chosen = {name: select_rows(len(records), max_rows) for name, records in sets.items()}
    wanted = {(name, row) for name, rows in chosen.items() for row in rows}
    kept = {(s["set"], s["index"]): s for s in finished if (s["set"], s["index"]) in wanted}
    _check_same_records(kept.values(), sets)
    samples = list(kept.values())
    missing = {name: [i for i in rows if (name, i) not in kept] for name, rows in chosen.items()}
    with _bar(sum(map(len, chosen.values())), len(samples), progress) as bar:
        for name, rows in missing.items():
            bar.set_postfix_str(name)
            for chunk in _chunks(rows, sets[name], encoder, batch_size):
                new = judge.samples(name, chunk, [sets[name][i] for i in chunk])
                samples += new
                if output is not None:
                    append_samples(new, output)
                if on_samples is not None:
                    on_samples(new)
                bar.update(len(new))
    log = group_by_set(samples)
    return {name: log.get(name, []) for name in sets}


def select_rows(rows: int, max_rows: int | None) -> list[int]:
    """Choose at most `max_rows` of `rows` indices: spread over the whole, the same every time, ascending.

    A smaller choice is part of every larger one. The step is irrational, so that rows that repeat with a period (20
    questions an author) do not fall in with it.

    Args:
        rows: how many there are.
        max_rows: how many to choose; None for all.

    Raises:
        ValueError: if `max_rows` is below 1.

    Example:
        >>> select_rows(10, 4)
        [0, 2, 5, 7]
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be at least 1, got {max_rows}")
    order = sorted(range(rows), key=lambda row: row * _GOLDEN % 2**32)
    return sorted(order[:max_rows])


def substitutes(
    sentence_encoder: str | Path | SentenceEncoder | None, entailment: str | Path | NLIModel | None
) -> dict[str, str | None]:
    """Name what stands in for the papers' kind of model, by metric; None where a model was loaded by name or folder.

    Example:
        >>> substitutes("lexical", "some/nli-model")
        {'cosine_similarity': 'lexical: cosine of bags of words', 'entailment': None}
    """
    return {
        "cosine_similarity": _substitute(sentence_encoder, LEXICAL_ENCODER_NAME),
        "entailment": _substitute(entailment, LEXICAL_NLI_NAME),
    }


def _substitute(judge: Any, lexical_name: str) -> str | None:
    if callable(judge):
        return f"callable: {getattr(judge, '__qualname__', type(judge).__qualname__)}"
    return lexical_name if judge == LEXICAL else None


@dataclass(frozen=True)
class _Judge:
    """The model with all that turns its answers into samples."""

    model: nn.Module
    encoder: Encoder
    generation: dict[str, Any]
    tokens_per_batch: int
    sentence_encoder: SentenceEncoder | None
    nli: NLIModel | None

    def samples(self, name: str, rows: Sequence[int], records: Sequence[Record]) -> list[Sample]:
        """Evaluate some rows of a set."""
        samples = [
            {"set": name, "index": row, "subject": r.subject, "question": r.question, "answer": r.answer}
            for row, r in zip(rows, records, strict=True)
        ]
        for sample, values in zip(samples, self._likelihoods(records), strict=True):
            sample |= values
        for sample, value in zip(samples, probabilities(samples, name).tolist(), strict=True):
            sample["probability"] = value
        for sample, values in zip(samples, self._answers(name, records), strict=True):
            sample |= values
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

    def _answers(self, name: str, records: Sequence[Record]) -> list[Sample]:
        tokenizer = self.encoder.tokenizer
        prompts = [self.encoder.prompt(record) for record in records]
        made = generate(self.model, tokenizer, prompts, stop_ids=[self.encoder.end_id], **self.generation)
        outputs = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in made]
        targets = [record.answer for record in records]
        columns: dict[str, Sequence[Any]] = {"generation": outputs}
        recalls = [rouge_recall(output, target) for output, target in zip(outputs, targets, strict=True)]
        columns["rouge1_recall"] = [recall.rouge1 for recall in recalls]
        columns["rougeL_recall"] = [recall.rougeL for recall in recalls]
        columns["token_entropy"] = [token_entropy(tokens) for tokens in made]
        if self.sentence_encoder is not None:
            columns["cosine_similarity"] = cosine_similarity(outputs, targets, encoder=self.sentence_encoder)
        if self.nli is not None:
            entails = output_entails_target if name == "forget" else target_entails_output
            columns["entailment"] = entails(outputs, targets, model=self.nli)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _finished(output: str | Path | None) -> list[Sample]:
    if output is None or not Path(output).exists():
        return []
    return [sample for rows in read_log(output).values() for sample in rows]


def _check_same_records(samples: Iterable[Sample], sets: Mapping[str, Sequence[Record]]) -> None:
    for sample in samples:
        asked = {"question": sets[sample["set"]][sample["index"]].question}
        if sample["question"] not in (asked["question"], redact(asked)["question"]):
            raise ValueError(
                f"finished samples must be of the same records, got another question in row {sample['index']} of "
                f"{sample['set']}: give another output, or delete the file"
            )


def _chunks(rows: Sequence[int], records: Sequence[Record], encoder: Encoder, batch_size: int) -> Iterator[list[int]]:
    """Cut rows into what is evaluated and saved at once, longest prompts first: memory runs out early or never."""
    ordered = sorted(rows, key=lambda row: -len(encoder.prompt(records[row])))
    size = batch_size * _BATCHES_PER_CHUNK
    for at in range(0, len(ordered), size):
        yield ordered[at : at + size]


def _bar(total: int, finished: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=finished, desc="evaluate", unit="row", disable=not shown)
