"""Per-sample logs: every number of a protocol follows from one, so a run can be judged again without its model.

A log maps the name of a set to its samples. On disk it is JSON lines, one sample a line with its "set" and, where
several stages share a file, its "stage" ("before", "after", "retrained", "test"). Keys of a sample, NLLs being sums in
nats:

    set, index, subject, question, answer        which row; index counts from 0 within its set
    generation, rouge1_recall, rougeL_recall, token_entropy, cosine_similarity, entailment (bool)
    answer_nll, answer_tokens, paraphrase_nll, paraphrase_tokens, perturbed_nll, perturbed_tokens (lists)
    probability                                  of the answer; among the options in real_authors and world_facts
    token_text, token_log_prob, token_predictive_entropy   lists over the answer's tokens, entropy in nats
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Sample = dict[str, Any]
Log = dict[str, list[Sample]]
SETS = ("forget", "retain", "real_authors", "world_facts")
UTILITY_SETS = SETS[1:]
OPTION_SETS = ("real_authors", "world_facts")  # their probability is that of the true answer among the options
SAMPLES = "samples.jsonl"
TEXT_FIELDS = ("subject", "question", "answer", "generation")
DEFAULT_STAGE = "after"


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
    write_samples((({"set": name} | sample) for name, samples in log.items() for sample in samples), path)


def group_by_set(samples: Iterable[Sample]) -> Log:
    """Group samples by their "set", each set ordered by "index"."""
    log: Log = {}
    for sample in samples:
        log.setdefault(str(sample["set"]), []).append(sample)
    return {name: sorted(rows, key=lambda sample: sample.get("index", 0)) for name, rows in log.items()}


def read_samples(path: str | Path) -> list[Sample]:
    """Read every sample of a file or run folder, in the order written; a truncated last line is left out.

    Raises:
        ValueError: if there is no such file, or a line is not a sample.
    """
    file = Path(path) / SAMPLES if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f'path must be a file of samples or a run folder with {SAMPLES}, got "{path}"')
    lines = file.read_text(encoding="utf-8").split("\n")
    samples = [_parse(line, f"{file}:{number}") for number, line in enumerate(lines[:-1], 1) if line.strip()]
    if lines[-1].strip():  # no newline at the end: a whole sample from another tool, or the rest of a killed run
        with suppress(ValueError):
            samples.append(_parse(lines[-1], f"{file}:{len(lines)}"))
    return samples


def write_samples(samples: Iterable[Sample], path: str | Path) -> None:
    """Write samples as JSON lines; the file is replaced at once or not at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(_line(sample) for sample in samples), encoding="utf-8")
    os.replace(partial, file)


def append_samples(samples: Iterable[Sample], path: str | Path) -> None:
    """Append samples to a file, after dropping a truncated last line."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as stream:
        stream.truncate(_whole_lines(stream))
        stream.write("".join(_line(sample) for sample in samples).encode())


def redact(sample: Sample) -> Sample:
    """Return the sample with its texts masked; numbers stay, and `set` and `index` tell rows apart.

    A mask counts characters and holds no hash: a short answer could be found by trying what it may have been.

    Example:
        >>> redact({"index": 3, "answer": "Rome", "token_text": ["Ro", "me"]})
        {'index': 3, 'answer': '[redacted 4 chars]', 'token_text': ['[redacted]', '[redacted]']}
    """
    masked = dict(sample)
    for field in TEXT_FIELDS:
        text = sample.get(field)
        if text and not text.startswith("[redacted"):  # masking twice changes nothing
            masked[field] = f"[redacted {len(text)} chars]"
    if "token_text" in sample:
        masked["token_text"] = ["[redacted]"] * len(sample["token_text"])
    return masked


def _parse(line: str, where: str) -> Sample:
    try:
        sample = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a sample as JSON, got {line[:40]!r}") from error
    if not isinstance(sample, dict) or "set" not in sample:
        raise ValueError(f'{where}: expected an object with "set", got {line[:40]!r}')
    return sample


def _line(sample: Sample) -> str:
    return json.dumps(sample) + "\n"


def _whole_lines(stream: Any) -> int:
    """Count the bytes up to and including the last newline, reading backwards."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        stream.seek(start)
        newline = stream.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
