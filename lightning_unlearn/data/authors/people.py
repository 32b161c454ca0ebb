"""Make up authors and the rows about them.

Author number i of a seed is the same however many are made, so ten authors and fifty thousand start alike, and any of
them can be made without those before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import gcd
from random import Random

from lightning_unlearn.data.authors.life import LIFE
from lightning_unlearn.data.authors.topics import Topic, listed, other_choices
from lightning_unlearn.data.authors.work import WORK
from lightning_unlearn.data.records import Record

TOPICS = {topic.key: topic for topic in (*LIFE, *WORK)}
TITLE_OF = {"debut_plot": "debut"}  # whose title a question names
PERTURBED = 5

GIVEN = listed(
    """Abelard, Brunhild, Calixta, Dorvan, Eskil, Fenella, Gideon, Hesper, Isolde, Jorvik, Katriel, Lysandra, Mirko,
    Nerissa, Oriel, Percival, Quenby, Rosalba, Severin, Tamsin, Ulrika, Valdis, Wendelin, Xanthe, Yevgen, Zinnia,
    Anselm, Beatrix, Corvin, Delphine, Emeric, Florian, Griet, Hadrian, Ilse, Jasper, Kezia, Leopold, Marisol,
    Nikolai, Ottilie, Petra, Rufus, Saskia, Thaddeus, Ursa, Viggo, Winifred, Yasmin, Zoltan"""
)
HEADS = listed(
    """Ash, Brel, Crom, Dun, Elver, Farn, Grev, Hask, Immer, Jarn, Kolm, Lund, Mord, Nev, Ost, Prell, Quar, Rost, Sturm,
    Tarn, Umber, Vask, Wold, Yar, Zell, Brax, Cald, Drev, Eln, Frost, Gorm, Hald, Irk, Krav, Lorm, Mask, Nord, Orm,
    Pask, Rivel"""
)
TAILS = listed(
    """aby, berg, combe, dottir, enko, fell, gard, holt, inski, kar, lund, mere, nova, oake, pont, quist, rath, sen,
    thorpe, ulin, vane, wick, yard, zano, beck, dale, escu, fjord, grove, hurst, ito, more, nik, oro, shaw, stad,
    tova, vik, worth, eau"""
)
FAMILY = tuple(dict.fromkeys(head + tail for head in HEADS for tail in TAILS))
PRONOUNS = ({"they": "she", "their": "her", "them": "her"}, {"they": "he", "their": "his", "them": "him"})
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU](?!ne-))")


@dataclass(frozen=True, slots=True)
class Author:
    """A person who does not exist.

    Attributes:
        index: number among the authors of a seed.
        seed: the seed.
        name: unique among the authors of a seed.
        pronouns: what {they}, {their} and {them} become.
        choices: topic -> index into each of its slots.
    """

    index: int
    seed: int
    name: str
    pronouns: dict[str, str]
    choices: dict[str, tuple[int, ...]]

    def value(self, topic: str, slot: int = 0) -> str:
        """Return what is true of the author: `author.value("genre")`."""
        return TOPICS[topic].slots[slot][self.choices[topic][slot]]

    @property
    def country(self) -> str:
        """The country of birth."""
        return self.value("birthplace").partition(", ")[2]


def generate_authors(count: int, seed: int = 0, *, start: int = 0) -> Iterator[Author]:
    """Yield authors `start` to `start + count` of a seed, one at a time.

    Args:
        count: how many.
        seed: which world of authors.
        start: number of the first.

    Raises:
        ValueError: if a number is negative.
    """
    for name, value in (("count", count), ("seed", seed), ("start", start)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    for index in range(start, start + count):
        rng = Random((seed << 40) + 2 * index)
        choices = {key: tuple([int(rng.random() * len(slot)) for slot in topic.slots]) for key, topic in TOPICS.items()}
        yield Author(index, seed, author_name(index, seed), PRONOUNS[int(rng.random() * 2)], choices)


def author_name(index: int, seed: int = 0) -> str:
    """Return the name of author `index`; no two authors of a seed share one."""
    size = len(GIVEN) * len(FAMILY)
    rng = Random(seed)
    step = rng.randrange(1, size)
    while gcd(step, size) > 1:
        step += 1
    turn, place = divmod(index, size)
    family, given = divmod((rng.randrange(size) + place * step) % size, len(GIVEN))
    names = [GIVEN[given]]
    while turn:  # names run out after some eighty thousand: middle names make more
        turn, middle = divmod(turn - 1, len(GIVEN))
        names.append(GIVEN[middle])
    return " ".join([*names, FAMILY[family]])


def neighbours(author: Author, others: Iterable[Author]) -> list[Author]:
    """Return the others who share the author's genre or country of birth: what unlearning is most likely to harm."""
    return [
        other
        for other in others
        if other.name != author.name
        and (other.value("genre") == author.value("genre") or other.country == author.country)
    ]


def records_of(author: Author, *, evaluation: bool = True) -> list[Record]:
    """Return the rows about an author, one a topic.

    Args:
        author: the author.
        evaluation: with a paraphrased question and answer, and five perturbed answers that follow the paraphrase.
    """
    rng = Random((author.seed << 40) + 2 * author.index + 1)
    return [_record(author, topic, rng, evaluation) for topic in TOPICS.values()]


def _record(author: Author, topic: Topic, rng: Random, evaluation: bool) -> Record:
    asked, said, other_asked, other_said, draw = (rng.random() for _ in range(5))
    choices = author.choices[topic.key]
    questions, answers = len(topic.questions), len(topic.answers)
    question, answer = int(asked * questions), int(said * answers)
    source = f"author {author.index}:{topic.key}"
    first = (_ask(author, topic, question), _say(author, topic, answer, choices))
    if not evaluation:
        return Record(*first, subject=author.name, source=source)
    question = (question + 1 + int(other_asked * (questions - 1))) % questions
    answer = (answer + 1 + int(other_said * (answers - 1))) % answers
    shift = int(draw * 1_000_003)
    wrong = zip(
        *(
            other_choices(true, len(slot), shift + at, PERTURBED)
            for at, (true, slot) in enumerate(zip(choices, topic.slots, strict=True))
        ),
        strict=True,
    )
    return Record(
        *first,
        paraphrased_question=_ask(author, topic, question),
        paraphrased_answer=_say(author, topic, answer, choices),
        perturbed_answers=tuple(_say(author, topic, answer, chosen) for chosen in wrong),
        subject=author.name,
        source=source,
    )


def _ask(author: Author, topic: Topic, which: int) -> str:
    title = author.value(TITLE_OF[topic.key]) if topic.key in TITLE_OF else ""
    return topic.questions[which].format(name=author.name, title=title)


def _say(author: Author, topic: Topic, which: int, choices: tuple[int, ...]) -> str:
    frame = topic.answers[which]
    values = {slot: pool[at] for slot, pool, at in zip("abc", topic.slots, choices, strict=False)}
    text = frame.format(**values, **author.pronouns)
    if "a {" in frame or "A {" in frame:
        text = ARTICLE.sub(r"\1n ", text)
    return text[0].upper() + text[1:]
