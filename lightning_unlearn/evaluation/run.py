"""Runs a model over sets of records and returns the log that every protocol reads.

Of each row: likelihoods of the answer, its paraphrase and the wrong answers in packed batches, a generated answer, and
what the judging models say of it. It computes no aggregate; that is `evaluation.tofu` and `evaluation.closer_look`.

Rows are taken in rounds, of which each process evaluates a share; the first process alone reads and writes files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.set_options import SetOptions, options_of
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.judge import Judge, Row
from lightning_unlearn.evaluation.log import Log, Sample, group_by_set, read_log, redact
from lightning_unlearn.evaluation.shares import share_of
from lightning_unlearn.json_lines import append_lines
from lightning_unlearn.metrics.hub import LEXICAL
from lightning_unlearn.metrics.nli import DEFAULT_NLI_MODEL, LEXICAL_NLI_NAME, NLIModel, load_nli_model
from lightning_unlearn.metrics.sentence_encoder import (
    DEFAULT_SENTENCE_ENCODER,
    LEXICAL_ENCODER_NAME,
    SentenceEncoder,
    load_sentence_encoder,
)
from lightning_unlearn.parts import device_of, is_sharded
from lightning_unlearn.processes import from_first, gather, rank, together

COSTLY = ("reference_nll", "gradient_norm")  # columns of a sample that no validation computes
_GOLDEN = 2654435769  # 2^32 / golden ratio


class EvaluationStopped(Exception):
    """An evaluation was told to stop before its end; every sample that was finished has been handed on."""


def evaluate(
    model: nn.Module,
    encoder: Encoder,
    sets: Mapping[str, Sequence[Record]],
    *,
    set_options: Mapping[str, SetOptions] = MappingProxyType({}),
    max_rows: int | None = None,
    max_new_tokens: int = 200,
    batch_size: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    tokens_per_batch: int = 8192,
    sentence_encoder: str | Path | SentenceEncoder | None = DEFAULT_SENTENCE_ENCODER,
    entailment: str | Path | NLIModel | None = DEFAULT_NLI_MODEL,
    reference: nn.Module | None = None,
    gradient_norms: bool = False,
    output: str | Path | None = None,
    done: Iterable[Sample] = (),
    on_samples: Callable[[list[Sample]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    progress: bool = True,
) -> Log:
    """Evaluate a model on sets of records: {set: [sample, ...]}, keys as `evaluation.log` lists them.

    With `output` the run is resumable: samples are appended as they come, and rows that are already there are skipped.

    In a process group every process must call this with the same arguments, and returns the same log. Each row is
    evaluated once: by one process, or, where tensor parallelism cuts the layers, by those that share them. Numbers are
    those of a single process up to rounding. `output` and `done` are read, and `output` is written, by the first alone.

    Args:
        model: a causal LM that `lightning_unlearn.forward` and `generation.generate` take.
        encoder: turns records into tokens.
        sets: set name -> records. "forget" (and "forgotten_1", ... of earlier requests) is judged as what must go,
            every other set as what must stay.
        set_options: how the rows of some sets are asked, where that differs from the others.
        max_rows: most rows a set, spread over it, see `select_rows`.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation; so many rows of each process are finished at once.
        temperature: 0 for greedy decoding; otherwise what is drawn follows from the prompt and the seed alone.
        seed: of the draws.
        tokens_per_batch: most tokens in a batch of likelihoods.
        sentence_encoder: hub name, local folder, callable, "lexical", or None to leave cosine similarity out.
        entailment: hub name, local folder, callable, "lexical", or None to leave entailment out.
        reference: model that the reference attack compares with, on the same device; for forget and holdout rows.
        gradient_norms: compute the norm of the gradient of forget and holdout rows, for the attack by it.
        output: file that samples are appended to.
        done: samples that need not be computed again, beside those in `output`.
        on_samples: called with samples as they come, on every process with those of all.
        stop: asked again and again whether to stop; it is enough that one process is told.
        progress: show a progress bar, on the first process for all.

    Raises:
        ValueError: for a judging model that cannot be loaded, an option outside its range, or finished samples that are
            of other records.
        EvaluationStopped: on every process, once `stop` returned True on any.
        RuntimeError: if another process failed. Where the model is sharded, processes that wait for one that failed are
            left to whatever started them.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if gradient_norms and is_sharded(model):
        raise ValueError("gradient_norms must be off for a sharded model, got True")
    device = device_of(model)
    judge = Judge(
        model,
        encoder,
        {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "temperature": temperature, "seed": seed},
        tokens_per_batch,
        together(lambda: None if sentence_encoder is None else load_sentence_encoder(sentence_encoder, device=device)),
        together(lambda: None if entailment is None else load_nli_model(entailment, device=device)),
        reference,
        gradient_norms,
    )
    rows = [Row(name, i, sets[name][i]) for name in sets for i in select_rows(len(sets[name]), max_rows)]
    samples = from_first(lambda: _kept([*done, *_finished(output)], rows))
    kept = {(sample["set"], sample["index"]) for sample in samples}
    share = share_of(model)
    with _bar(len(rows), len(kept), progress and rank() == 0) as bar:
        missing = [row for row in rows if (row.set, row.index) not in kept]
        for options, chosen in _rounds(missing, encoder, batch_size * share.parts, set_options):
            if any(gather(stop is not None and stop())):
                raise EvaluationStopped(f"stopped with {len(samples)} of {len(rows)} rows finished")
            new = share.deal(chosen, partial(judge.samples, options=options))
            samples += new
            if output is not None and rank() == 0:
                append_lines(new, output)
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


def part_of(log: Log, sets: Mapping[str, Sequence[Record]], max_rows: int | None) -> Log:
    """Return the samples of a log as a validation would have had them: of fewer rows, without the costly columns.

    Args:
        log: samples by set.
        sets: the records that were evaluated.
        max_rows: see `select_rows`.
    """
    chosen = {name: set(select_rows(len(records), max_rows)) for name, records in sets.items() if name in log}
    return {
        name: [
            {key: value for key, value in sample.items() if key not in COSTLY}
            for sample in log[name]
            if sample["index"] in rows
        ]
        for name, rows in chosen.items()
    }


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


def _finished(output: str | Path | None) -> list[Sample]:
    if output is None or not Path(output).exists():
        return []
    return [sample for rows in read_log(output).values() for sample in rows]


def _kept(finished: Iterable[Sample], rows: Sequence[Row]) -> list[Sample]:
    """The finished samples of these rows, the last of each."""
    wanted = {(row.set, row.index): row.record for row in rows}
    kept = {(s["set"], s["index"]): s for s in finished if (s["set"], s["index"]) in wanted}
    for at, sample in kept.items():
        asked = {"question": wanted[at].asked}
        if sample["question"] not in (asked["question"], redact(asked)["question"]):
            raise ValueError(
                f"finished samples must be of the same records, got another question in row {sample['index']} of "
                f"{sample['set']}: give another output, or delete the file"
            )
    return list(kept.values())


def _rounds(
    rows: Sequence[Row], encoder: Encoder, size: int, set_options: Mapping[str, SetOptions]
) -> Iterator[tuple[SetOptions, list[Row]]]:
    """Cut rows into what is evaluated and saved at once, rows that are asked alike together.

    The longest prompts come first, and the groups with them: memory runs out early or never.
    """
    groups: dict[SetOptions, list[Row]] = {}
    for row in sorted(rows, key=lambda row: -len(encoder.prompt(row.record))):
        groups.setdefault(options_of(row.set, set_options), []).append(row)
    for options, alike in groups.items():
        for at in range(0, len(alike), size):
            yield options, alike[at : at + size]


def _bar(total: int, finished: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=finished, desc="evaluate", unit="row", disable=not shown)
