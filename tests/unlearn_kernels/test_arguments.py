import pytest
import torch

from unlearn_kernels import linear_token_statistics, token_statistics

HIDDEN, WEIGHT, LABELS = torch.zeros(4, 3), torch.zeros(5, 3), torch.tensor([0, 4, -100, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden": torch.zeros(2, 2, 3)},
            r"hidden: expected a tensor of shape \('any', 'any'\), got shape \(2, 2, 3\)",
        ),
        ({"hidden": torch.zeros(4, 3, dtype=torch.int64)}, "hidden: expected a floating-point tensor"),
        ({"hidden": "x"}, "hidden: .* got 'x'"),
        ({"weight": torch.zeros(5, 2)}, r"weight: expected a tensor of shape \('any', 3\), got shape \(5, 2\)"),
        ({"weight": torch.zeros(0, 3)}, "weight: expected at least one row, got 0"),
        ({"weight": torch.zeros(5, 3, device="meta")}, "weight: expected a tensor on cpu"),
        (
            {"labels": torch.zeros(4)},
            r"labels: expected an int64 tensor of shape \(4,\), got shape \(4,\), torch.float32",
        ),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels: .* got shape \(3,\)"),
        ({"labels": torch.tensor([0, 5, 0, 0])}, r"labels: expected ignore_index or a token in \[0, 5\), got 5"),
        ({"labels": torch.tensor([0, -1, 0, 0])}, r"labels: .* got -1"),
        ({"ignore_index": None}, r"labels: .* got -100"),
        ({"bias": torch.zeros(4)}, r"bias: expected a floating-point tensor of shape \(5,\), got shape \(4,\)"),
        ({"softcap": 0.0}, "softcap: expected a positive number or None, got 0.0"),
        ({"temperature": -1.0}, "temperature: expected a positive number, got -1.0"),
        ({"workspace_bytes": 0}, "workspace_bytes: expected a positive number of bytes or None, got 0"),
        ({"backend": "cuda"}, "backend: expected 'auto', 'triton' or 'torch', got 'cuda'"),
        ({"statistics": ("reference_kl",)}, "need a reference"),
        ({"reference_weight": WEIGHT}, "reference_hidden: expected hidden states"),
        ({"reference_hidden": torch.zeros(3, 3)}, r"reference_hidden: expected a tensor of shape \(4, 3\)"),
        ({"reference_hidden": torch.zeros(4, 2)}, r"reference_hidden: expected a tensor of shape \(4, 3\)"),
        (
            {"reference_hidden": torch.zeros(4, 2), "reference_weight": torch.zeros(5, 3)},
            r"reference_weight: expected a tensor of shape \(5, 2\)",
        ),
        ({"adapter_hidden": torch.zeros(4, 2)}, r"adapter_weight: expected a tensor of shape \(5, 2\), got None"),
        ({"adapter_weight": torch.zeros(5, 2)}, r"adapter_hidden: expected a tensor of shape \(4, 'any'\), got None"),
        (
            {"adapter_hidden": torch.zeros(4, 2), "adapter_weight": torch.zeros(5, 3)},
            r"adapter_weight: expected a tensor of shape \(5, 2\), got shape \(5, 3\)",
        ),
        (
            {"reference_hidden": HIDDEN, "reference_weight": WEIGHT, "reference_bias": torch.zeros(2)},
            r"reference_bias: expected a floating-point tensor of shape \(5,\)",
        ),
    ],
)
def test_wrong_arguments_are_named_with_what_was_expected_and_given(changes, message):
    arguments = {"hidden": HIDDEN, "weight": WEIGHT, "labels": LABELS, **changes}
    with pytest.raises(ValueError, match=message):
        linear_token_statistics(arguments.pop("hidden"), arguments.pop("weight"), arguments.pop("labels"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(4)}, "logits: expected a tensor of shape"),
        ({"logits": torch.zeros(4, 0)}, "logits: expected at least one column, got 0"),
        ({"labels": torch.tensor([0, 5, 0, 0])}, r"labels: .* got 5"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, "labels: expected"),
        ({"reference_logits": torch.zeros(4, 4)}, r"reference_logits: expected a tensor of shape \(4, 5\)"),
        ({"statistics": ("reference_kl",)}, "need a reference"),
        ({"backend": "cuda"}, "backend: expected 'auto', 'triton' or 'torch', got 'cuda'"),
    ],
)
def test_wrong_arguments_with_logits(changes, message):
    arguments = {"logits": torch.zeros(4, 5), "labels": LABELS, **changes}
    with pytest.raises(ValueError, match=message):
        token_statistics(arguments.pop("logits"), arguments.pop("labels"), **arguments)
