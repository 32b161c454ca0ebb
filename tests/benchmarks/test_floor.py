from dataclasses import replace

import pytest
import torch

from benchmarks import floor as module
from benchmarks.cases import Case, make
from benchmarks.floor import floor, moved_bytes, product_floor, product_seconds

CASE = Case("log_prob", "hidden", "trainable", 0.5, 20, 4, 100, "float32", "cpu")


def test_the_floor_is_the_products_of_our_schedule(monkeypatch):
    seconds = {"logits": 1.0, "hidden": 10.0, "weight": 100.0}
    monkeypatch.setattr(module, "product_seconds", lambda kind, *shape: seconds[kind])
    monkeypatch.setattr(module, "copy_rate", lambda device: 1e9)
    assert product_floor({"logits": 1.5, "hidden": 2.0, "weight": 0.0}, CASE, torch.float32) == 21.5
    trainable = floor(make(CASE))  # all logits fit the workspace: formed once
    assert (trainable.seconds, trainable.products) == (111.0, 3.0)
    assert trainable.schedule.startswith("recompute: 3.00 G")
    assert floor(make(replace(CASE, head="frozen"))).seconds == 11.0
    assert floor(make(replace(CASE, operation="reference_kl"))).seconds == 112.0  # the reference's logits, once


def test_products_are_of_the_tokens_that_count(monkeypatch):
    shapes = []
    monkeypatch.setattr(module, "product_seconds", lambda kind, *shape: shapes.append(shape) or 1.0)
    product_floor({"logits": 1.0, "hidden": 0.0, "weight": 0.0}, CASE, torch.float32)
    assert shapes == [(10, 4, 100, torch.float32, "cpu")]


@pytest.mark.parametrize("kind", ["logits", "hidden", "weight"])
def test_every_product_can_be_timed(kind):
    assert 0 < product_seconds(kind, 130, 4, 1100, torch.float32, "cpu") < 1


@pytest.mark.parametrize(
    ("operation", "source", "passes"),
    [
        ("log_prob", "row sums", 1),
        ("log_prob", "row gradient", 2),
        ("log_prob", "logits", 3),
        ("reference_kl", "row sums", 2),
        ("reference_kl", "row gradient", 3),
        ("reference_kl", "logits", 5),
    ],
)
def test_bytes_that_logits_take(operation, source, passes):
    case = replace(CASE, operation=operation, source=source, ignored=0.0)
    assert moved_bytes(case, 2) == passes * 20 * 100 * 2
