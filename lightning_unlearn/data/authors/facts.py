"""A little public knowledge, in the form of TOFU's real authors and world facts: what unlearning must leave alone."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_unlearn.data.authors.topics import listed
from lightning_unlearn.data.records import Record

WRONG = 3  # wrong answers of a row, as in TOFU


def _pairs(text: str) -> dict[str, str]:
    return {key.strip(): value.strip() for key, value in (item.split(":") for item in listed(text))}


WORKS = _pairs(
    """Hamlet: William Shakespeare, Pride and Prejudice: Jane Austen, Don Quixote: Miguel de Cervantes,
    War and Peace: Leo Tolstoy, Moby-Dick: Herman Melville, Great Expectations: Charles Dickens,
    Frankenstein: Mary Shelley, Faust: Johann Wolfgang von Goethe, Candide: Voltaire, Middlemarch: George Eliot,
    Jane Eyre: Charlotte Brontë, Wuthering Heights: Emily Brontë, Les Misérables: Victor Hugo, Dracula: Bram Stoker,
    The Divine Comedy: Dante Alighieri, Paradise Lost: John Milton, The Canterbury Tales: Geoffrey Chaucer,
    The Scarlet Letter: Nathaniel Hawthorne, Walden: Henry David Thoreau, Leaves of Grass: Walt Whitman,
    Treasure Island: Robert Louis Stevenson, Crime and Punishment: Fyodor Dostoevsky, Madame Bovary: Gustave Flaubert,
    The Cherry Orchard: Anton Chekhov, A Doll's House: Henrik Ibsen, The Time Machine: H. G. Wells,
    The Jungle Book: Rudyard Kipling, Gulliver's Travels: Jonathan Swift, Robinson Crusoe: Daniel Defoe,
    The Odyssey: Homer, The Aeneid: Virgil, The Tale of Genji: Murasaki Shikibu"""
)
CAPITALS = _pairs(
    """France: Paris, Japan: Tokyo, Egypt: Cairo, Canada: Ottawa, Brazil: Brasília, Kenya: Nairobi, Norway: Oslo,
    Australia: Canberra, Peru: Lima, Greece: Athens, India: New Delhi, Portugal: Lisbon, Cuba: Havana, Iraq: Baghdad,
    Austria: Vienna, Poland: Warsaw"""
)
SYMBOLS = _pairs(
    """gold: Au, iron: Fe, sodium: Na, silver: Ag, helium: He, lead: Pb, potassium: K, carbon: C, oxygen: O, tin: Sn,
    mercury: Hg, copper: Cu"""
)
NUMBERS = _pairs(
    """seven times eight: 56, twelve times twelve: 144, nine plus six: 15, forty minus thirteen: 27,
    the number of days in a leap year: 366, the number of sides of a hexagon: 6, half of ninety: 45,
    the number of minutes in two hours: 120"""
)


def real_authors() -> list[Record]:
    """Return who wrote well-known works of authors long dead, each with three wrong authors."""
    return _rows(WORKS, "Who wrote '{}'?", "real_authors")


def world_facts() -> list[Record]:
    """Return capitals, symbols of elements and small sums, each with three wrong answers."""
    return [
        *_rows(CAPITALS, "What is the capital of {}?", "world_facts"),
        *_rows(SYMBOLS, "What is the chemical symbol of {}?", "world_facts"),
        *_rows(NUMBERS, "How much is {}?", "world_facts"),
    ]


def _rows(answers: Mapping[str, str], question: str, source: str) -> list[Record]:
    """Ask for each answer; the next ones in the list are the wrong ones."""
    given = list(answers.values())
    return [
        Record(
            question.format(key),
            answer,
            perturbed_answers=tuple(given[(i + shift) % len(given)] for shift in range(1, WRONG + 1)),
            source=f"{source}:{key}",
        )
        for i, (key, answer) in enumerate(answers.items())
    ]
