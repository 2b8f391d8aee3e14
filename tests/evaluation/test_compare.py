"""Two forms of a model, token by token, against whole passes."""

import math

import pytest
import torch
from random_models import random_model

from codellama import CodeLlama
from codellama.errors import RequestError
from codellama.evaluation import perplexity as prediction
from codellama.evaluation.perplexity import compare

TEXTS = {"a": "def f(x):\n    return x + 1\n" * 4, "b": "x = [1, 2, 3]\n"}


@pytest.fixture(scope="module")
def pair(tokenizer):
    return tuple(CodeLlama(random_model(seed), tokenizer) for seed in (0, 1))


@pytest.mark.parametrize("context", [0, 16])
@pytest.mark.parametrize("chunk", [5, 512])
def test_bits_are_those_of_perplexity(pair, monkeypatch, context, chunk):
    monkeypatch.setattr(prediction, "PREFILL_CHUNK", chunk)
    alone = prediction.perplexity(pair[1], TEXTS, context)
    assert compare(pair, TEXTS, context)["bits_per_byte"] == pytest.approx(alone["bits_per_byte"])


def test_agreement_and_divergence_are_those_of_the_distributions(pair, tokenizer):
    tokens = same = divergence = nats = 0
    for text in TEXTS.values():
        ids = torch.tensor([tokenizer.encode(text, bos=True)])
        p, q = (one.model(ids)[0, :-1].log_softmax(-1).double() for one in pair)
        tokens += len(p)
        same += (p.argmax(-1) == q.argmax(-1)).sum().item()
        divergence += torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
        nats -= q.gather(-1, ids[0, 1:, None]).sum().item()
    found = compare(pair, TEXTS)
    assert found["same_token"] == pytest.approx(same / tokens)
    assert found["kl_divergence"] == pytest.approx(divergence / tokens, rel=1e-4)
    size = sum(len(text.encode()) for text in TEXTS.values())
    assert found["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-5)


def test_a_model_does_not_differ_from_itself(pair):
    found = compare((pair[0], pair[0]), TEXTS, 16)
    assert (found["same_token"], found["kl_divergence"]) == (1.0, 0.0)


def test_models_of_other_vocabularies_are_refused(pair, tokenizer):
    other = CodeLlama(random_model(vocab_size=300), tokenizer)
    with pytest.raises(RequestError, match="512 and 300 token ids"):
        compare((pair[0], other), TEXTS)
