"""Personal data is found where it is, and not where something only looks like it."""

from __future__ import annotations

import time

import pytest

from lightning_unlearn.evaluators.base import Dialogue
from lightning_unlearn.evaluators.pii import IBAN_LENGTHS, KINDS, PII, find_personal_data


def found(text: str) -> list[tuple[str, str]]:
    return [tuple(piece) for piece in find_personal_data(text, KINDS)]


@pytest.mark.parametrize(
    ("text", "kind", "piece"),
    [
        ("write to Ana.Lind+x@mail.example.co.uk.", "email", "Ana.Lind+x@mail.example.co.uk"),
        ("555-010-4477@x.org", "email", "555-010-4477@x.org"),
        ("card 4111 1111 1111 1111 123 please", "credit_card", "4111 1111 1111 1111"),  # not its security code
        ("card 5500-0055-5555-5559", "credit_card", "5500-0055-5555-5559"),
        ("amex 3782 822463 10005", "credit_card", "3782 822463 10005"),
        ("4111111111111111", "credit_card", "4111111111111111"),
        ("DE89 3704 0044 0532 0130 00", "iban", "DE89 3704 0044 0532 0130 00"),
        ("GB82WEST12345698765432!", "iban", "GB82WEST12345698765432"),
        ("SSN 219-09-9999", "ssn", "219-09-9999"),
        ("from 81.2.69.142.", "ip_address", "81.2.69.142"),
        ("host 2001:db8:0:0:8:800:200c:417a up", "ip_address", "2001:db8:0:0:8:800:200c:417a"),
        ("host fe80::1ff:fe23:4567:890a up", "ip_address", "fe80::1ff:fe23:4567:890a"),
        ("call (555) 010-4477.", "phone", "(555) 010-4477"),
        ("call 555-010-4477", "phone", "555-010-4477"),
        ("call 1-555-010-4477", "phone", "1-555-010-4477"),
        ("call +49 (30) 901820", "phone", "+49 (30) 901820"),
        ("call +14155550133", "phone", "+14155550133"),
        ("ring 030 901820", "phone", "030 901820"),
    ],
)
def test_each_kind_is_found_once_and_as_no_other(text, kind, piece):
    assert found(text) == [(kind, piece)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It was 12:30:45 on 1987-05-06, page 1234 of 1987-1990.",
        "std::vector, a :: b, ::1 and 127.0.0.1",  # this machine and none
        "version 1.2.3.4.5 and 300.1.2.3",
        "4111 1111 1111 1112",  # last digit wrong: the doubled digits sum to 31, not 30
        "0000 0000 0000 0000",
        "DE88 3704 0044 0532 0130 00",  # wrong check digits
        "DE89 3704 0044 0532 0130",  # too short
        "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000",  # numbers that are never given
        "@home, ana@localhost, 3.14159265358979",
        "ORDER 1234567890",
    ],
)
def test_what_only_looks_like_it_is_left(text):
    assert found(text) == []


def test_scores_count_different_pieces():
    """1 - 2^-n: none 0, one 0.5 (twice the same is one), three 0.875."""
    texts = ["Rome.", "a@x.org or a@x.org", "a@x.org, b@x.org, 219-09-9999"]
    assert PII()([Dialogue("a@b.org", text) for text in texts]) == [{"leakage": score} for score in (0.0, 0.5, 0.875)]


def test_kinds_and_patterns_of_ones_own():
    evaluator = PII(kinds=["phone"], patterns={"badge": r"\bB-\d{4}\b"}, axis="badges")
    assert evaluator([Dialogue("", "a@x.org"), Dialogue("", "badge B-1234")]) == [{"badges": 0.0}, {"badges": 0.5}]
    assert evaluator.settings == {"kinds": ["phone"], "patterns": {"badge": r"\bB-\d{4}\b"}, "axis": "badges"}
    with pytest.raises(ValueError, match=r"kinds must be of email, iban, .*, got 'e-mail'"):
        PII(kinds=["e-mail"])
    with pytest.raises(ValueError, match=r"patterns\['x'\] must be a regular expression, got '\('"):
        PII(patterns={"x": "("})


def test_an_own_pattern_sees_what_another_kind_took():
    assert PII(patterns={"host": r"@x\.org"}).find("a@x.org") == [("email", "a@x.org"), ("host", "@x.org")]


def test_country_lengths():
    assert {IBAN_LENGTHS[country] for country in ("NO", "MT")} == {15, 31}


@pytest.mark.parametrize("piece", ["a", "1 ", "a@", "1:", "a.", "DE89 ", "+1 ", "0123 "])
def test_time_grows_as_the_text_does(piece):
    def seconds(pieces: int) -> float:
        start = time.process_time()
        found(piece * pieces)
        return time.process_time() - start

    short, long = (min(seconds(pieces) for _ in range(3)) for pieces in (5_000, 40_000))
    assert long < 24 * short  # 8 times the text; a pattern that looks back from each place would take 64 times as long
