"""Authors who do not exist: the demo's data where nothing can be downloaded, and any amount of rows for scale."""

from __future__ import annotations

from typing import Any

from lightning_unlearn.data.authors.facts import real_authors, world_facts
from lightning_unlearn.data.authors.people import Author, generate_authors, neighbours, records_of
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.records import Record

HOLDOUT_WORLDS = 1 << 32  # the seed of the first world that is nobody's training data


class FictitiousAuthors(UnlearningDataModule):
    """Offer the roles and evaluation sets of generated authors, twenty rows each; the last of them are to be forgotten.

    Args:
        authors: how many there are.
        forget_authors: how many of them to forget.
        world: seed of the generator; another one is another set of authors.
        holdout_authors: how many authors of yet another world, whom nobody trains on, are evaluated for membership
            attacks.
        evaluation_authors: how many forgotten and how many kept authors are evaluated at most.
        max_forget_rows: keep only the first rows to forget.
        max_retain_rows: keep only the first rows to keep.
        options: options of `UnlearningDataModule`.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(
        self,
        *,
        authors: int = 10,
        forget_authors: int = 2,
        world: int = 0,
        holdout_authors: int = 0,
        evaluation_authors: int = 20,
        max_forget_rows: int | None = None,
        max_retain_rows: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 1 <= forget_authors < authors:
            raise ValueError(f"forget_authors must be in [1, authors = {authors}), got {forget_authors}")
        if evaluation_authors < 1:
            raise ValueError(f"evaluation_authors must be at least 1, got {evaluation_authors}")
        for name, limit in (("max_forget_rows", max_forget_rows), ("max_retain_rows", max_retain_rows)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        for name, value in (("world", world), ("holdout_authors", holdout_authors)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.authors = authors
        self.forget_authors = forget_authors
        self.world = world
        self.holdout_authors = holdout_authors
        self.evaluation_authors = evaluation_authors
        self.max_forget_rows = max_forget_rows
        self.max_retain_rows = max_retain_rows

    def people(self, role: str, *, limit: int | None = None) -> list[Author]:
        """Return the authors of "forget" or "retain".

        Args:
            role: "forget" or "retain".
            limit: at most so many, the first.

        Raises:
            ValueError: for another role.
        """
        border = self.authors - self.forget_authors
        if role == "forget":
            return list(generate_authors(min(self.forget_authors, limit or self.authors), self.world, start=border))
        if role == "retain":
            return list(generate_authors(min(border, limit or self.authors), self.world))
        raise ValueError(f'role must be "forget" or "retain", got "{role}"')

    def read_records(self) -> dict[str, list[Record]]:
        """Return the rows of both roles, without the paraphrases that only evaluation needs."""
        return self._limited({role: _rows(self.people(role), evaluation=False) for role in ("forget", "retain")})

    def read_evaluation_sets(self) -> dict[str, list[Record]]:
        """Return rows with paraphrased and perturbed answers, and general facts."""
        evaluated = {role: self.people(role, limit=self.evaluation_authors) for role in ("forget", "retain")}
        return {
            **self._limited({role: _rows(people, evaluation=True) for role, people in evaluated.items()}),
            "real_authors": real_authors(),
            "world_facts": world_facts(),
        }

    def read_holdout(self) -> list[Record]:
        """Return the rows of authors of another world."""
        return _rows(list(generate_authors(self.holdout_authors, HOLDOUT_WORLDS + self.world)), evaluation=True)

    def neighbours(self) -> list[Record]:
        """Return the rows of kept authors who share a genre or a country of birth with a forgotten one."""
        kept = self.people("retain")
        near = {author.index: author for gone in self.people("forget") for author in neighbours(gone, kept)}
        return _rows([near[index] for index in sorted(near)], evaluation=True)

    def _limited(self, rows: dict[str, list[Record]]) -> dict[str, list[Record]]:
        limits = {"forget": self.max_forget_rows, "retain": self.max_retain_rows}
        return {role: records[: limits[role]] for role, records in rows.items()}


def _rows(people: list[Author], *, evaluation: bool) -> list[Record]:
    return [record for author in people for record in records_of(author, evaluation=evaluation)]
