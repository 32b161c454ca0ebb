import pytest

from lightning_unlearn.metrics.entailment import Entailment, output_entails_target, target_entails_output

OUTPUTS = ["Ana was born in Rome in 1950", "I do not know", "Rome"]
TARGETS = ["Rome", "Rome", "Rome, in 1950"]


class Longer:
    """Says that a longer text entails a shorter one, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, premises, hypotheses):
        self.asked += zip(premises, hypotheses, strict=True)
        return ["entailment" if len(p) > len(h) else "contradiction" for p, h in zip(premises, hypotheses, strict=True)]


def test_direction_of_each_rule():
    assert output_entails_target(OUTPUTS, TARGETS, model=Longer()) == [True, False, False]
    assert target_entails_output(OUTPUTS, TARGETS, model=Longer()) == [False, False, True]


def test_rows_below_the_rouge_floor_are_none_without_being_asked():
    model = Longer()
    output_entails_target(OUTPUTS, TARGETS, model=model)
    assert model.asked == [(OUTPUTS[0], TARGETS[0]), (OUTPUTS[2], TARGETS[2])]
    # 1 word of 11 is .09 of recall, 1 of 10 is .1
    target = "one two three four five six seven eight nine ten"
    assert output_entails_target(["one " * 50], [target], model=model) == [True]
    assert output_entails_target(["one " * 50], [target + " eleven"], model=model) == [False]
    assert output_entails_target([""], ["Rome"], model=model) == [False]


def test_metric_counts_rows():
    metric = Entailment(Longer())
    metric.update(OUTPUTS, TARGETS)
    metric.update(["Rome!"], ["Rome"])
    assert metric.compute().item() == pytest.approx(2 / 4)
    reverse = Entailment(Longer(), output_is_premise=False)
    reverse.update(OUTPUTS, TARGETS)
    assert reverse.compute().item() == pytest.approx(1 / 3)


def test_errors():
    with pytest.raises(ValueError, match="outputs and targets must be of one length, got 3 and 1"):
        output_entails_target(OUTPUTS, TARGETS[:1], model=Longer())
    with pytest.raises(ValueError, match="entailment must return one label a pair, got 0 for 2 pairs"):
        output_entails_target(OUTPUTS, TARGETS, model=lambda premises, hypotheses: [])
