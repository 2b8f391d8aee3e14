"""`CodeLlama` on models that say what a test wants, on random and on small real weights."""

import gc
import shutil
import warnings
import weakref
from itertools import pairwise

import pytest
import torch
from random_checkpoint import tokenizer_model
from random_models import random_model
from sentencepiece import SentencePieceProcessor
from shared_data import shared

from codellama import (
    CheckpointError,
    CodeLlama,
    PromptError,
    RequestError,
    Tokenizer,
    TokenizerError,
    prompts,
)
from codellama.inference import codellama
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.variants import VARIANTS

BOS = 1
HI = [{"role": "user", "content": "Hi"}]
ASK = {
    "complete": lambda llm, **options: llm.complete(["Hi"], **options)[0],
    "infill": lambda llm, **options: llm.infill([("Hi", "there")], **options)[0],
    "chat": lambda llm, **options: llm.chat([HI], **options)[0],
}
STREAM = {
    "complete": lambda llm, **options: llm.stream("Hi", **options),
    "infill": lambda llm, **options: llm.stream_infill("Hi", "there", **options),
    "chat": lambda llm, **options: llm.stream_chat(HI, **options),
}


def byte_ids(text):
    return [3 + byte for byte in text.encode()]


A, B = byte_ids("ab")


def last_id(tokenizer, mode):
    """The last token of the prompt that `ASK` and `STREAM` send."""
    if mode == "infill":
        return tokenizer.middle_id
    if mode == "chat":
        return tokenizer.encode("\n\n " if tokenizer.step_id else "[INST] Hi [/INST]")[-1]
    return tokenizer.encode("Hi")[-1]


def scripted(tokenizer, script):
    """Says the tokens of `script` in turn: the blocks add nothing to a token's embedding, and the
    projection answers each embedding with the token that follows it."""
    model = random_model(n_layers=1, vocab_size=tokenizer.vocab_size)
    block = model.layers[0]
    with torch.no_grad():
        for part in (block.attention.wo, block.feed_forward.w2, model.output):
            part.weight.zero_()
        for before, after in pairwise(script):
            model.output.weight[after] += model.tok_embeddings.weight[before]
    return CodeLlama(model, tokenizer)


@pytest.fixture(scope="module")
def stories():
    return CodeLlama.load(shared("checkpoints/stories260K"), device="cpu")


@pytest.fixture(scope="module")
def tokenizer_70b():
    return Tokenizer(shared("tokenizers/codellama-70b-instruct-like.model"))


STARTS = ["Once upon a time", "Tom", "", " The", "One day,  a big ", "She said\n"]


@pytest.mark.parametrize("prompt", STARTS)
def test_prompt_and_text_together_are_what_the_model_read_and_wrote(stories, prompt):
    path = shared("checkpoints/stories260K/tokenizer.model")
    oracle = SentencePieceProcessor(model_file=str(path))
    [completion] = stories.complete([prompt], max_new_tokens=20)
    assert prompt + completion.text == oracle.decode(oracle.encode(prompt) + completion.tokens)
    [echoed] = stories.complete([prompt], max_new_tokens=20, echo=True)
    assert echoed.text == prompt + completion.text
    assert echoed.tokens == [BOS, *oracle.encode(prompt), *completion.tokens]


@pytest.mark.parametrize(
    ("mode", "text"), [("complete", " yes"), ("infill", " yes"), ("chat", "yes")]
)
def test_a_leading_space_is_kept_where_the_text_goes_on_from_other_text(tokenizer, mode, text):
    ids = tokenizer.encode("yes")
    llm = scripted(tokenizer, [last_id(tokenizer, mode), *ids])
    assert ASK[mode](llm, max_new_tokens=len(ids)).text == text


@pytest.mark.parametrize(("prompt", "text"), [([BOS], "yes"), ([BOS, A], " yes"), ([A], " yes")])
def test_token_prompts_with_text_are_gone_on_from_as_text_is(tokenizer, prompt, text):
    ids = tokenizer.encode("yes")
    llm = scripted(tokenizer, [prompt[-1], *ids])
    assert llm.generate([prompt], max_new_tokens=len(ids))[0].text == text


def test_an_empty_prompt_is_the_begin_of_a_text(tokenizer):
    ids = tokenizer.encode("yes")
    llm = scripted(tokenizer, [BOS, *ids])
    [completion] = llm.complete([""], max_new_tokens=len(ids), echo=True)
    assert (completion.text, completion.tokens) == ("yes", [BOS, *ids])


@pytest.mark.parametrize(
    ("mode", "end"),
    [("complete", "eos_id"), ("infill", "eot_id"), ("infill", "eos_id"), ("chat", "eos_id")],
)
def test_each_mode_ends_at_its_own_stop_ids(tokenizer, mode, end):
    llm = scripted(tokenizer, [last_id(tokenizer, mode), A, getattr(tokenizer, end), B])
    completion = ASK[mode](llm, max_new_tokens=5)
    assert (completion.text, completion.tokens) == ("a", [A])
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("end", ["step_id", "eos_id"])
def test_the_70b_chat_ends_at_step_and_at_eos(tokenizer_70b, end):
    script = [last_id(tokenizer_70b, "chat"), A, getattr(tokenizer_70b, end), B]
    completion = ASK["chat"](scripted(tokenizer_70b, script), max_new_tokens=5)
    assert (completion.text, completion.tokens) == ("a", [A])
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize(
    ("mode", "control"),
    [
        ("complete", "eot_id"),
        ("complete", "middle_id"),
        ("infill", "suffix_id"),
        ("chat", "eot_id"),
    ],
)
def test_control_tokens_that_end_nothing_do_not_appear_in_the_text(tokenizer, mode, control):
    control = getattr(tokenizer, control)
    llm = scripted(tokenizer, [last_id(tokenizer, mode), A, control, B])
    completion = ASK[mode](llm, max_new_tokens=3)
    assert (completion.text, completion.tokens) == ("ab", [A, control, B])
    assert completion.finish_reason == "length"


def test_generate_ends_at_the_ids_it_is_given_and_else_at_eos(tokenizer):
    llm = scripted(tokenizer, [BOS, A, 2, B])
    for stop_ids, tokens in ((None, [A]), ([], [A, 2, B]), ([B], [A, 2])):
        assert llm.generate([[BOS]], stop_ids, max_new_tokens=3)[0].tokens == tokens


@pytest.mark.parametrize("mode", ASK)
@pytest.mark.parametrize(
    ("stop", "pieces"),
    [
        ((), ["a", "é", "生", "☕", "b"]),
        (("☕",), ["a", "é", "生"]),
        (("生b", "é☕"), ["a", "é", "生☕", "b"]),
        (("x", "生☕b", "☕b生"), ["a", "é"]),
    ],
)
def test_a_stream_gives_each_character_as_soon_as_it_is_certain(tokenizer, mode, stop, pieces):
    said = byte_ids("aé生☕b")
    llm = scripted(tokenizer, [last_id(tokenizer, mode), *said])
    stream = STREAM[mode](llm, max_new_tokens=len(said), stop=stop)
    assert list(stream) == pieces
    assert stream.completion.text == "".join(pieces)


@pytest.mark.parametrize("mode", ASK)
@pytest.mark.parametrize("seed", range(3))
def test_a_stream_adds_up_to_what_comes_at_once(llm, mode, seed):
    options = {"max_new_tokens": 24, "temperature": 1.0, "seed": seed, "logprobs": True}
    whole = ASK[mode](llm, **options)
    pieces = list(STREAM[mode](CodeLlama(llm.model, llm.tokenizer), **options))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1
    stop = whole.text[len(whole.text) // 2 :][:2]
    cut = ASK[mode](llm, stop=[stop], **options)
    stream = STREAM[mode](CodeLlama(llm.model, llm.tokenizer), stop=[stop], **options)
    assert "".join(stream) == cut.text == whole.text.partition(stop)[0]
    assert stream.completion == cut
    assert cut.finish_reason == "stop"


def test_a_stream_has_no_completion_before_its_end(llm):
    stream = llm.stream("Hi", max_new_tokens=8)
    next(stream)
    with pytest.raises(RuntimeError, match="not ended"):
        stream.completion  # noqa: B018
    list(stream)
    assert len(stream.completion.tokens) == 8


@pytest.mark.parametrize("grad", [True, False])
def test_a_stream_leaves_the_callers_grad_mode_alone(llm, grad):
    with torch.set_grad_enabled(grad):
        for _ in llm.stream("Hi", max_new_tokens=4, logprobs=True, echo=True):
            assert torch.is_grad_enabled() == grad
            assert not torch.is_inference_mode_enabled()


def test_texts_in_a_batch_are_those_of_each_alone(stories):
    options = {"max_new_tokens": 40, "stop": [".", "girl"]}
    alone = [stories.complete([prompt], **options)[0] for prompt in STARTS]
    assert len({len(completion.tokens) for completion in alone}) > 2
    assert stories.complete(STARTS, **options) == alone


def test_suffix_first_puts_the_prefix_last(tokenizer):
    llm = scripted(tokenizer, [tokenizer.encode("Hi")[-1], A])
    gap, options = ("Hi", "there"), {"suffix_first": True, "max_new_tokens": 1}
    assert llm.infill([gap], **options)[0].text == "a"
    assert list(llm.stream_infill(*gap, **options)) == ["a"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.complete("Hi"),
        lambda llm: llm.infill("Hi"),
        lambda llm: llm.infill(("Hi", "there")),
        lambda llm: llm.generate([BOS, A]),
    ],
    ids=["text", "pair of text", "pair", "ids"],
)
def test_one_prompt_instead_of_a_list_of_prompts_is_refused(llm, ask):
    with pytest.raises(RequestError, match="list"):
        ask(llm)


def test_a_prompt_may_fill_the_context_and_no_more(tokenizer):
    text = "def main():"
    count = len(tokenizer.encode(text, bos=True))
    [full] = CodeLlama(random_model(max_seq_len=count), tokenizer).complete([text])
    assert (full.text, full.tokens, full.finish_reason) == ("", [], "length")
    with pytest.raises(RequestError, match=f"{count} tokens, .* {count - 1};"):
        CodeLlama(random_model(max_seq_len=count - 1), tokenizer).complete(["", text])


def test_a_prompt_without_tokens_is_refused(llm):
    with pytest.raises(RequestError, match="no tokens"):
        llm.generate([[BOS], []])


@pytest.mark.parametrize("id", [-1, 512])
def test_a_token_outside_the_vocabulary_is_refused(llm, id):
    with pytest.raises(RequestError, match=f"{id} .* 512"):
        llm.generate([[BOS, id]])


@pytest.mark.parametrize("mode", STREAM)
def test_a_stream_refuses_bad_options_before_its_first_piece(llm, mode):
    with pytest.raises(RequestError, match="temperature"):
        STREAM[mode](llm, temperature=-1)


@pytest.mark.parametrize("asked", [ASK, STREAM], ids=["at once", "stream"])
def test_infilling_without_the_tokens_is_refused_before_the_model_runs(asked):
    tokenizer = Tokenizer(shared("checkpoints/stories260K/tokenizer.model"))
    llm = CodeLlama(random_model(), tokenizer)
    passes = []
    llm.model.tok_embeddings.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(PromptError, match="CodeLlama-7b"):
        asked["infill"](llm)
    assert not passes


@pytest.mark.parametrize("asked", [ASK, STREAM], ids=["at once", "stream"])
@pytest.mark.parametrize("name", ["CodeLlama-70b-Python", "CodeLlama-70b-Instruct"])
def test_infilling_that_may_be_untrained_warns_whoever_asks(llm, monkeypatch, asked, name):
    monkeypatch.setattr(codellama, "matching", lambda _: [VARIANTS[name]])
    with pytest.warns(UserWarning, match="70B"):
        asked["infill"](llm, max_new_tokens=1)


@pytest.mark.parametrize("name", ["CodeLlama-7b", "CodeLlama-13b-Instruct", "CodeLlama-70b"])
def test_infilling_with_any_other_model_does_not_warn(llm, monkeypatch, name):
    monkeypatch.setattr(codellama, "matching", lambda _: [VARIANTS[name]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ASK["infill"](llm, max_new_tokens=1)


@pytest.fixture
def directory(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "checkpoint")


def test_a_checkpoint_without_its_tokenizer_is_refused(directory):
    (directory / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is missing"):
        CodeLlama.load(directory, device="cpu")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html><body>403</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\x01\x02\x03", "not a SentencePiece model"),
    ],
)
def test_what_is_no_tokenizer_is_named_for_what_it_is(directory, content, found):
    (directory / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.model is .*{found}"):
        CodeLlama.load(directory, device="cpu")


def test_a_tokenizer_of_another_vocabulary_is_refused_with_both_sizes(directory):
    (directory / "tokenizer.model").write_bytes(tokenizer_model(600))
    with pytest.raises(CheckpointError, match=r"600 ids, but the model has 512"):
        CodeLlama.load(directory, device="cpu")


def test_healing_lets_a_word_go_on_that_the_prompt_cuts(llm):
    cut = "def fib(n):\n    retu"
    last = llm.tokenizer.encode(cut)[-1]
    [healed] = llm.complete([cut], max_new_tokens=6, heal=True)
    spelled = b"".join(llm.tokenizer.bytes_of[token] for token in healed.tokens)
    assert spelled.startswith(llm.tokenizer.bytes_of[last])
    ids = llm.tokenizer.encode(cut, bos=True)[:-1] + healed.tokens
    assert llm.tokenizer.decode(ids) == cut + healed.text


def test_healing_chooses_among_the_tokens_that_spell_the_one_taken_back(llm):
    cut = "import o"
    ids = llm.tokenizer.encode(cut, bos=True)
    [healed] = llm.complete([cut], max_new_tokens=1, heal=True)
    removed = llm.tokenizer.bytes_of[ids[-1]]
    pieces = enumerate(llm.tokenizer.bytes_of)
    allowed = [
        id
        for id, piece in pieces
        if piece and (piece.startswith(removed) or removed.startswith(piece)) and id != 0
    ]
    with torch.no_grad():
        scores = llm.model(torch.tensor([ids[:-1]]))[0, -1]
    assert healed.tokens == [allowed[int(scores[allowed].argmax())]]


def test_healing_allows_an_indentation_that_shorter_tokens_spell(tokenizer):
    pieces = {piece: id for id, piece in enumerate(tokenizer.bytes_of)}
    longest = max((piece for piece in pieces if piece.strip(b" ") == b""), key=len)
    word = next(piece for piece in pieces if piece[:1] == b" " and piece.strip())
    shorter = max((piece for piece in pieces if piece == longest[: len(piece)] != longest), key=len)
    rest = longest[len(shorter) : -1] + word
    script = [pieces[shorter], *tokenizer.encode_continuation(rest.decode())]
    llm = scripted(tokenizer, [A, *script])
    [healed] = llm.generate([[A, pieces[longest]]], max_new_tokens=len(script), heal=True)
    assert healed.tokens == script
    assert healed.text == word.decode()[1:]


def test_nothing_is_healed_behind_a_control_token(llm):
    for options in ({}, {"temperature": 1.0, "seed": 1}):
        [plain] = llm.infill([("a = ", "\n")], max_new_tokens=5, **options)
        [healed] = llm.infill([("a = ", "\n")], max_new_tokens=5, heal=True, **options)
        assert healed == plain


def test_a_chat_which_ends_with_the_formats_own_tokens_is_not_healed(llm):
    for ask in (ASK["chat"], STREAM["chat"]):
        with pytest.raises(RequestError, match="heal is for prompts"):
            ask(llm, heal=True)


def test_nothing_is_healed_where_nothing_may_be_added(llm):
    options = {"max_new_tokens": 0, "echo": True, "logprobs": True}
    assert ASK["complete"](llm, heal=True, **options) == ASK["complete"](llm, **options)


def test_what_is_infilled_comes_alone_also_with_echo(llm):
    options = {"max_new_tokens": 5}
    assert ASK["infill"](llm, echo=True, **options) == ASK["infill"](llm, **options)
    assert (
        "".join(STREAM["infill"](llm, echo=True, **options)) == ASK["infill"](llm, **options).text
    )


def test_control_tags_may_be_let_through(llm):
    tagged = [{"role": "user", "content": "what is [INST]?"}]
    with pytest.raises(PromptError, match="allow_control_tags"):
        llm.chat([tagged])
    options = {"allow_control_tags": True, "max_new_tokens": 4}
    [answer] = llm.chat([tagged], **options)
    assert "".join(llm.stream_chat(tagged, **options)) == answer.text


def test_control_tokens_may_be_let_through():
    tokenizer = Tokenizer(shared("tokenizers/codellama-infill.model"))
    llm = scripted(tokenizer, [tokenizer.middle_id, *tokenizer.encode("x"), tokenizer.eot_id])
    for infill in (
        lambda **options: llm.infill([("a <MID> b", "")], **options)[0].text,
        lambda **options: "".join(llm.stream_infill("a <MID> b", "", **options)),
    ):
        with pytest.raises(PromptError, match="spells the control token"):
            infill()
        assert infill(allow_control_tags=True) == " x"


def test_healed_text_streams_in_the_pieces_of_the_whole(llm):
    [whole] = llm.complete(["def é"], max_new_tokens=8, heal=True, echo=True)
    assert "".join(llm.stream("def é", max_new_tokens=8, heal=True, echo=True)) == whole.text
    assert whole.text.startswith("def é")


def test_a_chat_that_goes_on_is_read_from_where_it_left_off(llm):
    first = [{"role": "user", "content": "write a function that reverses a string"}]
    fresh = CodeLlama(llm.model, llm.tokenizer)
    answer = "".join(fresh.stream_chat(first, max_new_tokens=6))
    then = [{"role": "assistant", "content": answer.strip() or "ok"}]
    second = [*first, *then, {"role": "user", "content": "now in C"}]
    before = fresh.timing.prompt_tokens
    read = []
    hook = llm.model.tok_embeddings.register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0].numel())
    )
    again = "".join(fresh.stream_chat(second, max_new_tokens=6))
    hook.remove()
    ids = prompts.chat(llm.tokenizer, second)
    assert fresh.timing.prompt_tokens - before == read[0]
    assert read[0] < len(ids) - len(prompts.chat(llm.tokenizer, first)) + 2
    [expected] = llm.chat([second], max_new_tokens=6)
    assert again == expected.text


def test_an_answer_that_was_begun_is_gone_on_with(tokenizer):
    ids = tokenizer.encode_continuation(" yes")
    chat = [*HI, {"role": "assistant", "content": "Oh"}]
    llm = scripted(tokenizer, [tokenizer.encode("[INST] Hi [/INST] Oh")[-1], *ids])
    assert llm.chat([chat], max_new_tokens=len(ids))[0].text == " yes"


def test_a_chat_that_was_left_in_the_middle_does_no_harm(llm):
    chat = [{"role": "user", "content": "a b c"}]
    fresh = CodeLlama(llm.model, llm.tokenizer)
    stream = fresh.stream_chat(chat, max_new_tokens=20)
    next(stream)
    other = [{"role": "user", "content": "a b d"}]
    [expected] = llm.chat([other], max_new_tokens=8)
    assert "".join(fresh.stream_chat(other, max_new_tokens=8)) == expected.text
    [expected] = llm.chat([chat], max_new_tokens=8)
    assert "".join(fresh.stream_chat(chat, max_new_tokens=8)) == expected.text


def test_a_model_is_freed_with_the_last_reference_to_it(tokenizer):
    llm = CodeLlama(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    llm.complete(["a"], max_new_tokens=2)
    model = weakref.ref(llm.model)
    gc.disable()
    try:
        del llm
        assert model() is None
    finally:
        gc.enable()


def test_each_text_draws_a_seed_of_its_own(llm, monkeypatch):
    seeds = iter(range(9))
    monkeypatch.setattr(llm, "draw_seed", lambda: next(seeds))
    options = {"temperature": 1.0, "max_new_tokens": 12}
    found = [one.text for one in llm.complete(["a", "a"], num_samples=2, **options)]
    monkeypatch.undo()
    [expected, *_] = zip(*(llm.complete(["a"], seed=n, **options) for n in range(4)), strict=True)
    assert found == [one.text for one in expected]
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.complete([None]),
        lambda llm: llm.stream(3),
        lambda llm: llm.infill([("a", None)]),
        lambda llm: llm.infill([("a", "b", "c")]),
    ],
)
def test_what_is_no_text_is_refused(llm, ask):
    with pytest.raises((RequestError, TokenizerError), match=r"expected a (text|prefix and)"):
        ask(llm)


def test_a_wrong_tokenizer_is_noticed_before_the_weights_are_read(
    checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "model").mkdir()
    for path in checkpoint.iterdir():
        shutil.copyfile(path, tmp_path / "model" / path.name)
    (tmp_path / "model" / "tokenizer.model").write_bytes(tokenizer_model(600))
    monkeypatch.setattr(Checkpoint, "read", lambda *_, **__: pytest.fail("was read"))
    for fast in (False, True):
        with pytest.raises(CheckpointError, match="600 ids, but the model has 512"):
            CodeLlama.load(tmp_path / "model", "cpu", fast=fast)


def test_each_gives_a_text_before_the_next_is_read(llm):
    before = llm.timing.prompt_tokens
    next(llm.each(["a", "def f(x):"], batch_size=1, max_new_tokens=2))
    assert llm.timing.prompt_tokens - before == len(llm.tokenizer.encode("a", bos=True))


def test_a_chat_that_was_read_still_has_the_logprobs_of_its_prompt(llm):
    fresh = CodeLlama(llm.model, llm.tokenizer)
    options = {"max_new_tokens": 3, "echo": True, "logprobs": True}
    found = []
    for _ in range(2):
        stream = fresh.stream_chat(HI, **options)
        assert list(stream)
        found.append(stream.completion.logprobs)
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def test_rows_of_different_lengths_run_under_autocast(llm):
    with torch.autocast("cpu", torch.bfloat16):
        assert len(llm.complete(["a", "def f(x):\n"], max_new_tokens=4)) == 2


def test_stop_ids_may_be_a_tensor(llm):
    [whole] = llm.generate([[1, 5]], max_new_tokens=4)
    stop = torch.tensor(whole.tokens[1:2])
    [ended] = llm.generate([[1, 5]], stop, max_new_tokens=4)
    assert (ended.tokens, ended.finish_reason) == (whole.tokens[:1], "stop")
