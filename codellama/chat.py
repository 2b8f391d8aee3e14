"""A chat on the terminal: `python -m codellama.generate --chat`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh

from codellama.cli import log
from codellama.distributed import broadcast
from codellama.errors import PromptError, RequestError
from codellama.inference.codellama import CodeLlama
from codellama.inference.requests import Options
from codellama.text import prompts
from codellama.text.prompts import Message
from codellama.weights.variants import matching

HELP = (
    "/reset forgets the conversation, /exit ends it, Ctrl-C stops an answer; a line is a message\n"
)


@dataclass
class Chat:
    """A chat on the terminal."""

    llm: CodeLlama
    system: str | None
    options: Options
    quiet: bool
    mesh: DeviceMesh | None

    def run(self) -> None:
        """Answers line after line, until /exit or the end of the input."""
        history = self._opening()
        prompts.chat(self.llm.tokenizer, [*history, {"role": "user", "content": ""}])
        if not any(variant.chat for variant in matching(self.llm.model.config)):
            self._note("note: this model may not have learned to chat; Instruct models have\n")
        self._note(HELP)
        while True:
            self._note("> ")
            line = broadcast(_line, self.mesh)
            if line is None:
                log("error: the line is not UTF-8 text; write it again")
                continue
            command = line.strip()
            if not line or command == "/exit":
                return
            if command == "/help":
                log(HELP, end="")
            elif command == "/reset":
                history = self._opening()
            elif command:
                history = self._answer(history, command)

    def _opening(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def _answer(self, history: list[Message], question: str) -> list[Message]:
        """Streams the answer; returns the history with both. Ctrl-C keeps what has come so far."""
        messages = [*history, {"role": "user", "content": question}]
        answer = ""
        try:
            messages = self._fitting(messages)
            stream = self.llm.stream_chat(messages, **vars(self.options))
            for piece in stream:
                print(piece, end="", flush=True)
                answer += piece
            if stream.completion.finish_reason == "length":
                context = self.llm.model.config.max_seq_len
                self._note(f"\n{cut_note(self._length(messages), self.options, context)}")
        except KeyboardInterrupt:
            pass
        except (PromptError, RequestError, torch.OutOfMemoryError) as error:
            if self.mesh and isinstance(error, torch.OutOfMemoryError):
                raise  # the others wait for this process
            log(f"error: {str(error).splitlines()[0]} (or /reset)")
            return history
        print(flush=True)
        if not answer.strip():
            return history
        messages.append({"role": "assistant", "content": answer, "destination": "user"})
        try:
            self._length([*messages, {"role": "user", "content": ""}])
        except PromptError:
            self._note("note: the answer has a tag of the chat's format in it; it is forgotten\n")
            return history
        return messages

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """The messages without the oldest exchanges, if all of them and an answer, or an answer of
        a quarter of the context, would not fit into the context."""
        context, start = self.llm.model.config.max_seq_len, len(self._opening())
        room, before = min(self.options.max_new_tokens, context // 4), len(messages)
        while len(messages) > start + 1 and self._length(messages) + room > context:
            messages = messages[:start] + messages[start + 2 :]
        if dropped := (before - len(messages)) // 2:
            self._note(f"note: the context is full; the oldest exchanges are left out: {dropped}\n")
        return messages

    def _length(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation. Raises PromptError for tags that the format does not allow."""
        return len(prompts.chat(self.llm.tokenizer, messages))

    def _note(self, text: str) -> None:
        if not self.quiet:
            log(text, end="")


def cut_note(prompt_tokens: int, options: Options, context: int) -> str:
    """Why a text behind a prompt of so many tokens ends where the model would have gone on."""
    if prompt_tokens + options.max_new_tokens > context:
        return f"note: cut off, since the model's context of {context:,} tokens is full"
    return f"note: cut off after --max_new_tokens {options.max_new_tokens}"


def _line() -> str | None:
    """The next line of a chat; empty at the end, None if it is not UTF-8."""
    try:
        return sys.stdin.buffer.readline().decode()
    except UnicodeDecodeError:
        return None
