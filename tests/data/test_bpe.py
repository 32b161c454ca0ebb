import pytest

from lightning_unlearn.data.bpe import train_tokenizer
from lightning_unlearn.data.tokenization import Encoder


def test_special_tokens_and_round_trip(tmp_path):
    tokenizer = train_tokenizer(["the river song"] * 3, vocab_size=300)
    assert len(tokenizer) <= 300
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    ids = tokenizer("the river 日本").input_ids
    assert ids[0] == 0
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the river 日本"
    assert len(tokenizer("the river song").input_ids) < 6
    Encoder(tokenizer)


def test_vocabulary_must_hold_all_bytes():
    with pytest.raises(ValueError, match="vocab_size must be at least 260, got 100"):
        train_tokenizer(["x"], vocab_size=100)
