"""What is refused before a run starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from transformers import AutoModelForCausalLM

from lightning_unlearn.checks import check_lengths, check_run
from lightning_unlearn.data.records import Record
from lightning_unlearn.data.unlearning_records import UnlearningRecords
from lightning_unlearn.objectives.gradient_difference import GradientDifference
from lightning_unlearn.updates.normalized_gradient_difference import NormalizedGradientDifference
from tests.dense import tiny


def run_of(objective: GradientDifference, *, strategy=None, roles=("forget", "retain")) -> GradientDifference:
    objective._trainer = SimpleNamespace(
        strategy=strategy or SingleDeviceStrategy("cpu"),
        datamodule=SimpleNamespace(roles=roles),
        precision_plugin=None,
    )
    return objective


def test_a_run_that_can_start():
    check_run(run_of(GradientDifference(tiny(), update=NormalizedGradientDifference())))


def test_a_strategy_that_gathers_weights_in_forward_alone():
    with pytest.raises(ValueError, match=r"ShardedStrategy to shard a model, got .*FSDPStrategy"):
        check_run(run_of(GradientDifference(tiny()), strategy=FSDPStrategy()))


def test_a_role_that_the_data_lacks():
    with pytest.raises(
        ValueError, match=r"needs the roles \('forget', 'retain'\); the data provides \('forget',\), not retain"
    ):
        check_run(run_of(GradientDifference(tiny()), roles=("forget",)))


def test_a_rule_without_its_term():
    objective = GradientDifference(tiny(), retain="none", update=NormalizedGradientDifference())
    with pytest.raises(ValueError, match=r'retain must name a term for update=Normalized\w+, got "none"'):
        check_run(run_of(objective))


@pytest.mark.filterwarnings("ignore:max_length=.* cuts the answers")
def test_a_row_that_the_model_cannot_take(tiny_model_dir, tiny_tokenizer):
    objective = GradientDifference(AutoModelForCausalLM.from_pretrained(tiny_model_dir("gpt2")))
    short, long = Record("Who?", "Ana.", source="rows:1"), Record("Who else?", "Bo and " * 200, source="rows:2")

    def check(max_length):
        data = UnlearningRecords(forget=[short], retain=[long], tokenizer=tiny_tokenizer, max_length=max_length)
        data.setup("fit")
        check_lengths(SimpleNamespace(lightning_module=objective, datamodule=data))

    with pytest.raises(ValueError, match=r"max_length must be at most 256, .*; got 300, and rows:2 has 299"):
        check(300)
    check(256)  # rows are cut
