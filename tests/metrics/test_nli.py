import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from lightning_unlearn.metrics.nli import SequenceClassifier, lexical_entailment, load_nli_model

PREMISES = ["Ana was born in Karachi", "no", "the river song"]
HYPOTHESES = ["Karachi", "yes, she wrote a song in 1987, which was long", ""]


def save_classifier(folder, tokenizer, labels):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), id2label=dict(enumerate(labels)), initializer_range=1.0, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>").save_pretrained(folder)
    return folder


def test_labels_are_those_of_each_pair_alone(tmp_path, tiny_tokenizer):
    folder = save_classifier(tmp_path, tiny_tokenizer, ["ENTAILMENT", "Neutral", "contradiction"])
    model = SequenceClassifier(folder, batch_size=2)
    found = model(PREMISES, HYPOTHESES)
    for label, premise, hypothesis in zip(found, PREMISES, HYPOTHESES, strict=True):
        with torch.no_grad():
            best = int(model.model(**model.tokenizer([premise], [hypothesis], return_tensors="pt")).logits.argmax())
        assert label == ["entailment", "neutral", "contradiction"][best]
    assert load_nli_model(folder)([], []) == []


def test_a_model_without_entailment_label_is_refused(tmp_path, tiny_tokenizer):
    folder = save_classifier(tmp_path, tiny_tokenizer, ["good", "bad"])
    with pytest.raises(
        ValueError, match=r"must be a model with the label \"entailment\", got labels \['bad', 'good'\]"
    ):
        load_nli_model(folder)


def test_a_name_without_a_network_says_what_else_to_give():
    with pytest.raises(ValueError, match=r'entailment="org/absent" could not be loaded .* callable, or "lexical"'):
        load_nli_model("org/absent")


@pytest.mark.parametrize(
    ("premise", "hypothesis", "label"),
    [
        ("Ana wrote the River Song in 1987", "She wrote River Song", "entailment"),  # wrote, river, song
        ("Ana wrote a poem", "Ana wrote the river song in 1987", "neutral"),  # 2 of 5
        ("river song of 1987", "river song of Ana, 1987", "entailment"),  # 3 of 4
        ("river of 1987", "river song of Ana, 1987", "neutral"),  # 2 of 4
        ("He did", "He did", "entailment"),  # nothing but function words
        ("", "Rome", "neutral"),
        ("Rome", "", "neutral"),
    ],
)
def test_lexical_rule_by_hand(premise, hypothesis, label):
    assert lexical_entailment([premise], [hypothesis]) == [label]
    assert load_nli_model("lexical")([premise], [hypothesis]) == [label]
