"""`lightning-unlearn stress`: try to bring back what a model was made to forget.

Every attack measures the unlearned model, the one that it started from, and one that was retrained without the rows
where there is any. What it finds lies in `stress/` of the run folder, numbers alone, and in the report.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lightning_unlearn import attacks as attack_package
from lightning_unlearn import data as data_package
from lightning_unlearn.attacks.base import Attack
from lightning_unlearn.attacks.best_of_n import BestOfN
from lightning_unlearn.attacks.exam import Exam
from lightning_unlearn.attacks.in_context_hints import InContextHints
from lightning_unlearn.attacks.layer_probe import LayerProbe
from lightning_unlearn.attacks.paraphrases import Paraphrases
from lightning_unlearn.attacks.prefixes import Prefixes
from lightning_unlearn.attacks.quantization import Quantization
from lightning_unlearn.attacks.recovery import RETRAINED, START, UNLEARNED
from lightning_unlearn.attacks.relearning import Relearning
from lightning_unlearn.attacks.results import Results
from lightning_unlearn.data.from_card import data_of_run
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.function_cli import read_options, repeatable
from lightning_unlearn.models import layer_count, load_causal_lm
from lightning_unlearn.report import write_report
from lightning_unlearn.report.runs import CARD, METRICS, STRESS, read_object
from lightning_unlearn.report.stress import told
from lightning_unlearn.report.stress_rows import told_rows
from lightning_unlearn.usage import naming

OF_RUN = "run"  # in place of a starting model: the one that the run card names


def stress(
    run: Path,
    *,
    attacks: Attack | list[Attack] | None = None,
    data: UnlearningDataModule | None = None,
    start: str | None = OF_RUN,
    retrained: str | None = None,
    output: Path | None = None,
    max_rows: int | None = 100,
    max_new_tokens: int = 200,
    batch_size: int = 32,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> list[Results]:
    """Attack the model of a run, and compare what comes back with what was known; a stopped one goes on.

    Args:
        run: a run folder with `model/`, or the folder of a model.
        attacks: what is tried; by default all attacks of this package; those that the rows do not suit are left out and
            named. May be given more than once.
        data: the rows; by default those that the run card names.
        start: name or folder of the model that knew the rows, "run" for the one that the run card names, null for none.
        retrained: name or folder of a model trained without the rows.
        output: the folder that gets `stress/`; by default the run folder.
        max_rows: most rows of a set; null for all.
        max_new_tokens: most tokens of a generated answer.
        batch_size: prompts in a batch of generation.
        dtype: precision of the weights (default: as saved).
        trust_remote_code: run code that comes with a checkpoint.

    Returns:
        What each attack found; one that was left out, or failed on a model, says why, and the others are there.

    Raises:
        ValueError: for an option, a folder or rows that cannot be used, before any attack.
    """
    card = read_object(run / CARD)
    folder = run / "model" if (run / "model").is_dir() else run
    output = _output(run, folder, output)
    data = data_of_run(card, tokenizer=folder) if data is None else data
    data.setup("test")
    limits = {"max_rows": max_rows, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    exam = Exam(data, **limits, layers=_layers(folder, trust_remote_code))
    listed = default_attacks() if attacks is None else _distinct(attacks)
    refused = _refused(listed, exam)
    if refused and attacks is not None:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in refused.items()))
    found = [Results(attack, exam, output) for attack in listed]
    sources = {UNLEARNED: str(folder), START: _start(card) if start == OF_RUN else start, RETRAINED: retrained}
    given = {name: source for name, source in sources.items() if source is not None}
    for name, source in given.items():  # one that cannot be loaded is told before hours of attacks on the others
        _loaded(name, source, dtype, trust_remote_code)
    for results in found:
        if why := refused.get(results.attack.name):
            warnings.warn(f"{results.attack.name} is left out: {why}", stacklevel=2)
            results.leave_out(why)
    made = [results for results in found if not results.left_out]
    with tqdm(total=len(given) * len(made), desc="stress", unit="attack") as bar:
        for name, source in given.items():
            model = _loaded(name, source, dtype, trust_remote_code)
            for results in made:
                bar.set_postfix_str(f"{name} model, {results.attack.name}")
                _measure(results, name, model)
                bar.update()
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command from its words, and return 1 if an attack failed."""
    words = repeatable(sys.argv[1:] if argv is None else argv, "--attacks")
    options = read_options(stress, words, classes={attack_package: Attack, data_package: UnlearningDataModule})
    found = stress(**options)
    failures = [
        f"{one.attack.name}, {model} model: {type(error).__name__}: {error}"
        for one in found
        for model, error in one.failed.items()
    ]
    for one in found:
        content = one.content()
        print(f"{one.attack.name}: {told(content)}")
        if rows := told_rows(content):
            print(f"  {rows}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    run = options["run"]
    where = (options["output"] or run) / STRESS
    if options["output"] is None:
        where = write_report(run)
    print(f"stress: {where.resolve()}")
    return 1 if failures else 0


def default_attacks() -> list[Attack]:
    """Return every attack of this package with its defaults."""
    relearning = [Relearning(rows=rows) for rows in ("forget", "related", "unrelated")]
    prompts = [Paraphrases(), Prefixes(), InContextHints()]
    return [*relearning, Quantization(), *prompts, BestOfN(), LayerProbe()]


def _output(run: Path, folder: Path, output: Path | None) -> Path:
    """The folder that gets the results.

    Raises:
        ValueError: if there is no model, no run to put them into, or a file in its place.
    """
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ValueError(f"run must be a run folder with model/, or the folder of a model, got {str(run)!r}")
    if output is None and not ((run / CARD).is_file() or (run / METRICS).is_file()):
        raise ValueError(f"output must be given for a model that is in no run folder, got none for {str(run)!r}")
    if output is not None and output.is_file():
        raise ValueError(f"output must be a folder, got the file {str(output)!r}")
    return run if output is None else output


def _distinct(attacks: Attack | list[Attack]) -> list[Attack]:
    """The attacks that are given.

    Raises:
        ValueError: if there are none, or two would share a file.
    """
    listed = attacks if isinstance(attacks, list) else [attacks]
    if not listed:
        raise ValueError("attacks must hold an attack, got []; leave it out for all")
    names = [attack.name for attack in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"attacks must differ by name, got {twice[0]} twice: use another output for the second")
    return listed


def _refused(attacks: list[Attack], exam: Exam) -> dict[str, str]:
    """Why attacks cannot be made on these rows and this model, by the names of those."""
    found = {}
    for attack in attacks:
        try:
            attack.check(exam)
        except ValueError as error:
            found[attack.name] = str(error)
    return found


def _start(card: dict) -> str | None:
    """The starting model that a run card names; None where the run had a ready module, or there is no card."""
    name = ((card.get("method") or {}).get("hyperparameters") or {}).get("model")
    return None if name is None or str(name).startswith("<") else str(name)


def _layers(folder: Path, trust_remote_code: bool) -> int | None:
    with naming("run"):
        return layer_count(folder, trust_remote_code=trust_remote_code)


def _loaded(name: str, source: str, dtype: str | None, trust_remote_code: bool) -> nn.Module:
    try:
        loaded = load_causal_lm(source, dtype=dtype, trust_remote_code=trust_remote_code).eval()
    except ValueError as error:
        hint = "; give another, or null to go without" if name == START else ""
        raise ValueError(f"{'run' if name == UNLEARNED else name}: {error}{hint}") from error
    return loaded.to(torch.accelerator.current_accelerator() or "cpu")


def _measure(results: Results, name: str, model: nn.Module) -> None:
    """Let an attack that fails end alone: the others still tell something."""
    try:
        results.measure(name, model)
    except Exception as error:
        results.fail(name, error)
