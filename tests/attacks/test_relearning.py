from __future__ import annotations

import json

import pytest
import torch

from lightning_unlearn.attacks.relearning import Relearning, fine_tuning
from lightning_unlearn.data.records import row_key
from lightning_unlearn.evaluation.run import select_rows
from lightning_unlearn.models import Lora, add_lora, load_causal_lm
from tests.attacks.exams import FORGET, RETAIN, exam, record, taught, unchanged


def test_a_step_is_adamw_on_the_mean_nll(tiny_model_dir):
    ours, theirs = (load_causal_lm(tiny_model_dir()).eval() for _ in range(2))
    rows = exam(tiny_model_dir()).encoder.rows(FORGET[:2])
    fine_tuning(ours, rows, 1e-2, 8, seed=0)()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    nll, tokens = 0.0, 0
    for row in rows:  # one at a time, all logits
        logits = theirs(torch.tensor(row.input_ids)[None]).logits[0, torch.tensor(row.target_positions)]
        nll = nll + torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets), reduction="sum")
        tokens += len(row.targets)
    (nll / tokens).backward()
    optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def test_every_row_is_seen_before_any_is_seen_again(tiny_model_dir, monkeypatch):
    import lightning_unlearn.attacks.relearning as module

    seen, real = [], module.pack
    monkeypatch.setattr(module, "pack", lambda rows: seen.append(rows["rows"]) or real(rows))
    rows = exam(tiny_model_dir()).encoder.rows(FORGET)
    step = fine_tuning(load_causal_lm(tiny_model_dir()), rows, 1e-3, 4, seed=3)
    for _ in range(3):
        step()
    places = [next(i for i, row in enumerate(rows) if row is one) for batch in seen for one in batch]
    assert sorted(places[:6]) == sorted(places[6:]) == list(range(6))
    assert places[:6] != places[6:]


@pytest.mark.parametrize("lora", [False, True])
def test_knowledge_grows_with_steps_and_the_model_stays(tiny_model_dir, lora):
    asked, model = exam(tiny_model_dir()), load_causal_lm(tiny_model_dir()).train()
    attack = Relearning(k=3, steps=[1, 20], lr=1e-2)
    if lora:
        model = add_lora(model, Lora(r=2, dropout=0.5))
        attack = Relearning(k=3, steps=[1, 20], lr=1e-2, lora=Lora(r=4, dropout=0.5))
    with unchanged(model):
        points = {x: scores() for x, scores in attack.points(model, asked)}
        again = {x: scores() for x, scores in attack.points(model, asked)}
    assert points == again
    assert list(points) == [0, 1, 20]
    assert points[20]["forget/probability"] > points[1]["forget/probability"] > points[0]["forget/probability"]
    assert {key for key in points[0] if not key.endswith("_error")} == set(attack.scores)


def test_rows_that_were_not_shown_are_scored_apart(tiny_model_dir):
    asked = exam(tiny_model_dir())
    attack = Relearning(k=2, steps=[1])
    model = taught(tiny_model_dir(), attack.shown(asked))  # knows what will be shown, and only that
    points = {x: scores() for x, scores in attack.points(model, asked)}
    held = [FORGET[i] for i in range(6) if i not in select_rows(6, 2)]
    others = exam(tiny_model_dir(), forget=held)
    expected = others.scores(model, others.forget)
    assert points[0]["held_out/probability"] == pytest.approx(expected["forget/probability"], rel=1e-5)
    assert points[0]["forget/probability"] > points[0]["held_out/probability"]
    assert attack.judged == "held_out/rougeL_recall"


def test_where_rows_come_from(tiny_model_dir, tmp_path):
    asked = exam(tiny_model_dir())
    assert Relearning(rows="related", k=2).shown(asked) == [RETAIN[i] for i in select_rows(6, 2)]
    general = Relearning(rows="unrelated", k=200).shown(asked)
    assert {"What is the capital of Peru?", "Who wrote 'Faust'?"} <= {row.question for row in general}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "Bern lies on a river."}) + "\n")
    (only,) = Relearning(rows="unrelated", file=tmp_path / "rows.jsonl").shown(asked)
    assert only.answer == "Bern lies on a river."
    assert Relearning(rows="related").judged == "forget/rougeL_recall"


def test_check(tiny_model_dir, tmp_path):
    with pytest.raises(ValueError, match="k must leave forget rows that are not shown, got 6 of 6"):
        Relearning(k=6).check(exam(tiny_model_dir()))
    with pytest.raises(ValueError, match="data must have related rows to relearn from, got none"):
        Relearning(rows="related").check(exam(tiny_model_dir(), retain=None))
    Relearning(k=5).check(exam(tiny_model_dir()))
    with pytest.raises(ValueError, match=r"file: .*no\.jsonl: no such file"):
        Relearning(rows="related", file=tmp_path / "no.jsonl").check(exam(tiny_model_dir()))
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "Who? " * 200, "answer": "Ana."}) + "\n")
    with pytest.raises(ValueError, match=r"long\.jsonl:1: max_length=200 cuts off the whole answer"):
        Relearning(rows="related", file=tmp_path / "long.jsonl").check(exam(tiny_model_dir()))


def test_shown_rows_are_told_from_others_by_their_text(tiny_model_dir):
    asked = exam(tiny_model_dir(), forget=[record("A", "Bern"), *FORGET[1:]])
    shown = {row_key(row) for row in Relearning(k=5).shown(asked)}
    assert Relearning(k=5)._held_out(asked) == [row_key(row) not in shown for row in FORGET]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "all"}, "rows must be"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"steps": [0, 5]}, r"steps must be at least 1 each, and one at least, got \[0, 5\]"),
        ({"steps": []}, r"steps must be at least 1 each, and one at least, got \[\]"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"lr": -1e-5}, "lr must be above 0 and finite, got -1e-05"),
        ({"lr": float("nan")}, "lr must be above 0 and finite, got nan"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"file": "x.jsonl"}, 'rows must be "related" or "unrelated" with a file'),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Relearning(**options)
