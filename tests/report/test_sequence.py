from __future__ import annotations

from pathlib import Path

import pytest

from lightning_unlearn.report.runs import Run
from lightning_unlearn.report.sequence import headline, heat, render_sequence, write_sequence

RUNS = [
    Run(
        Path("request_01"),
        metrics={
            "before": {"forget/rougeL_recall": 1.0, "retain/rougeL_recall": 0.9},
            "after": {"forget/rougeL_recall": 0.1, "retain/rougeL_recall": 0.8, "closer_look/model_utility": 0.7},
        },
    ),
    Run(
        Path("request_02"),
        metrics={
            "before": {"forget/rougeL_recall": 0.95},
            "after": {"forget/rougeL_recall": 0.2, "forgotten_1/rougeL_recall": 0.4, "retain/rougeL_recall": 0.6},
        },
    ),
]


def test_a_line_a_request_a_column_a_time():
    assert heat(RUNS, "rougeL_recall") == {"title": "ROUGE-L recall", "lines": [[1.0, 0.1, 0.4], [0.95, None, 0.2]]}
    assert heat(RUNS, "probability") is None


def test_the_headline_says_what_is_left_of_all_and_what_was_kept():
    said = (
        "2 requests, one after the other: recall of all rows to forget is 0.300, of the retain set 0.600 (from 0.900)."
    )
    assert headline(RUNS) == said


def test_the_page_shows_the_maps_and_links_the_requests():
    page = render_sequence(RUNS)
    assert page.count('<table class="heat">') == 1
    assert '<td style="--p:0.4">0.40</td>' in page
    assert page.count('<td class="empty"></td>') == 1
    assert 'href="request_02/report.html"' in page
    assert "Scores after each request" in page


def test_a_folder_without_requests_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"folder must hold the runs of requests \(request_\*\), got .* with none"):
        write_sequence(tmp_path)


def muse(place: int, verbatim: float, utility: float) -> Run:
    """A request of MUSE, whose scores are of all texts, whatever was asked to go."""
    scores = {"muse/verbatim_memorization": verbatim, "muse/utility": utility}
    ends = {"muse/verbatim_memorization": (verbatim - 0.1, verbatim + 0.1)}
    stages = {"before": {"muse/verbatim_memorization": 0.9, "muse/utility": 0.8}, "after": scores}
    return Run(Path(f"request_{place:02d}"), metrics=stages, intervals={"before": ends, "after": ends})


def test_muses_scores_are_a_curve_over_the_requests_with_their_intervals():
    runs = [muse(1, 0.5, 0.7), muse(2, 0.25, 0.6)]
    assert headline(runs) == (
        "2 requests, one after the other: verbatim memorisation of all texts is 0.250 (from 0.900), "
        "utility 0.600 (from 0.800)."
    )
    page = render_sequence(runs)
    assert "What is left of each request" not in page  # no rows of its own
    assert "Verbatim memorisation (MUSE) from 0.900 to 0.250; Utility (MUSE) from 0.800 to 0.600" in page
    assert page.count('class="interval forget"') == 3  # before, and after each request
    assert "<td>0.250<small>0.150 to 0.350</small></td>" in page
    assert "<td>0.900<small>" in page.partition("Before the first")[2].partition("</tr>")[0]
    assert "MUSE's of all texts" in page
    assert "Probability" not in page.partition("<thead>")[2].partition("</thead>")[0]
    assert '<p class="badges">' not in page  # of a verdict that nobody can make


def test_what_is_left_is_no_curve_of_muse():
    page = render_sequence(RUNS)
    assert "of the request's own rows." in page
    assert "95 % interval; 0" not in page
