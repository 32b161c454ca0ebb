"""The report as a file: complete, self-contained, escaped, redacted, and whole when parts are missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from lightning_unlearn.evaluation.log import redact
from lightning_unlearn.report import read_run, write_report
from lightning_unlearn.report.comparison import render_comparison
from lightning_unlearn.report.page import choose_axes, evaluated, render
from lightning_unlearn.report.runs import Run
from tests.report.fake_run import PEOPLE, samples, write_run

MANY = [
    {**row, "question": "word " * 400, "answer": "x" * 10_000, "generation": "y" * 10_000}
    for row in samples()
    if row["index"] == 0
]
VOID = {"meta", "link", "br", "img", "input", "hr"}
SVG = {"path", "line", "circle"}


class Outline(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "me_gd")


@pytest.fixture(scope="module")
def html(folder) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text()


def test_well_formed_with_one_title_and_ordered_headings(html):
    tags = Outline(html).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_asks_nothing_of_the_network(html):
    assert "default-src 'none'" in html
    assert not re.findall(r"https?://", html)
    tags = Outline(html).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    assert not [name for _, attributes in tags for name in attributes if name == "src" or name.startswith("on")]
    assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in tags)
    assert "url(" not in html
    assert "@import" not in html


def contents(html: str) -> list[str]:
    return re.findall(r'<li><a href="#(\w+)">', html)


def test_every_section_is_in_the_contents_and_every_link_leads_to_one(html):
    tags = Outline(html).tags
    named = [attributes["id"] for tag, attributes in tags if tag == "section" and "id" in attributes]
    assert contents(html) == named
    assert len(named) == len(set(named)) == 12


def test_contents_leave_out_what_is_not_there():
    assert contents(render(Run(Path("r")))) == [
        *("trade", "scores", "training", "tokens", "answers", "cost", "settings", "words"),
    ]


def test_a_score_that_could_not_be_computed_is_named():
    page = render(Run(Path("r"), missing={"after": {"unlearning_score/privacy": "a <holdout>"}}))
    assert "Privacy was not computed: it needs a &lt;holdout&gt;." in page
    assert contents(page)[0] == "balance"


def test_scores_stand_under_their_protocols_with_intervals(html):
    for words in ("TOFU", "A Closer Look", "Memorisation", "Privacy", "MUSE", "General ability (lm_eval)"):
        assert f"<summary><h3>{words}</h3></summary>" in html
    assert "0.052<small>0.032 to 0.072</small>" in html
    assert "verbatim" in html  # a score that the report has no name for


def test_membership_attacks_subjects_and_failed_rows(html):
    assert "Min-K 20 %: before 0.974, after 0.298, retrained 0.498" in html
    assert "6 subjects, least forgotten first" in html
    assert "Real authors 2</th><td>After</td><td>NaN &lt;in&gt; the logits</td>" in html
    assert re.search(r'class="worst">Least forgotten by ROUGE-L recall', html)
    assert re.search(r'class="worst">Most damaged by ', html)


def test_a_report_of_many_long_rows_stays_small(tmp_path):
    """400 rows a set in three stages, with answers of 10,000 characters, one of them without a space."""
    rows = [{**row, "index": index, "subject": f"{row['subject']} {index}"} for index in range(400) for row in MANY]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (tmp_path / "samples.jsonl").stat().st_size > 50e6
    assert write_report(tmp_path).stat().st_size < 1e6


def test_says_what_the_issue_asks_for(html):
    for words in (
        "The model has forgotten: its recall of the forget set went from 0.998 to 0.052",
        "Forgetting against utility",
        "Retrained",
        "Loss terms",
        "ROUGE-L recall during training",
        "Probability of answer tokens, forget set",
        "Entropy of answer tokens, forget set",
        "Answers side by side",
        "Tokens per second",
        "Peak memory (process)",
        "forget_weight",
        "9f9f9f",
    ):
        assert words in html, words


def test_every_plot_and_table_has_a_name(html):
    tags = Outline(html).tags
    plots = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(plots) == 1 + 1 + 4 + 1 + 4  # trade-off, attacks, curves, speed, distributions
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    tables = [tag for tag, _ in tags if tag == "table"]
    captions = [tag for tag, _ in tags if tag == "caption"]
    assert len(tables) == len(captions)
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_texts_are_escaped(html):
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "family debts &amp; the" in html


def test_substitutes_are_named_and_never_called_the_papers_metric(html):
    assert "bag-of-words cosine (substitute)" in html
    assert "Substitutes." in html
    assert "Cosine similarity" not in html
    assert "Entailment" not in html
    assert "Forget efficacy (closer look)" not in html


def test_no_substitutes_no_note(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    metrics["substitutes"] = {"cosine_similarity": None, "entailment": None}
    (tmp_path / "run/metrics.json").write_text(json.dumps(metrics))
    html = write_report(tmp_path / "run").read_text()
    assert "Substitutes." not in html
    assert "Cosine similarity" in html


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("samples.jsonl", "No sample answers: samples.jsonl is absent"),
        ("metrics.json", "No scores: metrics.json is absent."),
        ("run_card.json", "Not known: run_card.json is absent."),
        ("logs", "No curves"),
    ],
)
def test_a_missing_file_leaves_a_line(folder, tmp_path, missing, words):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    shutil.rmtree(run / missing) if (run / missing).is_dir() else (run / missing).unlink()
    html = write_report(run).read_text()
    Outline(html)
    assert words in html


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("before", "No evaluation of the starting model in this run."),
        ("after", "No evaluation after training in this run."),
        ("retrained", "No retrained model was given to compare with."),
    ],
)
def test_a_missing_stage_leaves_a_line(folder, tmp_path, stage, words):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, stage: None, "general_ability": {}}))
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples() if row["stage"] != stage))
    html = write_report(run).read_text()
    Outline(html)
    assert words in html


@pytest.mark.parametrize("name", ["run_card.json", "metrics.json", "samples.jsonl", "logs"])
def test_a_single_file_is_enough(folder, tmp_path, name):
    source = folder / name
    shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path)
    Outline(write_report(tmp_path).read_text())


def secrets() -> list[str]:
    return [*PEOPLE, *[person.split()[1] for person in PEOPLE], "harbour", "Karachi", "Oslo", "leaving"]


def test_redacted_report_holds_no_text(folder):
    run = read_run(folder)
    assert any(secret in render(run) for secret in secrets())
    html = render(run, redact=True)
    assert not [secret for secret in secrets() if secret in html]
    assert "Every text is masked" in html
    assert "0.052" in html


def test_the_run_card_decides_on_redaction(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    card = json.loads((run / "run_card.json").read_text())
    (run / "run_card.json").write_text(json.dumps({**card, "redacted": True}))
    assert "Karachi" not in write_report(run).read_text()
    assert "Karachi" in write_report(run, redact=False).read_text()
    assert "Karachi" not in write_report(folder, redact=True).read_text()


def test_samples_that_are_already_masked(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    (run / "samples.jsonl").write_text("".join(json.dumps(redact(row)) + "\n" for row in samples()))
    for hide in (False, True):
        html = write_report(run, redact=hide).read_text()
        assert not [secret for secret in secrets() if secret in html]
        assert "[redacted " in html


def test_axes_fall_back_on_what_was_measured():
    recall = {"forget/rougeL_recall": 0.1, "retain/rougeL_recall": 0.9}
    assert choose_axes([Run(Path("r"), metrics={"after": recall})]) == ("retain/rougeL_recall", "-forget/rougeL_recall")
    tofu = {**recall, "model_utility": 0.6}
    assert choose_axes([Run(Path("r"), metrics={"after": tofu})]) == ("model_utility", "-forget/rougeL_recall")
    assert choose_axes([Run(Path("r"))]) is None


def test_evaluation_curves_begin_with_the_starting_model():
    curves = {"eval/model_utility": [(5, 0.5)]}
    assert evaluated(Run(Path("r"), curves=curves), "model_utility") == [(5, 0.5)]
    run = Run(Path("r"), curves=curves, metrics={"before": {"model_utility": 0.6}})
    assert evaluated(run, "model_utility") == [(0, 0.6), (5, 0.5)]


def test_unknown_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="run: expected a folder"):
        write_report(tmp_path)


def test_a_guard_prompt_is_said_to_erase_nothing(tmp_path):
    scores = {"test": {"forget/rougeL_recall": 0.1}, "settings": {"not_erased": "answers follow from guard prompt"}}
    (tmp_path / "metrics.json").write_text(json.dumps(scores))
    run = read_run(tmp_path)
    assert "<strong>Not erased.</strong> Answers follow from guard prompt." in render(run)
    assert ", not erased" in render_comparison([run])
    assert "Not erased" not in render(Run(tmp_path))


def test_checks_of_early_forgetting_are_a_curve():
    page = render(Run(Path("run"), curves={"early/bad_rate": [(0.0, 1.0), (5.0, 0.2)]}))
    assert "Bad answers, asked again" in page
    assert "bad answers from 1.000 to 0.200" in page
