"""What every data module shares: reading, checks, tokens and loaders for the roles that an objective needs.

A data module knows no objective: it offers roles, and builds those that the trainer's module names.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from transformers import PreTrainedTokenizerBase

from lightning_unlearn.data.alternates import AlternateRows, read_alternates
from lightning_unlearn.data.batching import rows_a_batch
from lightning_unlearn.data.chunks import chunk_rows, is_text
from lightning_unlearn.data.guard import Guarded, Turns, example_turns, guard_turns
from lightning_unlearn.data.ordered import NoRows, OrderedBatches
from lightning_unlearn.data.orders import owner_of
from lightning_unlearn.data.random_answers import RandomAnswerRows
from lightning_unlearn.data.readers import read_lines
from lightning_unlearn.data.records import HOLDOUT, Record, check_disjoint, row_key
from lightning_unlearn.data.refusals import REFUSALS, RefusalRows
from lightning_unlearn.data.requests import cut_evaluation, cut_records
from lightning_unlearn.data.sampling import UnlearningLoader
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions
from lightning_unlearn.data.share import ranks, trainer_options
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.data.unanswerable import QUESTIONS, UnanswerableRows

GENERAL_SETS = ("real_authors", "world_facts")
RANDOM, ALTERNATE, UNANSWERABLE = "forget_random", "forget_alternate", "forget_unanswerable"
ON_DEMAND = (RANDOM, ALTERNATE, UNANSWERABLE)  # made only for an objective that reads them


class UnlearningDataModule(LightningDataModule, ABC):
    """Offer the roles of a set of records: forget, retain, forget_idk, retain_idk, and others on demand.

    Those are made only for an objective that reads them: "forget_random" holds forget questions with answers of retain
    rows, "forget_alternate" with answers of a file, "forget_unanswerable" questions without an answer.

    Where all rows of a role are plain texts, they are cut into rows of `max_length` tokens, none of which is lost, and
    no refusals or other answers go with them.

    `test` and `validate` train on no row: one that cannot be used costs them the losses of the objective, with a
    warning, and is for the evaluation to report.

    A subclass says where records and evaluation sets come from; both are read once.

    Args:
        tokenizer: name, folder, or a ready fast tokenizer.
        template: "qa", "chat" (the tokenizer's own), "llama2", or a string with "{question}".
        max_length: most tokens of a row, its end token counted.
        batch_size: forget rows a device and micro-batch (8 where neither this nor `tokens_per_batch` is given).
        tokens_per_batch: in its place, most tokens of a device's micro-batch: forget and retain rows and refusals, as
            far as the objective reads them.
        retain_per_forget: retain rows for each forget row.
        seed: seed of every order and of the refusals.
        refusals: a file with one refusal a line, or the refusals; an empty list leaves the "idk" roles out.
        random_answers: how many answers of retain rows each forget row meets in "forget_random", one in every pass in
            turn, at least 1.
        alternates: file with other answers to the forget questions, see `lightning_unlearn.data.alternates`; without
            it there is no role "forget_alternate".
        request_rows: cut the rows to forget into requests of so many, of which one is forgotten at a time, see
            `lightning_unlearn.continual`; None for all at once.
        request: number of the request, from 1 (default: the first), where they are cut.
        unanswerable: a file with one question a line, or the questions, that the model cannot answer (default: ours,
            about things that do not exist); an empty list leaves the role "forget_unanswerable" out.
        guard: an instruction before every question, or a file with it: a baseline of `test` and `validate` that erases
            nothing.
        in_context: so many forget questions with a refusal, and retain questions with their answers, before every
            question; likewise.
        trust_remote_code: run code that comes with the tokenizer.

    Raises:
        ValueError: for a number out of range, or both sizes of a batch.
    """

    def __init__(
        self,
        *,
        tokenizer: str | Path | PreTrainedTokenizerBase,
        template: str = "qa",
        max_length: int = 512,
        batch_size: int | None = None,
        tokens_per_batch: int | None = None,
        retain_per_forget: float = 1.0,
        seed: int = 0,
        refusals: str | Path | list[str] | None = None,
        random_answers: int = 5,
        alternates: str | Path | None = None,
        request_rows: int | None = None,
        request: int | None = None,
        unanswerable: str | Path | list[str] | None = None,
        guard: str | Path | None = None,
        in_context: int = 0,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        if retain_per_forget <= 0:
            raise ValueError(f"retain_per_forget must be above 0, got {retain_per_forget}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if random_answers < 1:
            raise ValueError(f"random_answers must be at least 1, got {random_answers}")
        if in_context < 0:
            raise ValueError(f"in_context must not be negative, got {in_context}")
        self.tokenizer: Any = tokenizer
        self.template = template
        self.max_length = max_length
        self.batch_size = rows_a_batch(batch_size, tokens_per_batch)
        self.tokens_per_batch = tokens_per_batch
        self.retain_per_forget = retain_per_forget
        self.seed = seed
        self.random_answers = random_answers
        if request_rows is not None and request_rows < 1:
            raise ValueError(f"request_rows must be at least 1, got {request_rows}")
        if request is not None and request_rows is None:
            raise ValueError(f"request_rows must be given with request={request}, got None")
        self.alternates = alternates
        self.request_rows = request_rows
        self.request = 1 if request is None else request
        self.guard = guard
        self.in_context = in_context
        self.trust_remote_code = trust_remote_code
        self.encoder: Encoder | None = None
        self._given_refusals = refusals
        self._all_records: dict[str, list[Record]] = {}
        self._given_unanswerable = unanswerable
        self._records: dict[str, list[Record]] = {}
        self._evaluation_sets: dict[str, list[Record]] = {}
        self._rows: dict[str, Any] = {}
        self._trains = True

    @abstractmethod
    def read_records(self) -> dict[str, list[Record]]:
        """Return the rows of "forget" and, where there are any, "retain"."""

    @abstractmethod
    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the rows that are evaluated: "forget", "retain", and general knowledge where there is any."""

    def read_holdout(self) -> list[Record]:
        """Return rows that no model has met, from which membership attacks tell forgotten ones; by default none."""
        return []

    def all_records(self) -> dict[str, list[Record]]:
        """Return the rows of "forget" and "retain", those of all requests."""
        if not self._all_records:
            self._all_records = self.read_records()
        return self._all_records

    def records(self) -> dict[str, list[Record]]:
        """Return the rows of "forget" and "retain", as this request has them.

        Raises:
            RecordError: if a row cannot be used, or is in both.
            ValueError: if there is no such request.
        """
        if not self._records:
            records = self.all_records()
            if self.request_rows is not None:
                records = cut_records(records, rows=self.request_rows, request=self.request)
            check_disjoint(records["forget"], records.get("retain", ()))
            self._records = records
        return self._records

    def evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the rows of each set that is evaluated, with paraphrased and perturbed answers where there are any.

        Raises:
            RecordError: if a row of the holdout set is trained on.
        """
        if not self._evaluation_sets:
            holdout, sets = self.read_holdout(), self.read_evaluation_sets()
            if holdout:
                met = [*self.all_records().values(), *(sets.get(name, ()) for name in GENERAL_SETS)]
                check_disjoint(holdout, [row for rows in met for row in rows], names=(HOLDOUT, "training"))
                sets[HOLDOUT] = holdout
            if self.request_rows is not None:
                forget = self.all_records()["forget"]
                sets = cut_evaluation(sets, forget, rows=self.request_rows, request=self.request)
            self._evaluation_sets = sets
        return self._evaluation_sets

    def set_options(self) -> dict[str, SetOptions]:
        """Return how the rows of evaluation sets are asked, for those that differ from the others.

        Rows of "holdout" are scored by likelihood alone, which is what membership attacks read.
        """
        return {HOLDOUT: LIKELIHOOD_ONLY}

    def refusals(self) -> list[str]:
        """Return what a model may answer instead."""
        given = self._given_refusals
        return self.default_refusals() if given is None else _lines(given, "refusal", "refusals")

    def unanswerable(self) -> list[str]:
        """Return questions that a model cannot answer."""
        given = self._given_unanswerable
        return list(QUESTIONS) if given is None else _lines(given, "question", "unanswerable")

    def default_refusals(self) -> list[str]:
        """Return the refusals where none were given."""
        return list(REFUSALS)

    def training_records(self) -> list[Record]:
        """Return what a starting model must know: forget, retain and general knowledge, each row once."""
        return _once([*self.records()["forget"], *self.retrain_records()])

    def retrain_records(self) -> list[Record]:
        """Return what a model retrained without the forget rows is trained on."""
        general = [record for name in GENERAL_SETS for record in self.evaluation_sets().get(name, ())]
        return _once([*self.records().get("retain", ()), *general])

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return the number of rows and a SHA-256 of the texts of each role and of holdout: for a run card."""
        holdout = self.evaluation_sets().get(HOLDOUT)
        sets = self.records() | ({HOLDOUT: holdout} if holdout else {})
        return {
            role: {
                "rows": len(records),
                "sha256": hashlib.sha256("\n".join(map(row_key, records)).encode("utf-8", "surrogatepass")).hexdigest(),
            }
            for role, records in sets.items()
        }

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the data offers."""
        records = self.records()
        plain = tuple(role for role in ("forget", "retain") if role in records)
        asked = tuple(role for role in plain if not all(map(is_text, records[role])))
        idk = tuple(f"{role}_idk" for role in asked) if self.refusals() else ()
        random = (RANDOM,) if "forget" in asked and "retain" in plain else ()
        alternate = (ALTERNATE,) if "forget" in asked and self.alternates is not None else ()
        return plain + idk + random + alternate + ((UNANSWERABLE,) if self.unanswerable() else ())

    @property
    def guards(self) -> str:
        """What stands before every question, "" for nothing: the model keeps what it knows."""
        named = {"guard prompt": self.guard is not None, "in-context examples": self.in_context > 0}
        return " and ".join(name for name, used in named.items() if used)

    def _guard_turns(self) -> Turns:
        records, refusals = self.records(), self.refusals()
        examples = example_turns(records["forget"], records.get("retain", ()), refusals, count=self.in_context)
        return (*guard_turns(self.guard), *examples)

    def prepare_data(self) -> None:
        """Read once before the other processes do, so that a download happens once."""
        self.records()
        self.evaluation_sets()

    def setup(self, stage: str | None = None) -> None:
        """Read and check every row and turn the needed roles into tokens, before any training.

        Raises:
            ValueError: for rows, a tokenizer or a template that cannot be used.
        """
        if stage == "fit" and self.guards:
            raise ValueError(f"guard and in_context are for test and validate, got {self.guards} for fit")
        if self.encoder is None:
            from lightning_unlearn.models import load_tokenizer  # brings the kernels, which reading rows does without

            self.records()
            self.tokenizer = load_tokenizer(self.tokenizer, trust_remote_code=self.trust_remote_code)
            self.encoder = Encoder(self.tokenizer, template=self.template, max_length=self.max_length)
            if self.guards:
                self.encoder.template = Guarded(self.encoder.template, self._guard_turns())
        self._trains = stage in (None, "fit")
        if self._trains:
            self._tokenise()

    def train_dataloader(self) -> UnlearningLoader:
        """Return the loader of training steps, which knows this process's rank, the accumulation and the end."""
        rows = self._tokenise()
        return UnlearningLoader(rows, seed=self.seed, **self._batch_options(), **trainer_options(self.trainer))

    def val_dataloader(self) -> OrderedBatches | NoRows:
        """Return the forget rows in order with as many retain rows as in training.

        Outside a fit no rows, with a warning, where one of them cannot be used.
        """
        if self._trains:
            return self._in_order()
        from lightning_unlearn.checks import check_lengths  # brings the kernels

        try:
            check_lengths(self.trainer)
            return self._in_order()
        except ValueError as error:
            rank_zero_warn(f"the losses of the objective are left out: {error}")
            return NoRows()

    def test_dataloader(self) -> OrderedBatches | NoRows:
        """Return the rows of validation: the protocols themselves run in a callback."""
        return self.val_dataloader()

    def _in_order(self) -> OrderedBatches:
        return OrderedBatches(self._tokenise(), **self._batch_options(), **ranks(self.trainer))

    def longest_row(self) -> tuple[int, str]:
        """Return how many tokens a model reads of the longest row of "forget" and "retain", and where the row is."""
        found = (0, "")
        for role in self.records().keys() & set(self._read_roles()):
            rows, records = self._tokenise()[role], self.records()[role]
            lengths = [len(row.input_ids) for row in rows]
            at = lengths.index(max(lengths))
            place = records[at].source if len(rows) == len(records) else ""
            found = max(found, (lengths[at], place or role))
        return found

    def _batch_options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "tokens_per_batch": self.tokens_per_batch,
            "roles": self._read_roles(),
            "retain_per_forget": self.retain_per_forget,
        }

    def _read_roles(self) -> tuple[str, ...]:
        """Roles that the trainer's module reads, of those that are offered; without one, what most objectives read."""
        module = getattr(self.trainer, "lightning_module", None)
        usual = tuple(role for role in self.roles if role not in ON_DEMAND)
        wanted = getattr(module, "roles", None) or usual
        return tuple(role for role in self.roles if role in wanted) or usual

    def _built_roles(self) -> tuple[str, ...]:
        """Roles that are read, and the rows that they go with."""
        read = self._read_roles()
        owners = {"forget", *(owner_of(role) for role in read)}
        return tuple(role for role in self.roles if role in read or role in owners)

    def _tokenise(self) -> dict[str, Any]:
        """Return the rows of the roles that are needed, turning into tokens those that are not yet."""
        if self.encoder is None:
            raise ValueError("setup() must be called before the loaders are made")
        built = self._built_roles()
        for role in built:
            if role not in self._rows:
                self._rows[role] = self._make_rows(role, self.encoder)
        return {role: self._rows[role] for role in built}

    def _make_rows(self, role: str, encoder: Encoder) -> Any:
        records = self.records()[owner_of(role)]
        if role == RANDOM:
            others = self.records()["retain"]
            return RandomAnswerRows(encoder, records, others, choices=self.random_answers, seed=self.seed)
        if role == ALTERNATE:
            return AlternateRows(encoder, records, read_alternates(self.alternates, records))
        if role == UNANSWERABLE:
            return UnanswerableRows(encoder, self.unanswerable())
        if role.endswith("_idk"):
            return RefusalRows(encoder, records, self.refusals(), seed=self.seed)
        return chunk_rows(encoder, records) if all(map(is_text, records)) else encoder.rows(records)


def _lines(given: str | Path | list[str], what: str, name: str) -> list[str]:
    return list(given) if isinstance(given, list | tuple) else read_lines(given, what, name=name)


def _once(records: list[Record]) -> list[Record]:
    """Return the records in order, without repeats."""
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(row_key(record), record)
    return list(first.values())
