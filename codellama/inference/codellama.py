"""`CodeLlama`: a model and its tokenizer, which complete, infill and chat."""

from __future__ import annotations

import operator
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from codellama.distributed import broadcast
from codellama.errors import RequestError
from codellama.inference.prefill import PrefixCache
from codellama.inference.requests import (
    Completion,
    CompletionStream,
    Drafter,
    Options,
    Prompt,
    RunningSequence,
    check_length,
)
from codellama.inference.scheduler import Scheduler, StepFunction, Timing
from codellama.inference.speculative import DraftModel, PromptLookup
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer
from codellama.text import prompts
from codellama.text.prompts import FILL, Message, split_fill
from codellama.text.tokenizer import Tokenizer
from codellama.weights.downloads import Progress
from codellama.weights.loading import (
    LoadOptions,
    fast_module,
    load_model,
    load_tokenizer,
    open_checkpoint,
)
from codellama.weights.lora import with_lora
from codellama.weights.variants import EMBEDDED, matching


class CodeLlama:
    """Completes code, infills it and chats about it.

    Every method takes the fields of `Options` as keyword arguments, and raises `RequestError` for
    options out of range and prompts longer than the context, `PromptError` for prompts that do not
    fit the format, and `TokenizerError` for text that cannot be encoded.

    Attributes:
        model: for another one, make a new `CodeLlama`.
        timing: what all calls so far have spent in the model.
        draw_seed: makes the seed of a text without one; None: each draws its own.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, step_function: StepFunction | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.timing = Timing()
        self.draw_seed: Callable[[], int] | None = None
        self._step_function = step_function or model
        self._new_drafter: Callable[[], Drafter] = PromptLookup
        self._last_chat = PrefixCache()

    @classmethod
    def load(
        cls,
        directory: str | Path = EMBEDDED,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        fast: bool = True,
        progress: Progress | None = None,
        mesh: DeviceMesh | None = None,
        **options: Any,
    ) -> CodeLlama:
        """Loads a checkpoint directory of any format, with its `tokenizer.model`.

        On a CPU the weights stay mapped from disk where they can be: do not write to the files of a
        model in use. PyTorch uses all cores; for a model of a few million parameters one thread is
        faster (`torch.set_num_threads(1)`).

        Args:
            directory, device, dtype, progress: as for `load_model`.
            fast: let `codellama.fast` hold and run the model; without `quantize` and `kv_dtype`,
                the logits stay the same within rounding. False keeps the model of `load_model`.
            mesh: processes that share the model, each with a device of its own. All of them have to
                make the same calls, and get the same results.
            options: the other fields of `LoadOptions`.

        Raises:
            CheckpointError: as `load_model`; or the tokenizer is missing, damaged, or of another
                vocabulary than the model.
            RequestError: an option is out of its range, or this machine cannot follow it.
        """
        chosen = LoadOptions(device, dtype, **options)
        checkpoint = open_checkpoint(directory)
        if chosen.lora:
            checkpoint = with_lora(checkpoint, chosen.lora)
        tokenizer = load_tokenizer(checkpoint.directory, checkpoint.config.vocab_size)
        if fast and (acceleration := fast_module("acceleration")):
            model, step_function = acceleration.load(checkpoint, chosen, progress, mesh)
            llm = cls(model, tokenizer, step_function)
            if mesh is not None:  # all processes have to draw the same
                llm.draw_seed = partial(broadcast, torch.Generator().seed)
            return llm
        if chosen != LoadOptions(device, dtype, lora=chosen.lora) or mesh is not None:
            raise RequestError(
                "quantize, kv_dtype, compile and several processes are the work of codellama/fast; "
                "leave them out, or load with it (fast=True)"
            )
        return cls(load_model(checkpoint, device, dtype, mmap=True, progress=progress), tokenizer)

    def load_draft(self, directory: str | Path, *, fast: bool = True) -> None:
        """Loads a smaller model, in the same dtype and to the same device, that makes draft tokens
        where `Options.speculate` asks for them. Without it they are looked up in the text so far.

        Args and errors are those of `load`; a RequestError also if the vocabulary is another.
        """
        weight, size = self.model.tok_embeddings.weight, self.model.config.vocab_size
        if (found := open_checkpoint(directory).config.vocab_size) != size:
            raise RequestError(
                f"{directory} has {found} token ids, the model {size}; drafts need the same "
                "vocabulary"
            )
        draft = type(self).load(directory, weight.device, weight.dtype, fast=fast).model
        self._new_drafter = partial(DraftModel, draft)

    def complete(self, prompts: Iterable[str], **options: Any) -> list[Completion]:
        """Continues each prompt; prompt + text is what the model has read and written."""
        return list(self._each(map(self._completion, _several(prompts)), options))

    def infill(
        self,
        pairs: Iterable[tuple[str, str]],
        suffix_first: bool = False,
        allow_control_tags: bool = False,
        **options: Any,
    ) -> list[Completion]:
        """Writes what stands between each prefix and suffix; the text is that alone, also with
        `echo`.

        Args:
            suffix_first: show the model the suffix before the prefix (see `prompts.infilling`).
            allow_control_tags: let texts spell control tokens.
        """
        several = _several(pairs, str)
        batch = [self._infilling(pair, suffix_first, allow_control_tags) for pair in several]
        return list(self._each(batch, options))

    def each(
        self, texts: Iterable[str], suffix_first: bool = False, **options: Any
    ) -> Iterator[Completion]:
        """Completes each text, or infills it where `<FILL_ME>` stands; yields a completion as soon
        as it and those before it are done. `echo` is for texts without `<FILL_ME>`."""
        batch = [
            self._infilling(split_fill(text), suffix_first)
            if isinstance(text, str) and FILL in text
            else self._completion(text)
            for text in _several(texts)
        ]
        return self._each(batch, options)

    def chat(
        self, chats: Iterable[Sequence[Message]], allow_control_tags: bool = False, **options: Any
    ) -> list[Completion]:
        """Answers the last message of each chat, or goes on with it if it is the assistant's (see
        `prompts.chat`). `prompts.drop_oldest` shortens a chat that outgrows the context."""
        several = _several(chats, Mapping)
        return list(self._each([self._chat(one, allow_control_tags) for one in several], options))

    def generate(
        self,
        prompts: Iterable[Sequence[int]],
        stop_ids: Sequence[int] | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Continues sequences of token ids.

        Args:
            stop_ids: ids that end a sequence; None: the end-of-sequence ids alone.
        """
        stops = frozenset(_whole_numbers(self.tokenizer.eos_ids if stop_ids is None else stop_ids))
        control = self.tokenizer.control_ids
        batch = [
            Prompt(ids, stops, not control.issuperset(ids))
            for ids in map(_whole_numbers, _several(prompts, int))
        ]
        return list(self._each(batch, options))

    def stream(self, prompt: str, **options: Any) -> CompletionStream:
        """As `complete` for one prompt, in pieces of text as they become certain."""
        return self._stream(self._completion(prompt), options)

    def stream_infill(
        self,
        prefix: str,
        suffix: str,
        suffix_first: bool = False,
        allow_control_tags: bool = False,
        **options: Any,
    ) -> CompletionStream:
        """As `infill` for one pair, in pieces of text as they become certain."""
        prompt = self._infilling((prefix, suffix), suffix_first, allow_control_tags)
        return self._stream(prompt, options)

    def stream_chat(
        self, messages: Sequence[Message], allow_control_tags: bool = False, **options: Any
    ) -> CompletionStream:
        """As `chat` for one chat, in pieces of text as they become certain.

        If it continues the last one streamed, only what is new goes through the model. So
        make a new `CodeLlama` after the weights have changed.
        """
        return self._stream(self._chat(messages, allow_control_tags), options, self._last_chat)

    def _completion(self, text: str) -> Prompt:
        ids = self.tokenizer.encode(text, bos=True)
        return Prompt(ids, self._stop_ids(None), continuation=bool(text))

    def _infilling(
        self, pair: tuple[str, str], suffix_first: bool, allow_control_tags: bool = False
    ) -> Prompt:
        is_pair = isinstance(pair, Sequence) and len(pair) == 2
        if not is_pair or not all(isinstance(part, str) for part in pair):
            raise RequestError(f"found {pair!r:.60}; expected a prefix and a suffix, two texts")
        ids = prompts.infilling(
            self.tokenizer, *pair, suffix_first=suffix_first, allow_control_tags=allow_control_tags
        )
        if any(variant.infilling == "unstated" for variant in matching(self.model.config)):
            warnings.warn("this 70B model may not have been trained to infill", stacklevel=3)
        return Prompt(ids, self._stop_ids(self.tokenizer.eot_id), continuation=True, kind="infill")

    def _chat(self, messages: Sequence[Message], allow_control_tags: bool) -> Prompt:
        ids = prompts.chat(self.tokenizer, messages, allow_control_tags)
        stop_ids = self._stop_ids(self.tokenizer.step_id)
        is_open = messages[-1]["role"] == "assistant"
        return Prompt(ids, stop_ids, continuation=is_open, kind="chat")

    def _stop_ids(self, end_id: int | None) -> frozenset[int]:
        return self.tokenizer.eos_ids.union(() if end_id is None else (end_id,))

    def _each(self, batch: Iterable[Prompt], keywords: dict[str, Any]) -> Iterator[Completion]:
        """The samples of each prompt, in order, each as soon as it and those before it are done."""
        options = Options(**keywords)
        sequences = [
            self._sequence(prompt, options, number)
            for prompt in batch
            for number in range(options.num_samples)
        ]
        pending = deque(sequences)
        for _ in self._schedule(sequences, options.batch_size).run():
            while pending and pending[0].finish_reason:
                yield pending.popleft().completion()
        yield from (sequence.completion() for sequence in pending)

    def _stream(
        self, prompt: Prompt, keywords: dict[str, Any], last_chat: PrefixCache | None = None
    ) -> CompletionStream:
        options = Options(**keywords)
        if options.num_samples > 1:
            raise RequestError(f"a stream is one text; num_samples is {options.num_samples}")
        sequence = self._sequence(prompt, options)
        return CompletionStream(sequence, self._pieces(sequence, last_chat))

    def _pieces(self, sequence: RunningSequence, last_chat: PrefixCache | None) -> Iterator[str]:
        """The text of one sequence; a chat goes on from the cache of the one before."""
        cache = None
        if last_chat is not None and not sequence.wants_prompt_logprobs:
            cache = last_chat.take(sequence.prompt.ids, sequence.capacity)
        scheduler = self._schedule([sequence], 1, cache)
        yield from (text for _, text in scheduler.run() if text)
        if last_chat is not None:
            last_chat.put(sequence.prompt.ids + sequence.tokens, scheduler.cache)

    def _schedule(
        self, sequences: list[RunningSequence], batch_size: int, cache: KVCache | None = None
    ) -> Scheduler:
        return Scheduler(
            self.model,
            sequences,
            batch_size,
            step_function=self._step_function,
            timing=self.timing,
            cache=cache,
        )

    def _sequence(self, prompt: Prompt, options: Options, number: int = 0) -> RunningSequence:
        ids, config = prompt.ids, self.model.config
        if options.seed is not None and number:  # each sample has one of its own
            options = replace(options, seed=options.seed + number)
        elif options.seed is None and options.temperature and self.draw_seed is not None:
            options = replace(options, seed=self.draw_seed())
        if prompt.kind == "infill":
            options = replace(options, echo=False)
        if prompt.kind == "chat" and options.heal:
            raise RequestError("heal is for prompts that end inside a word; a chat never does")
        if not ids:
            raise RequestError("a prompt has no tokens; the shortest one is [BOS]")
        if outside := [id for id in ids if not 0 <= id < config.vocab_size]:
            raise RequestError(
                f"token id {outside[0]} is outside the model's vocabulary of {config.vocab_size}"
            )
        check_length(ids, config.max_seq_len)
        budget = min(options.max_new_tokens, config.max_seq_len - len(ids))
        device, drafter = self.model.tok_embeddings.weight.device, self._new_drafter()
        return RunningSequence(
            prompt, options, self.tokenizer, budget, drafter=drafter, device=device
        )


def _whole_numbers(ids: Iterable[Any]) -> list[int]:
    try:
        return [operator.index(id) for id in ids]
    except TypeError as error:
        raise RequestError(f"token ids are whole numbers; {error}") from None


def _several(prompts: Iterable[Any], part: type | tuple[()] = ()) -> list[Any]:
    """The prompts as a list; refuses a single prompt, which is a string or made of `part`s."""
    several = list(prompts)
    if isinstance(prompts, str) or any(isinstance(prompt, part) for prompt in several):
        raise RequestError(f"expected a list of prompts, got {prompts!r:.60}; wrap it in a list")
    return several
