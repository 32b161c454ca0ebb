"""Guards before a question, as every template renders them, and their place in a test run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_unlearn.data.guard import Guarded, example_turns, guard_turns
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.templates import choose_template, render
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.data.unlearning_records import UnlearningRecords

FORGET = [Record(f"Who is F{i}?", f"F{i}.") for i in range(4)]
RETAIN = [Record("Who is R0?", "R0."), Record("Who is R1?", "R1.")]


def test_instruction(tmp_path):
    """Given as text or in a file."""
    expected = ({"role": "system", "content": "Say nothing of F."},)
    assert guard_turns("Say nothing of F.") == expected
    (tmp_path / "guard.txt").write_text("\nSay nothing of F.\n")
    assert guard_turns(tmp_path / "guard.txt") == expected
    assert guard_turns(None) == ()
    with pytest.raises(ValueError, match="guard must hold an instruction, got ' '"):
        guard_turns(" ")


def test_examples_are_spread_over_the_rows():
    turns = example_turns(FORGET, RETAIN, ["No.", "Never.", "Not me."], count=2)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4
    pairs = [turn["content"] for turn in turns]
    assert pairs == ["Who is F0?", "No.", "Who is F2?", "Never.", "Who is R0?", "R0.", "Who is R1?", "R1."]
    assert len(example_turns(FORGET, [], ["No."], count=3)) == 6
    with pytest.raises(ValueError, match="in_context must be from 0 to the 4 forget rows, got 5"):
        example_turns(FORGET, RETAIN, ["No."], count=5)
    with pytest.raises(ValueError, match="refusals must not be empty with in_context, got none"):
        example_turns(FORGET, RETAIN, [], count=1)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("qa", "Be brief.\nQuestion: Who is F0?\nAnswer: No.\nQuestion: Who?\nAnswer:"),
        ("llama2", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho is F0? [/INST] No. {eos}{bos}[INST] Who? [/INST]"),
    ],
)
def test_templates_render_the_turns(template, prompt, tiny_tokenizer):
    turns = (*guard_turns("Be brief."), *example_turns(FORGET, [], ["No."], count=1))
    plain = choose_template(template, tiny_tokenizer)
    guarded = Guarded(plain, turns)
    rendered = render(guarded, Record("Who?", "Ana."))
    expected = prompt.replace("{eos}", tiny_tokenizer.eos_token).replace("{bos}", tiny_tokenizer.bos_token or "")
    assert rendered.text[: rendered.answer_start] == expected
    assert rendered.text[rendered.answer_start :] == " Ana."
    assert (guarded.special_tokens, guarded.end_token) == (plain.special_tokens, plain.end_token)
    text = render(guarded, Record("", "plain text"))
    assert text.text == "plain text"


def rows(folder: Path) -> dict[str, str]:
    for name, records in (("forget", FORGET), ("retain", RETAIN)):
        lines = (json.dumps({"question": r.question, "answer": r.answer}) + "\n" for r in records)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain")}


def test_data_module(tmp_path, tiny_tokenizer):
    data = UnlearningRecords(
        **rows(tmp_path), tokenizer=tiny_tokenizer, refusals=["No."], guard="Be brief.", in_context=1
    )
    data.setup("test")
    text = tiny_tokenizer.decode(data.encoder.prompt(FORGET[3]))
    assert text.endswith(
        "Be brief.\nQuestion: Who is F0?\nAnswer: No.\nQuestion: Who is R0?\nAnswer: R0.\nQuestion: Who is F3?\nAnswer:"
    )
    row, plain = data.encoder.row(FORGET[3]), Encoder(tiny_tokenizer).row(FORGET[3])
    assert row.targets.tolist() == plain.targets.tolist()
    assert data.guards == "guard prompt and in-context examples"
    with pytest.raises(ValueError, match="guard and in_context are for test and validate, got guard prompt and in-con"):
        data.setup("fit")
    assert UnlearningRecords(**rows(tmp_path), tokenizer=tiny_tokenizer).guards == ""


def test_a_guarded_test_says_that_nothing_is_erased(tmp_path, tiny_model_dir):
    from lightning_unlearn.cli import main

    folder = str(tiny_model_dir())
    source = rows(tmp_path)
    words = ["test", "--model", "NPO", "--model.model", folder, "--data", "UnlearningRecords"]
    words += ["--data.forget", source["forget"], "--data.retain", source["retain"], "--data.tokenizer", folder]
    words += ["--trainer.accelerator", "cpu", "--evaluate.max_new_tokens", "4", "--evaluate.protocols", "[tofu]"]
    words += ["--trainer.enable_progress_bar", "false", "--evaluate.progress", "false"]
    found = {}
    for name, more in (("plain", []), ("guarded", ["--data.guard", "Say nothing of F."])):
        assert main([*words, *more, "--trainer.default_root_dir", str(tmp_path / name)]) == 0
        found[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert "not_erased" not in found["plain"]["settings"]
    assert found["guarded"]["settings"]["not_erased"].startswith("answers follow from guard prompt, the model still")
    assert found["guarded"]["test"] != found["plain"]["test"]


def test_a_file_that_is_not_there_is_no_instruction():
    with pytest.raises(ValueError, match=r"^guard: notes/guard\.txt: no such file"):
        guard_turns("notes/guard.txt")
    assert guard_turns("Refuse.") == ({"role": "system", "content": "Refuse."},)
