"""The same weights in Hugging Face's implementation, and in the papers' formulas in float64."""

import pytest
import torch
from random_models import random_model
from torch import Tensor

from codellama import Transformer

LAYERS, HEADS, HEAD_DIM, HIDDEN, VOCABULARY, EPS = 2, 4, 16, 256, 512, 1e-5

shapes = pytest.mark.parametrize("n_kv_heads", [4, 2, 1], ids=["multi", "grouped", "single"])
bases = pytest.mark.parametrize("theta", [1e4, 1e6])

HUGGING_FACE_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "norm": "model.norm",
    "output": "lm_head",
}


def evens_first(channels: Tensor) -> Tensor:
    """Hugging Face turns channel i with i + head_dim / 2, where Meta turns 2i with 2i + 1."""
    return torch.cat((channels[..., 0::2], channels[..., 1::2]), dim=-1)


def hugging_face_name(name: str) -> str:
    module = name.removesuffix(".weight")
    prefix = ""
    if module.startswith("layers."):
        _, layer, module = module.split(".", 2)
        prefix = f"model.layers.{layer}."
    return f"{prefix}{HUGGING_FACE_NAMES[module]}.weight"


def hugging_face(model: Transformer) -> torch.nn.Module:
    """Hugging Face's model with the weights of ours, and in their dtype."""
    transformers = pytest.importorskip("transformers")
    theta = model.config.rope_theta
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=model.config.n_kv_heads,
        rms_norm_eps=EPS,
        max_position_embeddings=2**17,
        rope_theta=theta,  # up to version 4
        rope_parameters={"rope_type": "default", "rope_theta": theta},  # from version 5
    )
    weights = {}
    for name, weight in model.state_dict().items():
        if name.endswith(("wq.weight", "wk.weight")):
            weight = evens_first(weight.T.unflatten(-1, (-1, HEAD_DIM))).flatten(1).T
        weights[hugging_face_name(name)] = weight
    other = transformers.LlamaForCausalLM(config)
    other.load_state_dict(weights, assign=True)  # so that its rotary table stays float32
    return other.eval()


def formulas(model: Transformer, tokens: Tensor) -> Tensor:
    """The forward pass of the papers, in float64."""
    w = {name.removesuffix(".weight"): x.double() for name, x in model.state_dict().items()}
    seq, config = tokens.shape[1], model.config
    frequencies = config.rope_theta ** (-torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
    angles = torch.outer(torch.arange(seq).double(), frequencies)[:, None]
    turns = torch.polar(torch.ones_like(angles), angles)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight

    def turn(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    stream = w["tok_embeddings"][tokens]
    for layer in range(LAYERS):
        wq, wk, wv, wo = (w[f"layers.{layer}.attention.w{kind}"] for kind in "qkvo")
        w1, w2, w3 = (w[f"layers.{layer}.feed_forward.w{number}"] for number in (1, 2, 3))
        x = norm(stream, w[f"layers.{layer}.attention_norm"])
        queries, keys, values = (
            (x @ weight.T).unflatten(-1, (-1, HEAD_DIM)) for weight in (wq, wk, wv)
        )
        group = HEADS // config.n_kv_heads
        keys = turn(keys).repeat_interleave(group, dim=2)
        values = values.repeat_interleave(group, dim=2)
        scores = torch.einsum("bqhc,bkhc->bhqk", turn(queries), keys) / HEAD_DIM**0.5
        scores += torch.full((seq, seq), -torch.inf).triu(1)
        attended = torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), values)
        stream = stream + attended.flatten(2) @ wo.T
        x = norm(stream, w[f"layers.{layer}.ffn_norm"])
        gate = x @ w1.T
        stream = stream + (gate * gate.sigmoid() * (x @ w3.T)) @ w2.T
    return norm(stream, w["norm"]) @ w["output"].T


def random_tokens(batch: int, seq: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (batch, seq), generator=torch.Generator().manual_seed(seed))


def assert_same_logits(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4, check_dtype=False)


@shapes
@bases
@torch.inference_mode()
def test_logits_follow_from_the_papers_formulas(theta, n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads, rope_theta=theta)
    tokens = random_tokens(2, 48)
    assert_same_logits(model(tokens), formulas(model, tokens))


@shapes
@bases
@pytest.mark.parametrize("chunk", [1, 7, 48], ids=["token by token", "chunked prefill", "one pass"])
@torch.inference_mode()
def test_logits_are_hugging_faces(chunk, theta, n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads, rope_theta=theta)
    tokens = random_tokens(2, 48)
    expected = hugging_face(model)(tokens).logits
    assert_same_logits(model(tokens), expected)
    cache = model.new_cache(batch_size=2)
    logits = [model(part, cache) for part in tokens.split(chunk, dim=1)]
    assert_same_logits(torch.cat(logits, dim=1), expected)


@shapes
@bases
@pytest.mark.parametrize("past", [16_500, 100_000])
@torch.inference_mode()
def test_logits_far_into_a_context_are_hugging_faces(past, theta, n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads, rope_theta=theta)
    other = hugging_face(model)
    generator = torch.Generator().manual_seed(0)
    cache = model.new_cache(capacity=past + 8)
    cache.lengths = [past]
    theirs = pytest.importorskip("transformers").DynamicCache()
    for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
        keys.normal_(std=3, generator=generator)
        values.normal_(generator=generator)
        theirs.update(evens_first(keys[:, :, :past]), values[:, :, :past].clone(), layer)
    tokens = random_tokens(1, 8)
    logits = torch.cat([model(part, cache) for part in tokens.split([5, 1, 2], dim=1)], dim=1)
    positions = torch.arange(past, past + 8)[None]
    expected = other(tokens, past_key_values=theirs, position_ids=positions).logits
    assert_same_logits(logits, expected)


@shapes
@bases
@torch.inference_mode()
def test_bfloat16_is_no_further_from_the_truth_than_hugging_face(theta, n_kv_heads):
    ours = theirs = 0.0
    for seed in range(6):
        model = random_model(seed, n_kv_heads=n_kv_heads, rope_theta=theta).bfloat16()
        tokens = random_tokens(2, 64, seed)
        truth = formulas(model, tokens)
        ours += (model(tokens) - truth).abs().mean()
        theirs += (hugging_face(model)(tokens).logits - truth).abs().mean()
    assert ours <= 1.05 * theirs
