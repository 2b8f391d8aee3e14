"""A vocabulary in the files that transformers writes and reads beside `tokenizer.model`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from codellama.errors import CheckpointError
from codellama.text.tokenizer import SPACE, TOKENIZER, Tokenizer
from codellama.weights.downloads import read_json

ADDED_TOKENS = "added_tokens.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
FILES = (ADDED_TOKENS, TOKENIZER_CONFIG, GENERATION_CONFIG, "special_tokens_map.json")
"""What a checkpoint of either format keeps of a fine-tune's files."""
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")

_INFILLING = (  # the implicit space stands in front already; an empty prefix has none
    {"pattern": {"Regex": r"\A(?=[\s\S]*<FILL_ME>)"}, "content": f"{SPACE * 2}<PRE>"},
    {"pattern": {"Regex": r"<FILL_ME>[\s\S]*\K\z"}, "content": f"{SPACE * 2}<MID>"},
    {"pattern": {"String": f"<PRE>{SPACE}<FILL_ME>"}, "content": "<PRE><FILL_ME>"},
    {"pattern": {"String": "<FILL_ME>"}, "content": f"{SPACE * 2}<SUF>"},
)
"""Turns `prefix<FILL_ME>suffix` into the prompt of `prompts.infilling`."""
_INST_CHAT = (
    "{% set system = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set content = message['content'] %}"
    "{% if loop.first %}{% set content = system + content %}{% endif %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_SOURCE_CHAT = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}{{ ' Source: system<step>' }}{% endif %}"
    "{% for message in messages %}{{ ' Source: ' + message['role'] }}"
    "{% if message['destination'] %}{{ '\\nDestination: ' + message['destination'] }}{% endif %}"
    "{% if message['content'].strip() %}{{ ' \\n\\n ' + message['content'].strip() }}{% endif %}"
    "{{ '<step>' }}{% endfor %}{{ ' Source: assistant\\nDestination: user \\n\\n ' }}"
)
"""`prompts.chat` in Jinja; after each control token, `tokenizer.json` puts the implicit space."""


def read_added_tokens(directory: Path) -> tuple[dict[int, str], set[int], set[int]]:
    """Text by id of the tokens that a fine-tune has added, the ids among them that are special, and
    the ids that its configs name as the end of a text.

    Raises:
        CheckpointError: a file is no JSON, or not as transformers writes it.
    """
    names = (ADDED_TOKENS, TOKENIZER_CONFIG, GENERATION_CONFIG, "config.json")
    ids, tokenizer, *configs = (
        read_json(directory / name) if (directory / name).is_file() else {} for name in names
    )
    try:
        tokens = {int(id): one for id, one in tokenizer.get("added_tokens_decoder", {}).items()}
        added = {int(id): str(text) for text, id in ids.items()}
        added |= {id: str(one["content"]) for id, one in tokens.items()}
        special = {id for id, one in tokens.items() if one.get("special")}
        end = tokenizer.get("eos_token")
        end = end["content"] if isinstance(end, dict) else end
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{directory}: {ADDED_TOKENS} or {TOKENIZER_CONFIG} is not as transformers writes it; "
            "download it again"
        ) from None
    ends = {id for id, text in added.items() if text == end}
    if configs[0].get("do_sample"):
        advice = [f"{key} {configs[0][key]}" for key in SAMPLING if key in configs[0]]
        warnings.warn(
            f"{directory / GENERATION_CONFIG} recommends sampling ({', '.join(advice)}); it is "
            "not followed: the options decide, and without them the likeliest token is taken",
            stacklevel=3,
        )
    for config in configs:
        given = config.get("eos_token_id")
        ends |= {id for id in (given if isinstance(given, list) else [given]) if type(id) is int}
    return added, special, ends


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files, names and contents, from which `transformers.AutoTokenizer` makes a tokenizer with
    the ids of `tokenizer`: of texts, of `prefix<FILL_ME>suffix`, and with a template for chats. A
    fine-tune's own come before them."""
    pieces = SentencePieceProcessor(model_proto=tokenizer.files[TOKENIZER])
    vocab = {pieces.id_to_piece(id): id for id in range(pieces.vocab_size())}
    bos, eos, unk = map(pieces.id_to_piece, (pieces.bos_id(), pieces.eos_id(), pieces.unk_id()))
    marks = {"bos_token": bos, "eos_token": eos, "unk_token": unk}
    control = {pieces.unk_id(), *tokenizer.control_ids}
    # The normalizer puts infilling tokens in; all others are found in the text as it is.
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    tokens = {
        id: {"content": text, "normalized": text[0] == SPACE, "special": id in control, **flags}
        for id, text in ((id, tokenizer.piece(id)) for id in sorted(control | {*tokenizer.added}))
    }
    replace = _INFILLING if tokenizer.can_infill else ()
    replace = *replace, {"pattern": {"String": " "}, "content": SPACE}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if tokenizer.implicit_space else []
    mark = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": len(prepend), "stop": 0},
    ]
    model = {
        "version": "1.0",
        "added_tokens": [{"id": id, **token} for id, token in tokens.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": prepend + [{"type": "Replace", **one} for one in replace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [mark, first],
            "pair": [mark, first, mark, second],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": unk,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab | {text: id for id, text in tokenizer.added.items()},
            "merges": _merges(pieces, vocab),
        },
    }
    config = {
        **marks,
        "added_tokens_decoder": tokens,
        "chat_template": _INST_CHAT if tokenizer.step_id is None else _SOURCE_CHAT,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    step = () if tokenizer.step_id is None else (tokenizer.step_id,)
    ends = sorted(tokenizer.eos_ids.union(step))
    contents = {
        "tokenizer.json": model,
        "special_tokens_map.json": marks,
        TOKENIZER_CONFIG: config,
        GENERATION_CONFIG: {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends},
    }
    texts = {name: json.dumps(one, indent=2, ensure_ascii=False) for name, one in contents.items()}
    return {name: text.encode() for name, text in texts.items()} | tokenizer.files


def _merges(pieces: SentencePieceProcessor, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, in the order in which SentencePiece joins them."""
    pairs = [
        (piece[:cut], piece[cut:])
        for piece in vocab
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    score = {pair: pieces.get_score(vocab["".join(pair)]) for pair in pairs}
    return sorted(pairs, key=lambda pair: (-score[pair], *map(vocab.__getitem__, pair)))
