"""Several processes share an evaluation: each has the log of one process. One spawn a world size runs all cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_unlearn.data.records import Record
from lightning_unlearn.data.set_options import SetOptions
from lightning_unlearn.data.tokenization import Encoder
from lightning_unlearn.evaluation.judge import Judge
from lightning_unlearn.evaluation.log import Log, read_samples
from lightning_unlearn.evaluation.run import EvaluationStopped, evaluate
from lightning_unlearn.fingerprint import fingerprint
from lightning_unlearn.models import Lora, add_lora
from lightning_unlearn.sharding import shard
from tests.ranks import spawn

OPTIONS = {"max_new_tokens": 9, "sentence_encoder": "lexical", "entailment": "lexical", "progress": False}
WAYS = {2: {"ddp": None, "fsdp": (2, 1), "tp": (1, 2)}, 4: {"2d": (2, 2)}}  # (data parallel, tensor parallel)
PARTS = {"ddp": 2, "fsdp": 2, "tp": 1, "2d": 2}  # shares of the rows
MODELS = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "mistral": {
        "sliding_window": 24
    },  # some rows are longer, and what is tried once for them takes forwards of its own
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},  # its positions must not run over
}


def records(name: str, count: int) -> list[Record]:
    return [
        Record(
            question=f"Who wrote {name} number {i}" + " of the river song" * (3 * i % 4) + "?",
            answer=f"Ana Lindqvist, 19{i}7.",
            paraphrased_answer="" if name == "world_facts" else f"It is by Ana Lindqvist, 19{i}7.",
            perturbed_answers=tuple(f"Bo Ek, 18{i}{k}." for k in range(1 + i % 2)),
        )
        for i in range(count)
    ]


SETS = {name: records(name, n) for name, n in {"forget": 5, "retain": 3, "real_authors": 2, "world_facts": 1}.items()}
ROWS = [(name, i) for name, rows in SETS.items() for i in range(len(rows))]
CASES = {
    "fewer rows than ranks": {"sets": {"forget": SETS["forget"][1:2], "retain": []}, "batch_size": 2},  # a long one
    "greedy": {"sets": SETS, "batch_size": 1},
    "drawn": {"sets": SETS, "batch_size": 3, "temperature": 1.0},
    "asked otherwise": {
        "sets": SETS,
        "batch_size": 2,
        "set_options": {"retain": SetOptions(generate=False), "world_facts": SetOptions(max_new_tokens=3)},
    },
}


def model_of(folder: Path, kind: str, mesh: tuple[int, int] | None = None) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(folder / ("llama" if kind == "lora" else kind)).double().eval()
    model.generation_config.eos_token_id = list(range(0, 400, 7))  # answers end at different lengths
    if kind == "lora":
        model = add_lora(model, Lora(dropout=0.5))
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator).double() * 0.3
    if mesh is not None:
        shard(model, init_device_mesh("cpu", mesh, mesh_dim_names=("data_parallel", "tensor_parallel")))
    return model


def encoder_of(folder: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(folder / "llama"))


def kinds_of(way: str) -> list[str]:
    if way == "2d":
        return ["tied", "mistral", "lora"]
    return [kind for kind in (*MODELS, "lora") if not (kind == "gpt2" and way == "tp")]


def stop_after(rounds: int):
    asked = iter(range(100))
    return lambda: next(asked) >= rounds


def all_cases(world: int, folder: Path, seen: list) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    judged, encoder, found = Judge.samples, encoder_of(folder), {}
    Judge.samples = lambda self, rows, **how: seen.extend((r.set, r.index) for r in rows) or judged(self, rows, **how)
    for way, mesh in WAYS[world].items():
        for kind in kinds_of(way):
            model = model_of(folder, kind, mesh)
            for case, options in CASES.items():
                seen.clear()
                log = evaluate(model, encoder, **options, **OPTIONS)
                found[f"{way} {kind} {case}"] = {"log": log, "seen": list(seen), "mark": fingerprint(model)}
        model = model_of(folder, "llama", mesh)
        found[f"{way} continued"] = continued(way, model, encoder, folder, seen)
    if world == 2:
        fails_together(model_of(folder, "llama"), encoder)
    (folder / f"{world} {rank}.json").write_text(json.dumps(found))


def continued(way: str, model: nn.Module, encoder: Encoder, folder: Path, seen: list) -> dict:
    """Go on where one process stopped, and stop where one process will go on; the last rank alone is told to."""
    rank, last = torch.distributed.get_rank(), torch.distributed.get_world_size() - 1
    place = folder if rank == 0 else folder / f"disk of {rank}"
    seen.clear()
    whole = evaluate(model, encoder, SETS, batch_size=2, output=place / f"to {way}.jsonl", **OPTIONS)
    found = {"log": whole, "seen": list(seen)}
    stop = stop_after(2 if rank == last else 100)
    with pytest.raises(EvaluationStopped, match=f"stopped with {4 * PARTS[way]} of 11 rows finished"):
        evaluate(model, encoder, SETS, batch_size=2, output=place / f"from {way}.jsonl", stop=stop, **OPTIONS)
    assert not (folder / f"disk of {rank}").exists()
    return found


def fails_together(model: nn.Module, encoder: Encoder) -> None:
    def judge(texts):
        if torch.distributed.get_rank() == 1:
            raise KeyError("no such word")
        return torch.ones(len(texts), 1)

    first = torch.distributed.get_rank() == 0
    with pytest.raises(RuntimeError if first else KeyError, match="process 1 failed: KeyError" if first else "no such"):
        evaluate(model, encoder, SETS, **{**OPTIONS, "sentence_encoder": judge})
    done = [{"set": "forget", "index": 0, "question": "another"}] if first else ()  # read on the first alone
    with pytest.raises(ValueError if first else RuntimeError, match="same rec" if first else "process 0 failed: Value"):
        evaluate(model, encoder, SETS, done=done, **OPTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model_dir) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    for name, options in MODELS.items():
        made = tiny_model_dir({"tied": "llama"}.get(name, name), **options)
        (folder / name).symlink_to(made)
    for ways in WAYS.values():
        for way in ways:
            with pytest.raises(EvaluationStopped):
                alone(folder, "llama", "greedy", output=folder / f"to {way}.jsonl", stop=stop_after(2))
    return folder


def alone(folder: Path, kind: str, case: str, **more) -> Log:
    return evaluate(model_of(folder, kind), encoder_of(folder), **CASES[case], **OPTIONS, **more)


@pytest.mark.slow
@pytest.mark.parametrize("world", WAYS)
def test_every_rank_has_the_log_of_one_process_and_evaluates_its_share(folder, world):
    spawn(world, all_cases, world, folder, [])
    ranks = [json.loads((folder / f"{world} {rank}.json").read_text()) for rank in range(world)]
    expected = {("llama", "greedy"): alone(folder, "llama", "greedy")}
    for way, mesh in WAYS[world].items():
        cut = mesh[1] if mesh else 1
        for kind in kinds_of(way):
            for case, options in CASES.items():
                found = [of_rank[f"{way} {kind} {case}"] for of_rank in ranks]
                if (kind, case) not in expected:
                    expected[kind, case] = alone(folder, kind, case)
                assert_same(found[0]["log"], expected[kind, case])
                assert all(one["log"] == found[0]["log"] for one in found)
                rows = sorted((name, i) for name, rows in options["sets"].items() for i in range(len(rows)))
                assert sorted(tuple(row) for one in found[::cut] for row in one["seen"]) == rows
                for i, one in enumerate(found):  # those that cut a layer among them evaluate the same rows
                    assert one["seen"] == found[i - i % cut]["seen"]
            marks = {of_rank[f"{way} {kind} {case}"]["mark"] for of_rank in ranks for case in CASES}
            assert marks == {fingerprint(model_of(folder, kind))}
        found = [of_rank[f"{way} continued"] for of_rank in ranks]
        assert_same(found[0]["log"], expected["llama", "greedy"])
        started = [(s["set"], s["index"]) for s in read_samples(folder / f"to {way}.jsonl")[:2]]
        assert sorted(started + [tuple(row) for one in found[::cut] for row in one["seen"]]) == sorted(ROWS)
        begun = read_samples(folder / f"from {way}.jsonl")
        assert len(begun) == 4 * PARTS[way]
        again = alone(folder, "llama", "greedy", output=folder / f"from {way}.jsonl")
        assert_same(again, expected["llama", "greedy"])
        assert read_samples(folder / f"from {way}.jsonl")[: len(begun)] == begun
        assert len(read_samples(folder / f"from {way}.jsonl")) == len(ROWS)
    assert len({len(s["generation"]) for samples in expected["llama", "greedy"].values() for s in samples}) > 1
    assert expected["lora", "drawn"] != expected["lora", "greedy"]


def assert_same(found: Log, expected: Log) -> None:
    assert found.keys() == expected.keys()
    for name, samples in expected.items():
        assert [s["index"] for s in found[name]] == [s["index"] for s in samples]
        for ours, theirs in zip(found[name], samples, strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                last_digit = 1e-5 if key in ("token_log_prob", "token_predictive_entropy") else 0  # they are rounded
                assert ours[key] == nearly(value, 1e-6 + last_digit), (name, key)


def nearly(value: object, tolerance: float) -> object:
    is_float = isinstance(value, float) or (isinstance(value, list) and any(isinstance(x, float) for x in value))
    return pytest.approx(value, rel=1e-6, abs=tolerance) if is_float else value
