"""`CodeLlama`: a model and its vocabulary, put to the uses that it was trained for."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsInt

import torch

from codellama.inference import lone_query
from codellama.inference.compiled import BURST, CompiledSteps
from codellama.inference.decoding import Timing, decode
from codellama.inference.int8_kv_cache import Int8KVCache
from codellama.inference.prefill import Past
from codellama.inference.requests import (
    Completion,
    CompletionStream,
    Options,
    Prompt,
    RequestError,
    RunningSequence,
)
from codellama.inference.speculative import Drafter, DraftModel, PromptLookup
from codellama.inference.ways import check_ways, layout_for
from codellama.model.transformer import Transformer
from codellama.text import prompts
from codellama.text.prompts import FILL, Message, split_fill
from codellama.text.tokenizer import Tokenizer
from codellama.weights.downloads import Progress
from codellama.weights.loading import default_device, load_model, load_tokenizer
from codellama.weights.variants import matching

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class CodeLlama:
    """Completes code, fills gaps in it and chats about it.

    Every method takes the fields of `Options` as keyword arguments, and raises `RequestError` for
    options out of range and prompts longer than the context, `PromptError` for prompts that do not
    fit the format, and `TokenizerError` for text that cannot be encoded.

    Attributes:
        draft_model: a smaller model of the same vocabulary that guesses the next tokens where
            `Options.speculate` asks for it; None: they are looked up in the text so far.
        compiled: compiled steps of the model that decoding uses; None: the model as it is.
        timing: what all calls so far have spent in the model.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, mesh: DeviceMesh | None = None
    ) -> None:
        lone_query.prepare(model)
        self.model = model
        self.tokenizer = tokenizer
        self.mesh = mesh
        self.draft_model: Transformer | None = None
        self.compiled: CompiledSteps | None = None
        self.timing = Timing()
        self._dialog = Past()

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: Progress | None = None,
        mesh: DeviceMesh | None = None,
        quantize: str | None = None,
        kv_dtype: str | None = None,
        pack: bool = False,
        compile: bool = False,
    ) -> CodeLlama:
        """Loads a checkpoint directory: `params.json`, shards and `tokenizer.model`.

        Args:
            directory, device, dtype, progress: as for `load_model`.
            mesh: processes to lay the model over, one device each; every one of them has to make
                the same calls, and gets the same results.
            quantize: "int8" or "int4" rounds the matrices as they are read (see `Quantized`).
            kv_dtype: "int8" rounds keys and values in the cache (see `Int8KVCache`); None keeps
                them as the model computes them.
            pack: put matrices of 16 or 8 bits into the order that the processor's matrix library
                reads fastest (see `codellama.weights.packing`): slower to load, faster to use.
            compile: decode by compiled steps (see `CompiledSteps`).

        Raises:
            CheckpointError: as `load_model`; or the tokenizer is missing, damaged, or of another
                vocabulary than the model; or matrices to be packed are of another dtype than the
                processor's library takes.
            RequestError: the number of processes does not divide the model's heads; or there is no
                such way to quantize; or options exclude each other, or the device.
        """
        place = torch.device(device or default_device())
        check_ways(place, mesh, quantize, kv_dtype, pack, compile)
        layout = layout_for(mesh, quantize, pack)
        place = torch.device(mesh.device_type) if mesh else place
        model = load_model(directory, place, dtype, progress, layout)
        if kv_dtype is not None:
            model.cache_type = Int8KVCache
        llm = cls(model, load_tokenizer(directory, model.config.vocab_size), mesh)
        if compile:
            llm.compiled = CompiledSteps(model)
        return llm

    def load_draft(self, directory: str | Path) -> None:
        """Loads a smaller model that guesses next tokens, to the same device.

        Raises:
            CheckpointError: as `load_model`.
            RequestError: its vocabulary is another, or this model runs in several processes.
        """
        weight = self.model.tok_embeddings.weight
        if self.mesh is not None:
            raise RequestError("a model in several processes takes no draft model")
        draft = load_model(directory, weight.device)
        if draft.config.vocab_size != self.model.config.vocab_size:
            raise RequestError(
                f"{directory} has {draft.config.vocab_size} token ids, the model "
                f"{self.model.config.vocab_size}; drafts need the same vocabulary"
            )
        lone_query.prepare(draft)
        self.draft_model = draft

    def complete(self, prompts: Sequence[str], **options: Any) -> list[Completion]:
        """Continues each prompt.

        The text goes on from the prompt's: prompt + text is what the model has read and written.
        """
        _refuse_single(prompts)
        return self._run([self._completion(text) for text in prompts], options)

    def infill(
        self,
        gaps: Sequence[tuple[str, str]],
        suffix_first: bool = False,
        allow_control_tags: bool = False,
        **options: Any,
    ) -> list[Completion]:
        """Fills the gap between each prefix and suffix; the text is that of the gap alone, also
        with `echo`.

        Args:
            suffix_first: show the model the suffix before the prefix (see `prompts.infilling`).
            allow_control_tags: let texts spell control tokens.
        """
        _refuse_single(gaps, str)
        batch = [self._infilling(gap, suffix_first, allow_control_tags) for gap in gaps]
        return self._run(batch, {**options, "echo": False})

    def each(
        self, texts: Sequence[str], suffix_first: bool = False, **options: Any
    ) -> Iterator[Completion]:
        """Completes each text, or fills the gap that `<FILL_ME>` marks in it; yields a completion
        as soon as it and those before it are done. `echo` is for texts without a gap."""
        asked = self._options(options)
        filled = replace(asked, echo=False)
        yield from self._each(
            [
                (self._infilling(split_fill(text), suffix_first), filled)
                if FILL in text
                else (self._completion(text), asked)
                for text in texts
            ]
        )

    def chat(
        self,
        dialogs: Sequence[Sequence[Message]],
        allow_control_tags: bool = False,
        **options: Any,
    ) -> list[Completion]:
        """Answers the last message of each dialog (see `prompts.chat`)."""
        _refuse_healing(options)
        return self._run([self._chat(dialog, allow_control_tags) for dialog in dialogs], options)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        stop_ids: Sequence[int] | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Continues sequences of token ids.

        Args:
            stop_ids: ids that end a sequence; None: the end-of-sequence id alone.
        """
        _refuse_single(prompts, int)
        stops = frozenset([self.tokenizer.eos_id] if stop_ids is None else stop_ids)
        control = self.tokenizer.control_ids
        batch = [Prompt(ids, stops, not control.issuperset(ids)) for ids in map(_ints, prompts)]
        return self._run(batch, options)

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
        """As `infill` for one gap, in pieces of text as they become certain."""
        prompt = self._infilling((prefix, suffix), suffix_first, allow_control_tags)
        return self._stream(prompt, {**options, "echo": False})

    def stream_chat(
        self, messages: Sequence[Message], allow_control_tags: bool = False, **options: Any
    ) -> CompletionStream:
        """As `chat` for one dialog, in pieces of text as they become certain.

        Of a dialog that goes on from the last one streamed, only what is new is read.
        """
        _refuse_healing(options)
        return self._stream(self._chat(messages, allow_control_tags), options, self._dialog)

    def _completion(self, text: str) -> Prompt:
        ids = self.tokenizer.encode(text, bos=True)
        return Prompt(ids, frozenset([self.tokenizer.eos_id]), continuation=bool(text))

    def _infilling(
        self, gap: tuple[str, str], suffix_first: bool, allow_control_tags: bool = False
    ) -> Prompt:
        ids = prompts.infilling(self.tokenizer, *gap, suffix_first, allow_control_tags)
        if any(variant.infilling == "untrained" for variant in matching(self.model.config)):
            warnings.warn(
                "Code Llama 70B has infilling tokens, but may not have been trained to infill",
                stacklevel=3,
            )
        return Prompt(ids, self._stop_ids(self.tokenizer.eot_id), continuation=True)

    def _chat(self, messages: Sequence[Message], allow_control_tags: bool) -> Prompt:
        ids = prompts.chat(self.tokenizer, messages, allow_control_tags)
        return Prompt(ids, self._stop_ids(self.tokenizer.step_id), continuation=False)

    def _stop_ids(self, end_id: int | None) -> frozenset[int]:
        return frozenset(id for id in (end_id, self.tokenizer.eos_id) if id is not None)

    def _run(self, batch: Sequence[Prompt], keywords: dict[str, Any]) -> list[Completion]:
        options = self._options(keywords)
        return list(self._each([(prompt, options) for prompt in batch]))

    def _each(self, batch: Sequence[tuple[Prompt, Options]]) -> Iterator[Completion]:
        """The samples of each prompt, in order, each as soon as it and those before it are done."""
        sequences = [
            self._sequence(prompt, _nth(options, number))
            for prompt, options in batch
            for number in range(options.num_samples)
        ]
        pending = deque(sequences)
        for _ in self._decode(sequences):
            while pending and pending[0].finish_reason:
                yield pending.popleft().completion()
        yield from (sequence.completion() for sequence in pending)

    def _stream(
        self, prompt: Prompt, keywords: dict[str, Any], past: Past | None = None
    ) -> CompletionStream:
        options = self._options(keywords)
        if options.num_samples > 1:
            raise RequestError(f"a stream is one text; num_samples is {options.num_samples}")
        sequence = self._sequence(prompt, options)
        pieces = (text for _, text in self._decode([sequence], past, burst=1) if text)
        return CompletionStream(sequence, pieces)

    def _decode(
        self, sequences: Sequence[RunningSequence], past: Past | None = None, burst: int = BURST
    ) -> Iterator[tuple[RunningSequence, str]]:
        return decode(
            self.model,
            sequences,
            self.timing,
            max((sequence.options.batch_size for sequence in sequences), default=1),
            self._new_drafter,
            past,
            self.compiled,
            min(burst, self.compiled.burst) if self.compiled else 1,
        )

    def _new_drafter(self) -> Drafter:
        return PromptLookup() if self.draft_model is None else DraftModel(self.draft_model)

    def _options(self, keywords: dict[str, Any]) -> Options:
        """The options asked for; processes of a mesh agree on a seed, so as to sample alike."""
        options = Options(**keywords)
        if self.mesh is None or options.seed is not None:
            return options
        from codellama.inference.parallel import from_first_rank

        return replace(options, seed=from_first_rank(torch.Generator().seed, self.mesh))

    def _sequence(self, prompt: Prompt, options: Options) -> RunningSequence:
        ids, config = prompt.ids, self.model.config
        if not ids:
            raise RequestError("a prompt has no tokens; the shortest one is [BOS]")
        if outside := [id for id in ids if not 0 <= id < config.vocab_size]:
            raise RequestError(
                f"token id {outside[0]} is outside the model's vocabulary of {config.vocab_size}"
            )
        if len(ids) > config.max_seq_len:
            raise RequestError(
                f"the prompt has {len(ids):,} tokens, but the model's context holds "
                f"{config.max_seq_len:,}; shorten the prompt"
            )
        budget = min(options.max_new_tokens, config.max_seq_len - len(ids))
        device = self.model.tok_embeddings.weight.device
        return RunningSequence(prompt, options, self.tokenizer, budget, device)


def _refuse_healing(keywords: Mapping[str, Any]) -> None:
    if keywords.get("heal"):
        raise RequestError(
            "heal is for prompts that end inside a word; a dialog ends with the format's own tokens"
        )


def _nth(options: Options, number: int) -> Options:
    """The options of a prompt's n-th sample, which has a seed of its own."""
    if options.seed is None or number == 0:
        return options
    return replace(options, seed=options.seed + number)


def _ints(ids: Iterable[SupportsInt]) -> list[int]:
    return [int(id) for id in ids]


def _refuse_single(prompts: Sequence[Any], part: type | tuple[()] = ()) -> None:
    """Catches one prompt, a string or made of `part`s, where a list of prompts is meant."""
    if isinstance(prompts, str) or any(isinstance(prompt, part) for prompt in prompts):
        raise RequestError(f"expected a list of prompts, got {prompts!r:.60}; wrap it in a list")
