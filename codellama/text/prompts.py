"""The formats in which Code Llama was taught to infill and to chat.

A prompt is made of control tokens and texts. Each text is encoded on its own, as in Meta's code,
since one joined string would give other ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from codellama.errors import PromptError
from codellama.text.tokenizer import Tokenizer

FILL = "<FILL_ME>"
CONTROL_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>")

Message = Mapping[str, str]


def split_fill(text: str) -> tuple[str, str]:
    """Prefix and suffix of a text with one `<FILL_ME>` in it.

    Raises:
        PromptError: there is none, or more than one.
    """
    parts = text.split(FILL)
    if len(parts) != 2:
        raise PromptError(f"the text has {len(parts) - 1} {FILL} marks; infilling fills one")
    return parts[0], parts[1]


def infilling(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    suffix_first: bool = False,
    allow_control_tags: bool = False,
) -> list[int]:
    """Token ids that ask for the text between two (arXiv 2308.12950, section 2.3).

    Prefix-suffix-middle: `<PRE> prefix <SUF>suffix <MID>`. Suffix-prefix-middle puts the prefix
    last, right before the text to come: `<PRE> <SUF>suffix <MID> prefix`.

    Args:
        suffix_first: take suffix-prefix-middle.
        allow_control_tags: let text that spells a control token, such as ` <MID>`, become one.

    Raises:
        PromptError: the vocabulary has no infilling tokens, or the text spells a control token.
    """
    pre, suf, mid = tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id
    if pre is None or suf is None or mid is None:
        raise PromptError(
            "this model has no infilling tokens; CodeLlama-7b and CodeLlama-13b, their Instruct "
            "variants, and CodeLlama-70b can infill"
        )
    before = tokenizer.encode(prefix)
    after = tokenizer.encode_continuation(suffix)
    if not allow_control_tags:
        _refuse_control_ids(tokenizer, before + after)
    if suffix_first:
        return [tokenizer.bos_id, pre, suf, *after, mid, *before]
    return [tokenizer.bos_id, pre, *before, suf, *after, mid]


def chat(
    tokenizer: Tokenizer, messages: Sequence[Message], allow_control_tags: bool = False
) -> list[int]:
    """Token ids that ask for the assistant's next message, or for the rest of its last one.

    A vocabulary with `<step>` takes Code Llama 70B Instruct's format, any other Llama 2's `[INST]`.

    Args:
        messages: `{"role": ..., "content": ...}` with the roles system (optional, first), then user
            and assistant in turn. If the assistant's is the last, its turn is left open, to be
            continued. For 70B, messages may also have a "destination".
        allow_control_tags: let contents have the format's own tags in them.

    Raises:
        PromptError: a message is not of that form, roles are out of order, or a content has a tag
            that would let it pose as another role.
    """
    _check_messages(messages)
    if tokenizer.step_id is None:
        parts = _inst_chat(tokenizer, messages)
    else:
        parts = _source_chat(tokenizer, messages, tokenizer.step_id)
    encoded = [[part] if isinstance(part, int) else tokenizer.encode(part) for part in parts]
    if not allow_control_tags:
        for message in messages:
            _refuse_control_tags(message)
        for part, ids in zip(parts, encoded, strict=True):
            if isinstance(part, str):
                _refuse_control_ids(tokenizer, ids)
    return [id for ids in encoded for id in ids]


def drop_oldest(
    tokenizer: Tokenizer, messages: Sequence[Message], max_tokens: int
) -> list[Message]:
    """The messages of a chat without its oldest exchanges, so that `chat` gives at most so many
    token ids, if the last exchange alone does. A system message stays."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])
    while len(turns) > 2 and len(chat(tokenizer, [*system, *turns], True)) > max_tokens:
        del turns[:2]
    return [*system, *turns]


def _inst_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[str | int]:
    """`[INST] user [/INST] assistant `, each exchange a sequence of its own; the system message
    goes into the first user message (arXiv 2307.09288, appendix A.3.3)."""
    contents = [message["content"] for message in messages]
    if messages[0]["role"] == "system":
        system, user, *rest = contents
        contents = [f"<<SYS>>\n{system}\n<</SYS>>\n\n{user}", *rest]
    contents = [*(content.strip() for content in contents[:-1]), _last(messages, contents[-1])]
    parts: list[str | int] = []
    for user, assistant in zip_longest(contents[::2], contents[1::2]):
        answer = "" if assistant is None else f" {assistant}"
        parts += [tokenizer.bos_id, f"[INST] {user} [/INST]{answer} ", tokenizer.eos_id]
    return [*parts[:-2], str(parts[-2])[:-1]]  # the last turn is open


def _source_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], step_id: int
) -> list[str | int]:
    """`Source: role`, a blank line, the content, `<step>`: Code Llama 70B Instruct's format."""
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": ""}, *messages]
    parts: list[str | int] = [tokenizer.bos_id]
    *before, last = messages
    for message in before:
        parts += [*_source_turn(message, message["content"].strip()), step_id]
    parts += _source_turn(last, _last(messages, last["content"]))
    if last["role"] == "assistant":
        return parts  # the last turn is open
    return [*parts, step_id, _source_header("assistant", "user"), "\n\n "]


def _source_turn(message: Message, content: str) -> list[str]:
    header = _source_header(message["role"], message.get("destination"))
    return [header, f"\n\n {content}"] if content else [header]


def _last(messages: Sequence[Message], content: str) -> str:
    """The last content, stripped; of an answer that is to be continued, only at its beginning."""
    return content.lstrip() if messages[-1]["role"] == "assistant" else content.strip()


def _source_header(role: str, destination: str | None) -> str:
    return f" Source: {role}" + (f"\nDestination: {destination}" if destination else "")


def _check_messages(messages: Sequence[Message]) -> None:
    if not messages:
        raise PromptError("the conversation is empty; it needs at least a message of the user")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise PromptError(f"message {number} is {message!r}; expected a role and a content")
        if not isinstance(message.get("destination", ""), str):
            raise PromptError(f"message {number} has the destination {message['destination']!r}")
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    expected = [("user", "assistant")[turn % 2] for turn in range(len(turns))]
    if turns != expected:
        raise PromptError(
            f"the roles are {', '.join(roles)}; expected system (optional), then user and "
            "assistant in turn"
        )
    if not turns:
        raise PromptError("the only message is the system's; the model answers a user's")


def _refuse_control_tags(message: Message) -> None:
    for text in (message["content"], message.get("destination") or ""):
        if tag := next((tag for tag in CONTROL_TAGS if tag in text), None):
            raise PromptError(
                f"the {message['role']}'s message contains {tag}, which would let it pose as "
                "another role; remove it (from Python, allow_control_tags=True lets it pass)"
            )


def _refuse_control_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    if found := tokenizer.control_ids.intersection(ids):
        spelled = ", ".join(sorted(tokenizer.piece(id) for id in found))
        raise PromptError(
            f"the text spells the control token {spelled}, which would break out of the format; "
            "remove it (from Python, allow_control_tags=True lets it pass)"
        )
