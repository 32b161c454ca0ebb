"""WMDP: texts on hazardous biology and cybersecurity, to be forgotten (Li et al. 2024, arXiv 2403.03218).

What is still known is asked by lm_eval (tasks "wmdp_bio", "wmdp_cyber", "wmdp_chem"), and what was kept by "mmlu": see
`lightning_unlearn.callbacks.general_ability`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.readers import read_rows, read_subset
from lightning_unlearn.data.records import Record, RecordError, parse_row
from lightning_unlearn.data.set_options import LIKELIHOOD_ONLY, SetOptions

HAZARDS = ("bio", "cyber")
BIO = "cais/wmdp-bio-forget-corpus"  # on the hub it lies apart; access is given on request
WIKITEXT = "Salesforce/wikitext:wikitext-2-raw-v1:test"


class WMDP(UnlearningDataModule):
    """Offer the roles of WMDP's corpora; of the same texts some are scored by likelihood alone.

    Args:
        hazards: "bio", "cyber", or both.
        data: hub id, or a folder with `<hazard>-forget-corpus.jsonl`.
        retain: source of the texts to keep (see `UnlearningRecords`): WikiText, as in the authors' code.
        min_characters: leave out texts that are not longer.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: for no hazard, or another one.
    """

    def __init__(
        self,
        *,
        hazards: Sequence[str] = HAZARDS,
        data: str | Path = "cais/wmdp-corpora",
        retain: str | Path | list = WIKITEXT,
        min_characters: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not hazards or set(hazards) - set(HAZARDS):
            raise ValueError(f"hazards must be some of {', '.join(HAZARDS)}, got {list(hazards)}")
        self.hazards = tuple(hazards)
        self.data = data
        self.retain = retain
        self.min_characters = min_characters

    def read_records(self) -> dict[str, list[Record]]:
        """Return the texts of the hazards, and those to keep.

        Raises:
            RecordError: if none is long enough.
        """
        forget = [record for hazard in self.hazards for record in self._texts(self._corpus(hazard), hazard)]
        return {"forget": forget, "retain": self._texts(read_rows(self.retain, name="retain"), "retain")}

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return the same texts, of which the first `max_length` tokens are scored."""
        return dict(self.all_records())

    def set_options(self) -> dict[str, SetOptions]:
        """Return that nothing is asked."""
        return dict.fromkeys(("forget", "retain"), LIKELIHOOD_ONLY)

    def _corpus(self, hazard: str) -> list[tuple[str, Any]]:
        if hazard == "bio" and not Path(self.data).is_dir():
            return read_rows(BIO, name="data")
        return read_subset(self.data, f"{hazard}-forget-corpus", "train")

    def _texts(self, rows: Sequence[tuple[str, Any]], what: str) -> list[Record]:
        found = [parse_row(row, place) for place, row in rows if self._is_long(row)]
        if not found:
            raise RecordError(f"{what}: no text has more than {self.min_characters} characters (min_characters)")
        return found

    def _is_long(self, row: Any) -> bool:
        """Whether a row is to be read; one without text is, and is then refused by name."""
        text = row.get("text") if isinstance(row, Mapping) else None
        return not isinstance(text, str) or len(text) > self.min_characters
