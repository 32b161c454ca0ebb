from types import SimpleNamespace

import numpy as np
import pytest

from lightning_unlearn.data.fictitious import FictitiousAuthors
from lightning_unlearn.data.module import UnlearningDataModule
from lightning_unlearn.data.records import Record, RecordError
from lightning_unlearn.data.unanswerable import QUESTIONS
from lightning_unlearn.data.unlearning_records import UnlearningRecords

FORGET = [Record(f"Who wrote {i}?", f"Ana {i}.", source=f"f:{i}") for i in range(6)]
RETAIN = [Record(f"Where is {i}?", f"Here {i}.", source=f"r:{i}") for i in range(9)]
FACTS = [Record("Two and two?", "4")]


class Rows(UnlearningDataModule):
    reads = 0

    def read_records(self):
        self.reads += 1
        return {"forget": FORGET, "retain": RETAIN}

    def read_evaluation_sets(self):
        return {"forget": FORGET, "retain": RETAIN, "world_facts": [*FACTS, RETAIN[0]]}


def trainer(roles=None, *, rank=0, world=1, accumulate=1):
    return SimpleNamespace(
        lightning_module=SimpleNamespace(roles=roles) if roles else None,
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world} if world > 1 else None,
        accumulate_grad_batches=accumulate,
        num_training_batches=10,
        limit_train_batches=1.0,
        max_epochs=3,
        max_steps=-1,
    )


def test_all_roles_without_a_trainer(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, batch_size=2)
    data.prepare_data()
    data.setup("fit")
    data.setup("fit")
    assert data.reads == 1
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    assert batches[0].roles == ("forget", "retain", "forget_idk", "retain_idk")
    assert len(list(data.val_dataloader())) == 3


def test_only_the_roles_of_the_objective_are_built(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer)
    data.trainer = trainer(("forget_idk",))
    data.setup("fit")
    assert next(iter(data.train_dataloader())).roles == ("forget_idk",)
    assert set(data._rows) == {"forget", "forget_idk"}  # refusals go with rows, which are there but not packed
    assert data.roles == (
        "forget",
        "retain",
        "forget_idk",
        "retain_idk",
        "forget_random",
        "forget_unanswerable",
    )  # what is offered stays known
    data.trainer = trainer(("forget", "retain_idk"))
    data.setup("fit")
    assert next(iter(data.train_dataloader())).roles == ("forget", "retain_idk")
    assert next(iter(data.val_dataloader())).roles == ("forget", "retain_idk")


def test_random_answers_are_made_for_an_objective_that_reads_them(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, batch_size=6, random_answers=3, seed=7)
    data.setup("fit")
    assert "forget_random" not in data._rows
    data.trainer = trainer(("forget_random", "retain"))
    data.setup("fit")
    rows = data._rows["forget_random"]
    assert (rows.choices, rows.seed) == (3, 7)
    (batch,) = data.train_dataloader()
    assert batch.roles == ("retain", "forget_random")
    assert batch.rows("forget_random") == slice(6, 12)
    said = data.tokenizer.decode(batch.targets[batch.tokens("forget_random")])
    assert {text.strip() for text in said.split("</s>")[:-1]} <= {record.answer for record in RETAIN}
    (again,) = data.val_dataloader()
    asked = data.tokenizer.decode(again.input_ids[again.spans["forget_random"].inputs])
    assert all(record.question in asked for record in FORGET)


@pytest.mark.parametrize("given", [None, ["Who is Zed?", "Who is Zod?"], "file"])
def test_unanswerable_questions_are_made_for_an_objective_that_reads_them(given, tiny_tokenizer, tmp_path):
    questions = QUESTIONS if given is None else ["Who is Zed?", "Who is Zod?"]
    if given == "file":
        given = tmp_path / "questions.txt"
        given.write_text("\n".join(questions), encoding="utf-8")
    data = Rows(tokenizer=tiny_tokenizer, batch_size=6, unanswerable=given)
    data.setup("fit")
    assert "forget_unanswerable" not in data._rows
    data.trainer = trainer(("forget", "forget_unanswerable"))
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.roles == ("forget", "forget_unanswerable")
    asked = data.tokenizer.decode(batch.input_ids[batch.spans["forget_unanswerable"].inputs])
    assert sum(asked.count(question) for question in questions) == 6


def test_without_unanswerable_questions_the_role_is_not_offered(tiny_tokenizer):
    assert "forget_unanswerable" not in Rows(tokenizer=tiny_tokenizer, unanswerable=[]).roles


def test_without_retain_rows_there_are_no_random_answers(tiny_tokenizer):
    class Alone(Rows):
        def read_records(self):
            return {"forget": FORGET}

    assert Alone(tokenizer=tiny_tokenizer).roles == ("forget", "forget_idk", "forget_unanswerable")


def test_a_role_that_is_not_offered_is_left_to_the_objective(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, refusals=[])
    data.trainer = trainer(("forget", "forget_idk"))
    data.setup("fit")
    assert data.roles == ("forget", "retain", "forget_random", "forget_unanswerable")
    assert next(iter(data.train_dataloader())).roles == ("forget",)


def test_rank_and_accumulation_come_from_the_trainer(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, batch_size=2)
    data.trainer = trainer(rank=1, world=2, accumulate=3)
    data.setup("fit")
    loader = data.train_dataloader()
    assert (loader.rank, loader.world_size, loader.accumulate()) == (1, 2, 3)
    assert len(loader) == 2
    data.trainer.accumulate_grad_batches = 5  # a scheduler callback may change it
    assert loader.accumulate() == 5
    ordered = data.val_dataloader()
    assert (ordered.rank, ordered.world_size) == (1, 2)


def test_loader_options_and_seed_reach_the_loader(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, batch_size=3, retain_per_forget=2.0, seed=5)
    data.setup("fit")
    loader = data.train_dataloader()
    assert (loader.batch_size, loader.retain_per_forget, loader.seed) == (3, 2.0, 5)
    batch = next(iter(loader))
    assert len(range(*batch.rows("retain").indices(99))) == 6
    other = Rows(tokenizer=tiny_tokenizer, batch_size=3, retain_per_forget=2.0, seed=6)
    other.setup("fit")
    first = next(iter(other.train_dataloader()))
    assert not np.array_equal(batch.input_ids.numpy(), first.input_ids.numpy())


def test_a_budget_counts_what_the_objective_reads(tiny_tokenizer):
    lengths = {}
    for roles in (None, ("forget", "retain"), ("forget_idk",)):
        data = Rows(tokenizer=tiny_tokenizer, tokens_per_batch=150)
        assert data.batch_size is None
        data.trainer = trainer(roles)
        data.setup("fit")
        loader, ordered = data.train_dataloader(), data.val_dataloader()
        for epoch in range(3):
            loader.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(loader)
            assert max(len(batch.input_ids) for batch in [*batches, *ordered]) <= 150
        lengths[roles] = len(loader)
    # six units of about 110 tokens in all roles, of 30 in two, of 30 in refusals alone
    assert lengths == {None: 6, ("forget", "retain"): 2, ("forget_idk",): 2}


def test_a_row_above_the_budget_is_told_with_its_number(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, tokens_per_batch=5)
    data.setup("fit")
    with pytest.raises(ValueError, match=r'tokens_per_batch must be at least \d+: .* rows\["forget"\]\[\d\] .* got 5'):
        data.train_dataloader()


def test_a_test_run_builds_the_encoder_and_no_rows(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer)
    with pytest.raises(ValueError, match=r"setup\(\) must be called"):
        data.train_dataloader()
    data.setup("test")
    assert data.encoder is not None
    assert not data._rows


def test_tokenizer_from_a_folder(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path)
    data = Rows(tokenizer=str(tmp_path))
    data.setup("fit")
    assert data.tokenizer.eos_token_id == 1


def test_too_long_prompts_fail_in_setup(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, max_length=4)
    with pytest.raises(RecordError, match="f:0: max_length=4 cuts off the whole answer"):
        data.setup("fit")


def test_training_and_retraining_records_hold_each_row_once(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer)
    assert data.training_records() == [*FORGET, *RETAIN, *FACTS]
    assert data.retrain_records() == [*RETAIN, *FACTS]


def test_fingerprint_counts_and_hashes_without_text(tiny_tokenizer):
    print_ = Rows(tokenizer=tiny_tokenizer).fingerprint()
    assert {role: found["rows"] for role, found in print_.items()} == {"forget": 6, "retain": 9}
    assert all(len(found["sha256"]) == 64 for found in print_.values())
    assert print_ == Rows(tokenizer=tiny_tokenizer).fingerprint()


def test_refusals_from_a_list_a_file_or_ours(tmp_path, tiny_tokenizer):
    assert Rows(tokenizer=tiny_tokenizer, refusals=["No."]).refusals() == ["No."]
    (tmp_path / "no.txt").write_text("Never.\n")
    assert Rows(tokenizer=tiny_tokenizer, refusals=tmp_path / "no.txt").refusals() == ["Never."]
    assert len(Rows(tokenizer=tiny_tokenizer).refusals()) >= 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "tokens_per_batch": 9}, "only one of batch_size and tokens_per_batch may be given"),
        ({"tokens_per_batch": 0}, "tokens_per_batch must be at least 1, got 0"),
        ({"retain_per_forget": 0.0}, "retain_per_forget must be above 0, got 0.0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"random_answers": 0}, "random_answers must be at least 1, got 0"),
        ({"in_context": -1}, "in_context must not be negative, got -1"),
    ],
)
def test_options_out_of_range(tiny_tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        Rows(tokenizer=tiny_tokenizer, **options)


def test_subclasses_take_a_budget(tiny_tokenizer):
    rows = [{"question": f"Who wrote {i}?", "answer": f"Ana {i}."} for i in range(4)]
    kept = [{"question": f"Where is {i}?", "answer": f"Here {i}."} for i in range(4)]
    options = {"tokenizer": tiny_tokenizer, "tokens_per_batch": 200}
    for data in (
        UnlearningRecords(forget=rows, retain=kept, **options),
        FictitiousAuthors(authors=2, forget_authors=1, **{**options, "tokens_per_batch": 600}),
    ):
        data.setup("fit")
        for batches in (data.train_dataloader(), data.val_dataloader()):
            assert max(len(batch.input_ids) for batch in batches) <= data.tokens_per_batch


def test_a_row_that_cannot_be_used_costs_the_losses_where_none_is_trained_on(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer, max_length=4)  # no answer is left of any row
    for stage, loader in (("test", data.test_dataloader), ("validate", data.val_dataloader)):
        data.setup(stage)
        with pytest.warns(UserWarning, match="losses of the objective are left out: .*cuts off the whole answer"):
            assert list(loader()) == [{}]
    with pytest.raises(RecordError, match="cuts off the whole answer"):
        data.setup("fit")


def test_the_longest_row_is_told_with_its_place(tiny_tokenizer):
    data = Rows(tokenizer=tiny_tokenizer)
    data.setup("fit")
    rows = {role: data._tokenise()[role] for role in ("forget", "retain")}
    longest = max(len(row.input_ids) for found in rows.values() for row in found)
    tokens, place = data.longest_row()
    role, number = place.split(":")
    assert tokens == longest == len(rows[{"f": "forget", "r": "retain"}[role]][int(number)].input_ids)


@pytest.mark.parametrize("name", ["refusals", "unanswerable", "alternates"])
def test_a_file_that_is_not_there_is_told_with_its_option(tiny_tokenizer, name):
    data = Rows(tokenizer=tiny_tokenizer, **{name: "absent.jsonl"})
    data.trainer = trainer(("forget", "forget_idk", "forget_alternate", "forget_unanswerable"))
    with pytest.raises(RecordError, match=f"^{name}: absent.jsonl: no such file"):
        data.setup("fit")
