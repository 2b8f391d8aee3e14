"""The optimiser's steps, and a state that they go on from."""

import io
import math
from dataclasses import replace
from itertools import pairwise
from unittest.mock import MagicMock

import pytest
import torch
from codellama.training.contexts import PADDING, ContextStream, Position
from random_models import random_model
from torch import Tensor

from codellama import ModelConfig, Transformer
from codellama.training.infilling import in_gap
from codellama.training.trainer import Stage, Trainer, initialise

SEQUENCE = 32
STAGE = Stage(
    tokens=100_000,
    sequence=SEQUENCE,
    batch_tokens=4 * SEQUENCE,
    learning_rate=1e-3,
    warmup_steps=2,
    rope_theta=1e4,
)


class Rows:
    """A stream of the same rows again and again."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.seed = 0
        self.position = Position()

    def take(self, count: int) -> Tensor:
        start = self.position.row
        self.position.row += count
        return self.rows[[row % len(self.rows) for row in range(start, start + count)]]


def small_model(seed: int = 0) -> Transformer:
    return random_model(seed, dim=32, n_heads=2, n_kv_heads=1, multiple_of=32)


def random_rows(count: int = 8, length: int = SEQUENCE + 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 512, (count, length), generator=generator, dtype=torch.int32)


def padded_rows() -> Tensor:
    """Rows with 0, 4, 8 … tokens of padding."""
    rows = random_rows()
    for number, row in enumerate(rows):
        row[len(row) - 4 * number :] = PADDING
    return rows


def naive_loss(model: Transformer, rows: Tensor) -> float:
    """The mean over all tokens but each row's first, one row after the other, unpadded."""
    losses = []
    for row in rows.long():
        ids = row[row != PADDING]
        logprobs = model(ids[None, :-1])[0].log_softmax(-1)
        losses += [-logprobs[place, id].item() for place, id in enumerate(ids[1:])]
    return sum(losses) / len(losses)


def assert_same_weights(one: Transformer, other: Transformer, tolerance: float = 0.0) -> None:
    weights = dict(other.named_parameters())
    for name, weight in one.named_parameters():
        torch.testing.assert_close(
            weight, weights[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.fixture
def stream(tokenizer, tmp_path):
    """Makes equal streams over a few documents."""
    files = []
    for number in range(6):
        files.append(tmp_path / f"{number}.py")
        files[-1].write_text("".join(f"x_{number} = {line}\n" for line in range(12)))
    return lambda: ContextStream(files, tokenizer, SEQUENCE + 1, seed=1)


def test_a_batch_is_the_nearest_number_of_whole_sequences():
    def size(batch_tokens):
        return Stage(1_000, 64, batch_tokens, 1e-3, 0, 1e4).batch_size

    assert [size(tokens) for tokens in (1, 64, 90, 100, 640, 660)] == [1, 1, 1, 2, 10, 10]


@pytest.mark.parametrize(("tokens", "steps"), [(0, 0), (1, 1), (256, 1), (257, 2), (2_560, 10)])
def test_steps_are_as_few_as_see_all_tokens(tokens, steps):
    assert Stage(tokens, 64, 256, 1e-3, 0, 1e4).steps == steps


def test_the_learning_rate_rises_linearly_to_its_peak():
    stage = Stage(100 * 256, 64, 256, 3e-3, 10, 1e4)
    rates = [stage.learning_rate_at(step) for step in range(10)]
    assert rates == pytest.approx([3e-4 * step for step in range(1, 11)])


@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_the_learning_rate_falls_as_a_cosine_to_a_thirtieth(warmup_steps):
    stage = Stage(100 * 256, 64, 256, 3e-3, warmup_steps, 1e4)
    rates = [stage.learning_rate_at(step) for step in range(warmup_steps, 101)]
    assert rates[0] == pytest.approx(3e-3)
    assert rates[len(rates) // 2] == pytest.approx((3e-3 + 1e-4) / 2)
    assert rates[-1] == pytest.approx(1e-4)
    assert all(after < before for before, after in pairwise(rates))


def test_new_weights_follow_from_the_generators_seed():
    def model(seed):
        model = Transformer(ModelConfig(32, 2, 2, 512))
        initialise(model, torch.Generator().manual_seed(seed))
        return model

    assert_same_weights(model(0), model(0))
    assert not torch.equal(model(0).output.weight, model(1).output.weight)
    assert not torch.equal(model(0).layers[0].attention.wq.weight, model(0).tok_embeddings.weight)


@pytest.mark.parametrize("layers", [1, 8])
def test_new_weights_are_smaller_where_a_block_adds_to_the_stream(layers):
    model = Transformer(ModelConfig(128, layers, 4, 512))
    initialise(model, torch.Generator().manual_seed(0))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert torch.equal(weight, torch.ones_like(weight)), name
            continue
        adds = name.endswith(("attention.wo.weight", "feed_forward.w2.weight"))
        std = 0.02 if name == "output.weight" else 0.8 / math.sqrt(128)
        std /= math.sqrt(2 * layers) if adds else 1
        assert weight.std().item() == pytest.approx(std, rel=0.05), name
        assert abs(weight.mean().item()) < 0.05 * std, name


def test_a_new_model_guesses_evenly():
    model = Transformer(ModelConfig(64, 2, 4, 512))
    initialise(model, torch.Generator().manual_seed(0))
    trainer = Trainer(model, Rows(random_rows()), STAGE)
    assert trainer.train_step() == pytest.approx(math.log(512), abs=0.05)


def test_the_stage_sets_the_models_base_and_context():
    model = small_model()
    before = model.config
    Trainer(model, Rows(random_rows()), Stage(1_000, 48, 96, 1e-3, 0, 1e6))
    assert (model.config.rope_theta, model.config.max_seq_len) == (1e6, 48)
    assert (model.config.dim, model.config.n_layers) == (before.dim, before.n_layers)


def test_the_base_decides_on_the_loss():
    rows = random_rows()
    losses = [
        Trainer(small_model(), Rows(rows), Stage(1_000, SEQUENCE, 96, 1e-3, 0, theta)).loss(rows)
        for theta in (1e4, 1e6)
    ]
    assert losses[0] != losses[1]
    model = small_model()
    Trainer(model, Rows(rows), Stage(1_000, SEQUENCE, 96, 1e-3, 0, 1e6))
    assert losses[1] == pytest.approx(naive_loss(model, rows), abs=1e-4)


def test_the_loss_is_the_mean_over_tokens_and_passes_over_padding():
    rows = padded_rows()
    trainer = Trainer(small_model(), Rows(rows), STAGE, rows_at_once=3)
    expected = naive_loss(trainer.model, rows)
    assert trainer.loss(rows) == pytest.approx(expected, abs=1e-5)
    first, second = naive_loss(trainer.model, rows[:4]), trainer.train_step()
    assert second == pytest.approx(first, abs=1e-5)


def test_what_fills_a_gap_counts_as_often_as_it_is_weighted(tokenizer, tmp_path):
    (tmp_path / "text.py").write_text("x = [1, 2]\n" * 40)
    files = [tmp_path / "text.py"]
    means = {}
    for weight in (0.0, 1.0, 3.0):
        stream = ContextStream(files, tokenizer, SEQUENCE + 1, infilling_rate=1.0)
        trainer = Trainer(small_model(), stream, STAGE, gap_weight=weight)
        means[weight] = trainer.train_step()
    rows = ContextStream(files, tokenizer, SEQUENCE + 1, infilling_rate=1.0).take(STAGE.batch_size)
    gaps = int(in_gap(rows, tokenizer)[:, 1:].sum())
    others = int((rows[:, 1:] != PADDING).sum()) - gaps
    assert gaps > 0
    in_gaps = means[1.0] * (gaps + others) - means[0.0] * others
    expected = (means[0.0] * others + 3 * in_gaps) / (others + 3 * gaps)
    assert means[3.0] == pytest.approx(expected, rel=1e-4)


def test_measuring_the_loss_changes_nothing(stream):
    measured, plain = (Trainer(small_model(), stream(), STAGE) for _ in range(2))
    for _ in range(3):
        measured.loss(random_rows())
        assert measured.train_step() == plain.train_step()
    assert_same_weights(measured.model, plain.model)
    assert measured.stream.position == plain.stream.position


def test_more_padding_teaches_the_same():
    narrow = padded_rows()
    wide = torch.cat([narrow, torch.full((len(narrow), 16), PADDING, dtype=narrow.dtype)], dim=1)
    trainers = [Trainer(small_model(), Rows(rows), STAGE) for rows in (narrow, wide)]
    for _ in range(2):
        losses = [trainer.train_step() for trainer in trainers]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert_same_weights(trainers[0].model, trainers[1].model, tolerance=1e-5)


def test_what_runs_together_makes_no_difference():
    trainers = [Trainer(small_model(), Rows(padded_rows()), STAGE, count) for count in (1, 3, 4)]
    for _ in range(2):
        losses = [trainer.train_step() for trainer in trainers]
        assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    for other in trainers[1:]:
        assert_same_weights(trainers[0].model, other.model, tolerance=1e-5)


def test_the_loss_falls_on_a_document_that_repeats(tokenizer, tmp_path):
    path = tmp_path / "document.py"
    path.write_text("def f(x):\n    return x\n" * 4)
    model = small_model()
    initialise(model, torch.Generator().manual_seed(0))
    stream = ContextStream([path], tokenizer, SEQUENCE + 1, infilling_rate=0.0)
    stage = Stage(60 * 4 * SEQUENCE, SEQUENCE, 4 * SEQUENCE, 1e-2, 5, 1e4)
    trainer = Trainer(model, stream, stage)
    losses = [trainer.train_step() for _ in range(stage.steps)]
    assert losses[0] > 5
    assert losses[-1] < 0.5


def test_every_step_takes_its_own_learning_rate_and_batch(stream):
    trainer = Trainer(small_model(), stream(), STAGE)
    rows = stream().take(3 * STAGE.batch_size).split(STAGE.batch_size)
    for step, batch in enumerate(rows):
        expected = trainer.loss(batch)
        assert trainer.step == step
        assert trainer.train_step() == pytest.approx(expected, abs=1e-5)
        rates = {group["lr"] for group in trainer.optimizer.param_groups}
        assert rates == {STAGE.learning_rate_at(step)}


def test_gradients_are_clipped_to_a_norm_of_one(monkeypatch):
    trainer = Trainer(small_model(), Rows(random_rows()), STAGE)
    weights = list(trainer.model.parameters())
    logits = trainer.model(trainer.stream.rows[: STAGE.batch_size, :-1].long())
    targets = trainer.stream.rows[: STAGE.batch_size, 1:].long()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(loss, weights)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 1
    seen = []
    monkeypatch.setattr(
        trainer.optimizer, "step", lambda: seen.extend(weight.grad.clone() for weight in weights)
    )
    trainer.train_step()
    for clipped, gradient in zip(seen, gradients, strict=True):
        torch.testing.assert_close(clipped, gradient / norm, atol=1e-5, rtol=1e-3)


def test_norms_have_no_weight_decay():
    trainer = Trainer(small_model(), Rows(random_rows()), STAGE)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    for weight in trainer.model.parameters():
        weight.grad = torch.zeros_like(weight)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.5
    trainer.optimizer.step()
    for name, weight in trainer.model.named_parameters():
        expected = before[name] * (1 if "norm" in name else 1 - 0.5 * 0.1)
        torch.testing.assert_close(weight, expected, msg=name)


def test_skipping_sequences_span_the_context_and_others_do_not():
    rows, seen = random_rows(), []
    for rate in (0.0, 1.0):
        trainer = Trainer(small_model(), Rows(rows), replace(STAGE, context=512, skip_rate=rate))
        spy = MagicMock(wraps=trainer.model.forward)
        trainer.model.forward = spy
        trainer.train_step()
        seen.append(torch.cat([call.kwargs["positions"] for call in spy.call_args_list]))
    plain = torch.arange(SEQUENCE).expand(STAGE.batch_size, SEQUENCE)
    assert torch.equal(seen[0], plain)
    assert (seen[1][:, -1] > SEQUENCE).all()
    assert seen[1].max() < 512


def test_every_step_skips_anew_and_measures_without():
    rows = random_rows(count=STAGE.batch_size)
    skips = replace(STAGE, context=512, skip_rate=1.0, learning_rate=0.0)
    trainer, plain = (Trainer(small_model(), Rows(rows), stage) for stage in (skips, STAGE))
    assert trainer.loss(rows) == plain.loss(rows)
    losses = [trainer.train_step() for _ in range(3)]
    assert len({plain.loss(rows), *losses}) == 4


@pytest.mark.parametrize("skip_rate", [0.0, 0.5])
def test_a_resumed_trainer_goes_on_exactly_as_an_unbroken_one(stream, skip_rate):
    stage = replace(STAGE, context=512, skip_rate=skip_rate)
    unbroken = Trainer(small_model(), stream(), stage)
    for _ in range(3):
        unbroken.train_step()
    file = io.BytesIO()
    torch.save(unbroken.state_dict(), file)
    losses = [unbroken.train_step() for _ in range(12)]
    file.seek(0)
    resumed = Trainer(small_model(seed=1), stream(), stage)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.step == 3
    assert [resumed.train_step() for _ in range(12)] == losses
    assert_same_weights(resumed.model, unbroken.model)


def test_products_of_another_dtype_leave_the_weights_float32(stream):
    exact = Trainer(small_model(), stream(), STAGE)
    rough = Trainer(small_model(), stream(), STAGE, autocast=torch.bfloat16)
    for _ in range(2):
        one, other = exact.train_step(), rough.train_step()
        assert one != other
        assert one == pytest.approx(other, rel=0.02)
    assert {weight.dtype for weight in rough.model.parameters()} == {torch.float32}
