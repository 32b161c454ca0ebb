from dataclasses import replace

import pytest

from benchmarks.architecture import architecture
from benchmarks.memory import main, parse
from benchmarks.moments import peak
from benchmarks.plan import Plan
from benchmarks.plan_measure import measured_peak, random_rows
from benchmarks.shapes import Shape

TOLERANCE = 0.12  # of the prediction, relative to what is measured on a CPU; most are within 0.03
SHAPE = Shape(256, 688, 4, 4, 2, 16000)
BODY = replace(SHAPE, vocabulary=500)  # almost no head: the peak is in the layers
LONG = {"tokens": 4096, "labelled": 64}


@pytest.mark.parametrize(
    ("shape", "moment", "options"),
    [
        (SHAPE, "head", {}),
        (SHAPE, "head", {"reference": "copy"}),
        (SHAPE, "head", {"checkpointing": True, "reference": "copy"}),
        (SHAPE, "head", {"lora": 8, "reference": "adapter"}),
        (SHAPE, "head", {"labelled": 200, "tokens": 2000}),
        (SHAPE, "head", {"dtype": "bfloat16", "states": "bfloat16"}),
        (SHAPE, "head", {"dtype": "bfloat16", "lora": 8, "reference": "adapter"}),
        (BODY, "backward begins", LONG),
        (BODY, "backward begins", {**LONG, "checkpointing": True}),
        (BODY, "backward begins", {**LONG, "lora": 8, "reference": "adapter"}),
        (SHAPE, "embedding", {"tokens": 32, "labelled": 8}),
        (replace(SHAPE, tied=True), "embedding", {"tokens": 32, "labelled": 8}),
    ],
)
def test_the_prediction_is_near_the_measurement(shape, moment, options):
    given = {"dtype": "float32", "states": "float32", "device": "cpu", "tokens": 1024, "labelled": 512, **options}
    plan = Plan(architecture(shape.config()), **given)
    when, predicted = peak(plan)
    assert when == moment
    assert predicted == pytest.approx(measured_peak(shape.config(), plan), rel=TOLERANCE)


def test_rows_hold_the_tokens_of_the_plan():
    plan = parse(["--model", "tiny", "--tokens", "150", "--labelled", "75"]).plan
    rows = [row for role in random_rows(plan, 2000).values() for row in role]
    assert sum(len(row.input_ids) for row in rows) == 150
    assert sum(len(row.targets) for row in rows) == 75


def test_a_plan_is_printed_with_its_arithmetic(capsys):
    main(["--model", "llama-3.1-8b", "--lora", "--checkpointing", "--budget", "24"])
    out = capsys.readouterr().out
    assert out.startswith("llama-3.1-8b: 8,030,261,248 parameters; 1 GPU (1 data x 1 tensor parallel); LoRA of rank 8")
    assert "16.061 GB   8,030,261,248 x 2 B" in out
    assert "<- the peak" in out
    assert "fits in 24 GB" in out


def test_many_gpus(capsys):
    main(["--model", "llama-3.1-405b", "--gpus", "64", "--tensor-parallel", "8", "--reference", "cache"])
    out = capsys.readouterr().out
    assert "64 GPUs (8 data x 8 tensor parallel)" in out
    for words in ("all-gather, forward", "reduce-scatter", "all-reduce, backward", "loss: all-reduce of d_hidden"):
        assert words in out


def test_what_does_not_fit_is_status_1(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--model", "llama-3.1-8b", "--budget", "24"])
    assert stop.value.code == 1
    assert "DOES NOT FIT in 24 GB" in capsys.readouterr().out


def test_offloaded_parts_are_the_hosts(capsys):
    main(["--model", "llama-3.1-8b", "--cpu-offload", "--checkpointing"])
    assert "memory of the host" in capsys.readouterr().out


def test_a_measurement_is_printed_beside_the_prediction(capsys):
    main(["--measure", "--model", "tiny", "--device", "cpu", "--tokens", "128"])
    assert "measured on cpu: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "0"], "--gpus: expected a positive number, got 0"),
        (["--gpus", "8", "--data-parallel", "2"], "--gpus: expected data parallel x tensor parallel = 2 x 1, got 8"),
        (["--reference", "adapter"], "reference: expected copy, cache or none where all weights train, got adapter"),
        (["--lora", "--full"], "not allowed with argument"),
        (["--measure", "--gpus", "2"], "--measure: expected one GPU"),
        (["--measure", "--device", "cpu", "--model", "llama-3.1-8b"], "--measure: expected at most 400,000,000"),
        (["--model", "no/such"], "--model: expected tiny"),
    ],
)
def test_bad_input_is_an_error_that_says_what_is_wrong(capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        parse(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
