import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from lightning_unlearn.metrics.sentence_encoder import MeanPooledEncoder, lexical_encoder, load_sentence_encoder

TEXTS = ["Ana was born in Karachi", "no", "", "a much longer text about the river song and its author, Ana Lindqvist"]


@pytest.fixture(scope="module")
def bert_dir(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<pad>", bos_token="<s>"
    ).save_pretrained(folder)
    return folder


def test_is_the_mean_of_last_hidden_states_without_padding(bert_dir):
    model, tokenizer = AutoModel.from_pretrained(bert_dir).eval(), AutoTokenizer.from_pretrained(bert_dir)
    found = MeanPooledEncoder(bert_dir, batch_size=3)(TEXTS)
    for vector, text in zip(found, TEXTS, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            torch.testing.assert_close(vector, model(ids).last_hidden_state[0].mean(0), rtol=1e-4, atol=1e-5)


def test_long_texts_are_cut(bert_dir):
    short = MeanPooledEncoder(bert_dir, max_length=4)
    torch.testing.assert_close(short(["in the city of Karachi"]), short(["in the city of Oslo and Rome"]))


def test_choice_by_argument(bert_dir):
    assert load_sentence_encoder("lexical") is lexical_encoder
    assert load_sentence_encoder(len) is len
    assert isinstance(load_sentence_encoder(bert_dir), MeanPooledEncoder)
    assert load_sentence_encoder(str(bert_dir))([]).shape == (0, 16)


def test_a_name_without_a_network_says_what_else_to_give(tmp_path):
    with pytest.raises(
        ValueError, match=r'sentence_encoder="org/absent" could not be .* folder .* callable, or "lexical"'
    ):
        load_sentence_encoder("org/absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"sentence_encoder=.*empty.* could not be loaded"):
        load_sentence_encoder(tmp_path / "empty")
