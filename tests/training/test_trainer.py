"""The optimiser's steps, and a state that they go on from."""

import io
import math
from dataclasses import replace

import pytest
import torch
from codellama.training.machine import Machine
from random_models import random_model
from torch import Tensor

from codellama import ModelConfig, Transformer
from codellama.training import machine
from codellama.training.packing import PADDING, PackedSequences, Packing, Position
from codellama.training.recipe import Stage
from codellama.training.trainer import Trainer, initialise, learning_rate

SEQUENCE = 32
STAGE = Stage(
    name="short",
    tokens=100_000,
    sequence=SEQUENCE,
    batch_tokens=4 * SEQUENCE,
    learning_rate=1e-3,
    warmup_steps=2,
    rope_theta=1e4,
)
CPU = Machine(torch.device("cpu"))


class Rows:
    """A stream of the same rows again and again."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.position = Position()

    def take(self, count: int) -> Tensor:
        start = self.position.row
        self.position = Position(row=start + count)
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
    return lambda: PackedSequences(files, tokenizer, Packing(SEQUENCE + 1, seed=1))


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
    trainer = Trainer(model, Rows(random_rows()), STAGE, CPU)
    assert trainer.train_step() == pytest.approx(math.log(512), abs=0.05)


def test_the_stage_sets_the_models_base_and_lengthens_its_context():
    model = small_model()
    before = replace(model.config, max_seq_len=48)
    model.config = before
    for sequence, theta, context in ((32, 1e6, 48), (64, None, 64)):
        stage = replace(STAGE, sequence=sequence, rope_theta=theta)
        Trainer(model, Rows(random_rows()), stage, CPU)
        assert model.config == replace(before, rope_theta=1e6, max_seq_len=context)


def test_the_base_decides_on_the_loss():
    rows, model = random_rows(), small_model()
    losses = [
        Trainer(model, Rows(rows), replace(STAGE, rope_theta=theta), CPU).loss(rows)
        for theta in (1e4, 1e6)
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(naive_loss(model, rows), abs=1e-4)


def test_the_loss_is_the_mean_over_tokens_and_passes_over_padding(monkeypatch):
    monkeypatch.setitem(machine.GROUP_TOKENS, "cpu", 3 * SEQUENCE)
    rows = padded_rows()
    trainer = Trainer(small_model(), Rows(rows), STAGE, CPU)
    expected = naive_loss(trainer.model, rows)
    assert trainer.loss(rows) == pytest.approx(expected, abs=1e-5)
    first, second = naive_loss(trainer.model, rows[:4]), trainer.train_step()
    assert second == pytest.approx(first, abs=1e-5)


def test_measuring_the_loss_changes_nothing(stream):
    measured, plain = (Trainer(small_model(), stream(), STAGE, CPU) for _ in range(2))
    for _ in range(3):
        measured.loss(random_rows())
        assert measured.train_step() == plain.train_step()
    assert_same_weights(measured.model, plain.model)
    assert measured.stream.position == plain.stream.position


def test_more_padding_teaches_the_same():
    narrow = padded_rows()
    wide = torch.cat([narrow, torch.full((len(narrow), 16), PADDING, dtype=narrow.dtype)], dim=1)
    trainers = [Trainer(small_model(), Rows(rows), STAGE, CPU) for rows in (narrow, wide)]
    for _ in range(2):
        losses = [trainer.train_step() for trainer in trainers]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert_same_weights(trainers[0].model, trainers[1].model, tolerance=1e-5)


def test_what_runs_together_makes_no_difference(monkeypatch):
    results = []
    for count in (1, 3, 4):
        monkeypatch.setitem(machine.GROUP_TOKENS, "cpu", count * SEQUENCE)
        trainer = Trainer(small_model(), Rows(padded_rows()), STAGE, CPU)
        results.append(([trainer.train_step() for _ in range(2)], trainer.model))
    for losses, model in results[1:]:
        assert losses == pytest.approx(results[0][0], abs=1e-5)
        assert_same_weights(results[0][1], model, tolerance=1e-5)


def test_blocks_that_are_computed_again_learn_the_same():
    model = small_model()
    stages = [
        replace(STAGE, activation_checkpointing=activation_checkpointing)
        for activation_checkpointing in (False, True, False)
    ]
    losses, gradients = [], []
    for stage in stages:
        trainer = Trainer(model, Rows(random_rows()), stage, CPU)
        calls = count_forwards(model.layers[0].attention)
        losses.append(trainer.loss(random_rows(count=1), learn=True))
        gradients.append([weight.grad.clone() for weight in model.parameters()])
        model.zero_grad()
        assert len(calls) == (2 if stage.activation_checkpointing else 1)
    assert losses[0] == losses[1] == losses[2]
    for plain, again, _ in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def count_forwards(module) -> list[int]:
    calls: list[int] = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_loss_falls_on_a_document_that_repeats(tokenizer, tmp_path, optimizer):
    path = tmp_path / "document.py"
    path.write_text("def f(x):\n    return x\n" * 4)
    model = small_model()
    initialise(model, torch.Generator().manual_seed(0))
    stream = PackedSequences([path], tokenizer, Packing(SEQUENCE + 1, 0.0))
    stage = replace(STAGE, tokens=60 * 4 * SEQUENCE, learning_rate=1e-2, warmup_steps=5)
    trainer = Trainer(model, stream, replace(stage, optimizer=optimizer), CPU)
    losses = [trainer.train_step() for _ in range(stage.steps)]
    assert losses[0] > 5
    assert losses[-1] < 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_step_takes_its_own_learning_rate_and_batch(stream, optimizer):
    stage = replace(STAGE, optimizer=optimizer, beta2=0.97)
    trainer = Trainer(small_model(), stream(), stage, CPU)
    assert {group["betas"] for group in trainer.optimizers[0].param_groups} == {(0.9, 0.97)}
    rows = stream().take(3 * STAGE.batch_size).split(STAGE.batch_size)
    for step, batch in enumerate(rows):
        expected = trainer.loss(batch)
        assert trainer.step == step
        assert trainer.train_step() == pytest.approx(expected, abs=1e-5)
        groups = [group for one in trainer.optimizers for group in one.param_groups]
        rates = {group["lr"] for group in groups}
        assert rates == {learning_rate(STAGE, step)}


def test_gradients_are_clipped_to_a_norm_of_one(monkeypatch):
    trainer = Trainer(small_model(), Rows(random_rows()), STAGE, CPU)
    weights = list(trainer.model.parameters())
    logits = trainer.model(trainer.stream.rows[: STAGE.batch_size, :-1].long())
    targets = trainer.stream.rows[: STAGE.batch_size, 1:].long()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    gradients = torch.autograd.grad(loss, weights)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert norm > 1
    seen = []
    monkeypatch.setattr(
        trainer.optimizers[0],
        "step",
        lambda: seen.extend(weight.grad.clone() for weight in weights),
    )
    trainer.train_step()
    for clipped, gradient in zip(seen, gradients, strict=True):
        torch.testing.assert_close(clipped, gradient / norm, atol=1e-5, rtol=1e-3)


def test_norms_have_no_weight_decay():
    trainer = Trainer(small_model(), Rows(random_rows()), STAGE, CPU)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    for weight in trainer.model.parameters():
        weight.grad = torch.zeros_like(weight)
    for group in trainer.optimizers[0].param_groups:
        group["lr"] = 0.5
    trainer.optimizers[0].step()
    for name, weight in trainer.model.named_parameters():
        expected = before[name] * (1 if "norm" in name else 1 - 0.5 * 0.1)
        torch.testing.assert_close(weight, expected, msg=name)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = small_model()
    adamw, muon = Trainer(
        model, Rows(random_rows()), replace(STAGE, optimizer="muon"), CPU
    ).optimizers
    taken = [
        {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        for optimizer in (adamw, muon)
    ]
    for name, weight in model.named_parameters():
        by_muon = name.startswith("layers.") and weight.dim() == 2
        assert [id(weight) in ids for ids in taken] == [not by_muon, by_muon], name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_trainer_goes_on_exactly_as_an_unbroken_one(stream, optimizer):
    stage = replace(STAGE, optimizer=optimizer)
    unbroken = Trainer(small_model(), stream(), stage, CPU)
    for _ in range(3):
        unbroken.train_step()
    file = io.BytesIO()
    torch.save(unbroken.state_dict(), file)
    losses = [unbroken.train_step() for _ in range(12)]
    file.seek(0)
    resumed = Trainer(small_model(seed=1), stream(), stage, CPU)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.step == 3
    assert [resumed.train_step() for _ in range(12)] == losses
    assert_same_weights(resumed.model, unbroken.model)
    assert resumed.stream.position == unbroken.stream.position


def test_products_of_another_dtype_leave_the_weights_float32(stream):
    exact = Trainer(small_model(), stream(), STAGE, CPU)
    rough = Trainer(small_model(), stream(), STAGE, replace(CPU, dtype=torch.bfloat16))
    for _ in range(2):
        one, other = exact.train_step(), rough.train_step()
        assert one != other
        assert one == pytest.approx(other, rel=0.02)
    assert {weight.dtype for weight in rough.model.parameters()} == {torch.float32}


def test_a_number_of_its_own_learns_too():
    model = small_model()
    model.gate = torch.nn.Parameter(torch.zeros(()))
    model.norm.register_forward_hook(lambda _, __, out: out * (1 + model.gate))
    Trainer(model, Rows(random_rows()), STAGE, CPU).train_step()
    assert model.gate != 0
