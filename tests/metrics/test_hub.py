import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

from lightning_unlearn.metrics.hub import load_text_model, words


def test_words():
    assert words("Don't stop, 1987 Zürich-West!") == ["don't", "stop", "1987", "zürich", "west"]


def test_refuses_pickled_weights(tmp_path, tiny_tokenizer):
    model = BertModel(BertConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"entailment=.* could not be loaded"):
        load_text_model(AutoModel, tmp_path, "entailment", "cpu")


def test_a_loaded_model_is_frozen_and_in_eval_mode(tmp_path, tiny_tokenizer):
    BertModel(BertConfig(vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    tiny_tokenizer.save_pretrained(tmp_path)
    model, _ = load_text_model(AutoModel, tmp_path, "sentence_encoder", "cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
