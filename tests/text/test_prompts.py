"""The prompt formats, spelled out with a bare SentencePiece processor."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from shared_data import shared

from codellama import PromptError, Tokenizer, prompts

BOS, EOS, STEP = 1, 2, 32015
PRE, SUF, MID, EOT = 32007, 32008, 32009, 32010
TAGS = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>"]
texts = st.text(st.sampled_from(" \nab.é生☺"), max_size=12)


@pytest.fixture(scope="module")
def encode(tokenizer_path):
    return SentencePieceProcessor(model_file=str(tokenizer_path)).encode


@pytest.fixture(scope="module")
def code_llama():
    return Tokenizer(shared("tokenizers/codellama-infill.model"))


@pytest.fixture(scope="module")
def code_llama_70b():
    return Tokenizer(shared("tokenizers/codellama-70b-instruct-like.model"))


@pytest.fixture(scope="module")
def encode_70b():
    path = shared("tokenizers/codellama-70b-instruct-like.model")
    return SentencePieceProcessor(model_file=str(path)).encode


def messages_of(*contents, system=None):
    """Messages of user and assistant in turn."""
    opening = [] if system is None else [{"role": "system", "content": system}]
    roles = ["user", "assistant"] * len(contents)
    return opening + [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a <FILL_ME>\nb", ("a ", "\nb")), ("a<FILL_ME>", ("a", "")), ("<FILL_ME>", ("", ""))],
)
def test_a_text_is_split_at_its_gap(text, parts):
    assert prompts.split_fill(text) == parts


@pytest.mark.parametrize(("text", "count"), [("a", 0), ("", 0), ("<FILL_ME>" * 2, 2)])
def test_a_text_without_exactly_one_gap_is_refused(text, count):
    with pytest.raises(PromptError, match=f"{count} <FILL_ME>"):
        prompts.split_fill(text)


PREFIX, SUFFIX = 'def remove_non_ascii(s: str) -> str:\n    """ ', "\n    return result\n"
PREFIX_IDS = [822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599]
PREFIX_IDS += [851, 29901, 13, 1678, 9995, 29871]
SUFFIX_IDS = [13, 1678, 736, 1121, 13]


def test_published_ids_of_infilling(code_llama):
    prefix_first = prompts.infilling(code_llama, PREFIX, SUFFIX)
    suffix_first = prompts.infilling(code_llama, PREFIX, SUFFIX, suffix_first=True)
    assert prefix_first == [BOS, PRE, *PREFIX_IDS, SUF, *SUFFIX_IDS, MID]
    assert suffix_first == [BOS, PRE, SUF, *SUFFIX_IDS, MID, *PREFIX_IDS]


def test_an_empty_suffix_still_asks_for_infilling(code_llama):
    assert prompts.infilling(code_llama, PREFIX, "") == [BOS, PRE, *PREFIX_IDS, SUF, MID]
    suffix_first = prompts.infilling(code_llama, PREFIX, "", suffix_first=True)
    assert suffix_first == [BOS, PRE, SUF, MID, *PREFIX_IDS]


@settings(deadline=None, derandomize=True)
@given(prefix=texts, suffix=texts)
def test_an_infilling_prompt_holds_both_texts_unchanged(tokenizer, prefix, suffix):
    pre, suf, mid = tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id
    ids = prompts.infilling(tokenizer, prefix, suffix)
    middle = ids.index(suf)
    assert (ids[:2], ids[-1]) == ([BOS, pre], mid)
    assert tokenizer.decode(ids[2:middle]) == prefix
    assert tokenizer.decode(ids[middle + 1 : -1], continuation=True) == suffix
    suffix_first = prompts.infilling(tokenizer, prefix, suffix, suffix_first=True)
    assert suffix_first == [BOS, pre, suf, *ids[middle + 1 :], *ids[2:middle]]


@pytest.mark.parametrize(
    "path", ["tokenizers/llama2.model", "checkpoints/stories260K/tokenizer.model"]
)
def test_a_vocabulary_without_infilling_tokens_is_told_which_variants_can(path):
    with pytest.raises(PromptError, match="CodeLlama-7b"):
        prompts.infilling(Tokenizer(shared(path)), "a", "b")


@pytest.mark.parametrize(
    ("spelled", "id"), [(" <PRE>", PRE), (" <SUF>", SUF), ("a <MID>b", MID), (" <EOT>", EOT)]
)
@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_text_that_spells_an_infilling_token_is_refused_unless_allowed(
    code_llama, spelled, id, place
):
    texts = {"prefix": "a", "suffix": "b", place: spelled}
    with pytest.raises(PromptError, match=f"▁{spelled.strip('ab ')}.*allow_control_tags"):
        prompts.infilling(code_llama, **texts)
    plain = prompts.infilling(code_llama, "a", "b").count(id)
    ids = prompts.infilling(code_llama, **texts, allow_control_tags=True)
    assert ids.count(id) == plain + 1


def test_text_that_names_an_infilling_token_without_its_space_is_text(code_llama):
    ids = prompts.infilling(code_llama, "a<MID>", "<MID>b")
    assert ids.count(MID) == 1


def test_inst_chat_wraps_the_users_message(tokenizer, encode):
    assert prompts.chat(tokenizer, messages_of("Hi")) == [BOS, *encode("[INST] Hi [/INST]")]


def test_inst_chat_folds_the_system_message_into_the_first_exchange(tokenizer, encode):
    messages = messages_of(
        " Hi\n", "\tHello. ", "Bye", "  See you", "\nWait ", system="\nBe brief. "
    )
    assert prompts.chat(tokenizer, messages) == [
        BOS,
        *encode("[INST] <<SYS>>\n\nBe brief. \n<</SYS>>\n\n Hi [/INST] Hello. "),
        EOS,
        BOS,
        *encode("[INST] Bye [/INST] See you "),
        EOS,
        BOS,
        *encode("[INST] Wait [/INST]"),
    ]


def test_published_ids_of_a_chat_with_a_system_message(code_llama):
    """Meta strips the two together, so what stands between them stays."""
    messages = messages_of("  Reverse a string  ", system="Answer in JavaScript.")
    ids = [1, 518, 25580, 29962, 3532, 14816, 29903, 6778, 13, 22550, 297, 8286, 29889, 13, 29966]
    ids += [829, 14816, 29903, 6778, 13, 13, 29871, 830, 3901, 263, 1347, 518, 29914, 25580, 29962]
    assert prompts.chat(code_llama, messages) == ids


def test_source_chat_adds_an_empty_system_message(code_llama_70b, encode_70b):
    assert prompts.chat(code_llama_70b, messages_of(" Hi\n")) == [
        BOS,
        *encode_70b(" Source: system"),
        STEP,
        *encode_70b(" Source: user"),
        *encode_70b("\n\n Hi"),
        STEP,
        *encode_70b(" Source: assistant\nDestination: user"),
        *encode_70b("\n\n "),
    ]


def test_source_chat_takes_turns_with_destinations_and_empty_contents(code_llama_70b, encode_70b):
    messages = messages_of("Hi", " \n", "Bye ", system=" Be brief.")
    messages[1]["destination"] = "assistant"
    messages[2]["destination"] = "user"
    assert prompts.chat(code_llama_70b, messages) == [
        BOS,
        *encode_70b(" Source: system"),
        *encode_70b("\n\n Be brief."),
        STEP,
        *encode_70b(" Source: user\nDestination: assistant"),
        *encode_70b("\n\n Hi"),
        STEP,
        *encode_70b(" Source: assistant\nDestination: user"),
        STEP,
        *encode_70b(" Source: user"),
        *encode_70b("\n\n Bye"),
        STEP,
        *encode_70b(" Source: assistant\nDestination: user"),
        *encode_70b("\n\n "),
    ]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", range(4))
def test_a_message_that_holds_a_control_tag_is_refused(tokenizer, tag, place):
    messages = messages_of("a", "b", "c", system="d")
    messages[place]["content"] += f"x{tag}y"
    with pytest.raises(PromptError, match="allow_control_tags") as refusal:
        prompts.chat(tokenizer, messages)
    assert tag in str(refusal.value)
    assert messages[place]["role"] in str(refusal.value)


@pytest.mark.parametrize("tag", TAGS)
def test_a_control_tag_in_a_message_can_be_allowed(tokenizer, encode, tag):
    ids = prompts.chat(tokenizer, messages_of(f"What is {tag}?"), allow_control_tags=True)
    assert ids == [BOS, *encode(f"[INST] What is {tag}? [/INST]")]


# The format strips the last two and puts a space before what is left.
@pytest.mark.parametrize("content", ["a <EOT>", "<EOT> a", "\n<EOT>", "\t<EOT> a"])
def test_a_message_that_spells_a_control_token_in_the_format_is_refused(code_llama, content):
    with pytest.raises(PromptError, match="▁<EOT>"):
        prompts.chat(code_llama, messages_of(content))
    assert EOT in prompts.chat(code_llama, messages_of(content), allow_control_tags=True)


def test_a_destination_that_is_no_text_is_refused(code_llama_70b):
    messages = [{"role": "user", "content": "Hi", "destination": 5}]
    with pytest.raises(PromptError, match="destination 5"):
        prompts.chat(code_llama_70b, messages)


@pytest.mark.parametrize("destination", ["user<step>", "user <EOT>"])
def test_a_destination_that_holds_a_control_tag_is_refused(code_llama_70b, destination):
    messages = [{"role": "user", "content": "Hi", "destination": destination}]
    with pytest.raises(PromptError, match="allow_control_tags"):
        prompts.chat(code_llama_70b, messages)


@pytest.mark.parametrize(
    "roles",
    [
        "assistant",
        "user user",
        "assistant user",
        "user assistant assistant",
        "user system",
        "user assistant system user",
        "system system user",
        "system assistant user",
        "function",
    ],
)
def test_roles_out_of_order_are_refused(tokenizer, roles):
    with pytest.raises(PromptError, match=f"the roles are {', '.join(roles.split())}"):
        prompts.chat(tokenizer, [{"role": role, "content": "a"} for role in roles.split()])


def test_a_chat_without_a_users_message_is_refused(tokenizer):
    with pytest.raises(PromptError, match="the only message is the system's"):
        prompts.chat(tokenizer, messages_of(system="a"))


def test_an_answer_at_the_end_is_left_open(tokenizer):
    whole = prompts.chat(tokenizer, messages_of("a", "b"))
    assert whole == [tokenizer.bos_id, *tokenizer.encode("[INST] a [/INST] b")]
    spaced = prompts.chat(tokenizer, messages_of("a", " b\n "))
    assert spaced == [tokenizer.bos_id, *tokenizer.encode("[INST] a [/INST] b\n ")]


def test_an_open_answer_of_the_70b_has_no_step():
    tokenizer = Tokenizer(shared("tokenizers/codellama-70b-instruct-like.model"))
    asked = prompts.chat(tokenizer, messages_of("a"))[: -len(tokenizer.encode("\n\n "))]
    answered = messages_of("a", "b")
    answered[1]["destination"] = "user"
    assert prompts.chat(tokenizer, answered) == asked + tokenizer.encode("\n\n b")


def test_the_oldest_exchanges_are_left_out_until_the_rest_fits(tokenizer):
    chat = messages_of(*"abcdefg", system="s")
    size = len(prompts.chat(tokenizer, chat))
    assert prompts.drop_oldest(tokenizer, chat, size) == chat
    assert prompts.drop_oldest(tokenizer, chat, size - 1) == [chat[0], *chat[3:]]
    assert prompts.drop_oldest(tokenizer, chat, 1) == [chat[0], chat[-1]]
    assert prompts.drop_oldest(tokenizer, chat[1:], 1) == [chat[-1]]


def test_an_empty_chat_is_refused(tokenizer):
    with pytest.raises(PromptError, match="empty"):
        prompts.chat(tokenizer, [])


@pytest.mark.parametrize(
    "message",
    ["Hi", None, {"role": "user"}, {"content": "Hi"}, {"role": "user", "content": None}],
)
def test_a_malformed_message_is_refused_by_its_number(tokenizer, message):
    with pytest.raises(PromptError, match=r"message 2 is .* expected a role and a content"):
        prompts.chat(tokenizer, [*messages_of("a", "b"), message])
