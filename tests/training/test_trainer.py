"""The optimiser's steps, and a state that they go on from."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from random_models import random_model
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from codellama import ModelConfig, Transformer
from codellama.distributed import DistributedContext
from codellama.errors import RequestError
from codellama.training import trainer as training_trainer
from codellama.training.packing import PADDING, PackedSequences, Packing, Position
from codellama.training.recipe import Stage
from codellama.training.trainer import (
    Trainer,
    distribute,
    initialise,
    learning_rate,
    new_optimizers,
    set_stage,
)

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
CPU = DistributedContext(torch.device("cpu"))


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


def test_a_stage_sets_the_models_base_and_lengthens_its_context():
    model = small_model()
    before = replace(model.config, max_seq_len=48)
    model.config = before
    for sequence, theta, context in ((32, 1e6, 48), (64, None, 64)):
        set_stage(model, replace(STAGE, sequence=sequence, rope_theta=theta))
        assert model.config == replace(before, rope_theta=1e6, max_seq_len=context)


def test_a_trainer_changes_nothing_of_the_model():
    model = small_model()
    config, names = model.config, [*model.state_dict()]
    Trainer(model, Rows(random_rows()), replace(STAGE, activation_checkpointing=True), CPU)
    assert (model.config, [*model.state_dict()]) == (config, names)
    assert not any(vars(block)["_forward_pre_hooks"] for block in model.layers)


def test_the_base_decides_on_the_loss():
    rows, model, losses = random_rows(), small_model(), []
    for theta in (1e4, 1e6):
        set_stage(model, replace(STAGE, rope_theta=theta))
        losses.append(Trainer(model, Rows(rows), STAGE, CPU).loss(rows))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(naive_loss(model, rows), abs=1e-4)


def test_tokens_that_are_read_alone_have_no_loss():
    rows, model = random_rows(), small_model()
    trainer = Trainer(model, Rows(rows), STAGE, CPU)
    chosen = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    marked = torch.where(chosen, ~rows, rows)
    logprobs = model(rows[:, :-1].long()).log_softmax(-1)
    losses = -logprobs.gather(2, rows[:, 1:, None].long())[..., 0][marked[:, 1:] >= 0]
    assert trainer.loss(marked) == pytest.approx(losses.mean().item(), abs=1e-5)
    assert trainer.loss(~rows) == 0


def test_the_accuracy_of_a_token_is_that_at_its_places(monkeypatch):
    monkeypatch.setitem(training_trainer.GROUP_TOKENS, "cpu", 3 * SEQUENCE)
    rows, model = padded_rows(), small_model()
    rows[:, ::3][rows[:, ::3] != PADDING] = 7
    model.output.weight.data[7] *= 1_000  # is the likeliest or the least likely
    found = model(rows[:, :-1].clamp(min=0).long()).argmax(-1)[rows[:, 1:] == 7] == 7
    trainer = Trainer(model, Rows(rows), STAGE, CPU)
    assert 0 < found.float().mean() < 1
    assert trainer.accuracy(rows, 7) == pytest.approx(found.float().mean().item())
    assert trainer.accuracy(rows, 512) == 0  # is nowhere


def test_the_loss_is_the_mean_over_tokens_and_passes_over_padding(monkeypatch):
    monkeypatch.setitem(training_trainer.GROUP_TOKENS, "cpu", 3 * SEQUENCE)
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
        monkeypatch.setitem(training_trainer.GROUP_TOKENS, "cpu", count * SEQUENCE)
        trainer = Trainer(small_model(), Rows(padded_rows()), STAGE, CPU)
        results.append(([trainer.train_step() for _ in range(2)], trainer.model))
    for losses, model in results[1:]:
        assert losses == pytest.approx(results[0][0], abs=1e-5)
        assert_same_weights(results[0][1], model, tolerance=1e-5)


def test_blocks_that_are_computed_again_learn_the_same():
    model = small_model()
    names = [name for name, _ in model.named_parameters()]
    losses, gradients = [], []
    for is_on in (False, True, False, True):
        stage = replace(STAGE, activation_checkpointing=is_on)
        set_stage(model, stage)
        trainer = Trainer(model, Rows(random_rows()), stage, CPU)
        calls = count_forwards(model.layers[0].attention)
        losses.append(trainer.loss(random_rows(count=1), backward=True))
        gradients.append([weight.grad.clone() for weight in model.parameters()])
        model.zero_grad()
        assert len(calls) == (2 if is_on else 1)
        trainer.loss(random_rows(count=1))
        assert len(calls) == (3 if is_on else 2)
    assert len({*losses}) == 1
    for plain, *others in zip(*gradients, strict=True):
        for other in others:
            torch.testing.assert_close(plain, other)
    assert [*model.state_dict()] == [name for name, _ in model.named_parameters()] == names


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
    adamw, muon = new_optimizers(model, replace(STAGE, optimizer="muon"))
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
    state = copy.deepcopy(unbroken.state_dict())
    losses = [unbroken.train_step() for _ in range(12)]
    resumed = Trainer(small_model(seed=1), stream(), stage, CPU)
    resumed.load_state_dict(state)
    assert resumed.step == 3
    assert [resumed.train_step() for _ in range(12)] == losses
    assert_same_weights(resumed.model, unbroken.model)
    assert resumed.stream.position == unbroken.stream.position


def test_a_state_has_metas_names():
    model = small_model()
    names = [*model.state_dict()]
    stage = replace(STAGE, activation_checkpointing=True)
    set_stage(model, stage)
    trainer = Trainer(model, Rows(random_rows()), stage, CPU)
    trainer.train_step()
    assert [*trainer.state_dict()["model"]] == names


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


@pytest.fixture
def cluster():
    """One process that is all of its group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DistributedContext(torch.device("cpu"), mesh=init_device_mesh("cpu", (1,)))
    dist.destroy_process_group()


def new_trainer(context, **changes):
    rows = torch.randint(3, 512, (8, 33), generator=torch.Generator().manual_seed(0))
    stream = SimpleNamespace(take=lambda count: rows[:count], position=Position())
    stage = Stage("a", 1_000, 32, 128, 1e-3, rope_theta=1e6)
    model = distribute(small_model(), context)
    return Trainer(model, stream, replace(stage, **changes), context)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_group_of_one_learns_as_a_process_without_a_group(cluster, optimizer):
    shared, plain = (new_trainer(context, optimizer=optimizer) for context in (cluster, CPU))
    for _ in range(3):
        assert shared.train_step() == pytest.approx(plain.train_step(), abs=1e-5)


def test_weights_are_shared_in_float32_and_multiplied_in_bfloat16(cluster):
    trainer = new_trainer(replace(cluster, dtype=torch.bfloat16))
    seen = {}

    def note(_, inputs):
        x, cos, sin, *_ = inputs
        seen.update(x=x.dtype, cos=cos.dtype, sin=sin.dtype)

    trainer.model.layers[0].attention.register_forward_pre_hook(note)
    loss = trainer.train_step()
    assert seen == {"x": torch.bfloat16, "cos": torch.float32, "sin": torch.float32}
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert loss == pytest.approx(new_trainer(CPU).train_step(), rel=0.02)


def test_a_model_with_other_modules_is_for_one_process(cluster):
    model = random_model(dim=32, n_heads=2)
    for norm in (torch.nn.LayerNorm(32), torch.nn.RMSNorm(32)):
        model.norm = norm
        with pytest.raises(RequestError, match="whose modules were changed"):
            distribute(model, cluster)


def test_frozen_weights_stay_frozen(cluster):
    model = random_model(dim=32, n_heads=2)
    model.output.requires_grad_(False)
    placed = distribute(model, cluster)
    frozen = [name for name, weight in placed.named_parameters() if not weight.requires_grad]
    assert frozen == ["output.weight"]
