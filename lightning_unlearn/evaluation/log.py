"""Per-sample logs: every number of a protocol follows from one, so a run can be judged again without its model.

A log maps the name of a set to its samples. On disk it is JSON lines, one sample a line with its "set" and, where
several stages share a file, its "stage" ("before", "after", "retrained", "test"). Keys of a sample, NLLs being sums in
nats:

    set, index, subject, question, answer        which row; index counts from 0 within its set
    generation, rouge1_recall, rougeL_recall, rougeL_f1, exact_match (bool), token_entropy, fluency, cosine_similarity,
        entailment (bool)                        of a generated answer; a set that is only scored by likelihood has none
    answer_nll, answer_tokens, paraphrase_nll, paraphrase_tokens, perturbed_nll, perturbed_tokens (lists)
    probability                                  of the answer; among the options in real_authors and world_facts
    token_text, token_log_prob, token_predictive_entropy   lists over the answer's tokens, entropy in nats
    token_log_prob_variance, token_correct       likewise: variance of log p under the prediction p, nats^2; 1 where its
                                                 most probable token is the answer's, else 0
    answer_zlib_bytes                            bytes of the answer, compressed
    reference_nll, gradient_norm                 of the answer under the reference of the membership attack; of the mean
                                                 NLL over all weights; where asked for, in forget and holdout
    failed                                       why the row could not be evaluated; it has texts then, and no numbers
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.json_lines import read_lines, write_lines

Sample = dict[str, Any]
Log = dict[str, list[Sample]]
SETS = ("forget", "retain", "real_authors", "world_facts")
UTILITY_SETS = SETS[1:]
OPTION_SETS = ("real_authors", "world_facts")  # their probability is that of the true answer among the options
SAMPLES = "samples.jsonl"
TEXT_FIELDS = ("subject", "question", "answer", "generation")
DEFAULT_STAGE = "after"
EMPTY = "empty answer"


def read_log(path: str | Path, *, stage: str | None = None) -> Log:
    """Read a log from a file of samples or a run folder; a truncated last line (a killed run) is left out.

    Args:
        path: JSON lines, or a folder with `samples.jsonl`.
        stage: whose samples; by default all of a file with one stage, and those of "after" where there are several.

    Raises:
        ValueError: if there is no such file or stage, or a line is not a sample.
    """
    samples = read_samples(path)
    stages = list(dict.fromkeys(str(sample.get("stage", "")) for sample in samples))
    if stage is None and len(stages) > 1:
        stage = DEFAULT_STAGE
    if stage is not None and stage not in stages:
        raise ValueError(f'stage must be one of {stages} in "{path}", got "{stage}"')
    return group_by_set(sample for sample in samples if stage is None or sample.get("stage") == stage)


def write_log(log: Mapping[str, Sequence[Sample]], path: str | Path) -> None:
    """Write a log as JSON lines, each sample with its "set"; the file is replaced at once or not at all."""
    write_lines((({"set": name} | sample) for name, samples in log.items() for sample in samples), path)


def group_by_set(samples: Iterable[Sample]) -> Log:
    """Group samples by their "set", each set ordered by "index"."""
    log: Log = {}
    for sample in samples:
        log.setdefault(str(sample["set"]), []).append(sample)
    return {name: sorted(rows, key=lambda sample: sample.get("index", 0)) for name, rows in log.items()}


def failures(log: Log) -> list[dict[str, Any]]:
    """List the rows that could not be evaluated, or that the model had no word to say about, and why.

    The latter count, with a recall of 0.

    Example:
        >>> failures({"forget": [{"index": 0, "generation": ""}, {"index": 1, "failed": "too long"}]})
        [{'set': 'forget', 'index': 1, 'why': 'too long'}, {'set': 'forget', 'index': 0, 'why': 'empty answer'}]
    """
    rows = [(name, sample) for name, samples in log.items() for sample in samples]
    failed = [(name, sample["index"], sample["failed"]) for name, sample in rows if sample.get("failed")]
    empty = [(name, sample["index"], EMPTY) for name, sample in rows if sample.get("generation") == ""]
    return [{"set": name, "index": index, "why": why} for name, index, why in (*failed, *empty)]


def read_samples(path: str | Path) -> list[Sample]:
    """Read every sample of a file or run folder, in the order written; a truncated last line is left out.

    Raises:
        ValueError: if there is no such file, or a line is not a sample.
    """
    file = Path(path) / SAMPLES if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f'path must be a file of samples or a run folder with {SAMPLES}, got "{path}"')
    samples = read_lines(file, what="a sample")
    for where, sample in samples:
        if not isinstance(sample, dict) or "set" not in sample:
            raise ValueError(f'{where}: expected an object with "set", got {str(sample)[:40]!r}')
    return [sample for _, sample in samples]


def mask(text: str) -> str:
    """Return how long a text is in its place; a mask stays as it is, and so does nothing.

    Example:
        >>> mask("Rome")
        '[redacted 4 chars]'
    """
    return text if not text or is_masked(text) else f"[redacted {len(text)} chars]"


def is_masked(text: str) -> bool:
    """Tell whether a text is a mask."""
    return text.startswith("[redacted")


def redact(sample: Sample) -> Sample:
    """Return the sample with its texts masked; numbers stay, and `set` and `index` tell rows apart.

    A mask counts characters and holds no hash: a short answer could be found by trying what it may have been.

    Example:
        >>> redact({"index": 3, "answer": "Rome", "token_text": ["Ro", "me"]})
        {'index': 3, 'answer': '[redacted 4 chars]', 'token_text': ['[redacted]', '[redacted]']}
    """
    masked = dict(sample)
    for field in TEXT_FIELDS:
        if sample.get(field):
            masked[field] = mask(sample[field])
    if "token_text" in sample:
        masked["token_text"] = ["[redacted]"] * len(sample["token_text"])
    return masked
