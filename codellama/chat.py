"""A chat on the terminal: `python -m codellama.generate --chat`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch

from codellama.cli import log
from codellama.distributed import broadcast, is_launched
from codellama.errors import PromptError, RequestError
from codellama.inference.codellama import CodeLlama
from codellama.inference.requests import Options
from codellama.text import prompts
from codellama.text.prompts import Message
from codellama.weights.variants import matching

HELP = """A line is a message. Ctrl-C stops an answer.
/continue goes on with the last answer, /reset forgets the conversation, /exit ends it.
"""


@dataclass
class Chat:
    """A chat on the terminal."""

    llm: CodeLlama
    system: str | None
    options: Options
    quiet: bool

    def run(self) -> None:
        """Answers line after line, until /exit or the end of the input."""
        opening: list[Message] = []
        if self.system:
            opening = [{"role": "system", "content": self.system}]
        prompts.chat(self.llm.tokenizer, [*opening, {"role": "user", "content": ""}])
        if not any(variant.chat for variant in matching(self.llm.model.config)):
            self._note("note: this model may not have learned to chat; Instruct models have\n")
        self._note(HELP)
        history = opening
        while True:
            self._note("> ")
            line = broadcast(_line)
            command = (line or "").strip()
            if line is None:
                log("error: the line is not UTF-8 text; write it again")
            elif not line or command == "/exit":
                return
            elif command == "/help":
                log(HELP, end="")
            elif command == "/reset":
                history = opening
            elif command == "/continue":
                history = self._answer(history, history)
            elif command:
                history = self._answer(history, [*history, {"role": "user", "content": command}])

    def _answer(self, history: list[Message], messages: list[Message]) -> list[Message]:
        """Streams the answer to the last message, or the rest of the last answer. Returns the
        messages with it, or `history` if they are refused. Ctrl-C keeps what has come so far."""
        tokenizer, context = self.llm.tokenizer, self.llm.model.config.max_seq_len
        kept, answer = messages, ""
        try:
            room = min(self.options.max_new_tokens, context // 4)
            kept = prompts.drop_oldest(tokenizer, messages, context - room)
            if dropped := (len(messages) - len(kept)) // 2:
                self._note(f"note: the context is full; exchanges left out: the oldest {dropped}\n")
            stream = self.llm.stream_chat(kept, **vars(self.options))
            for piece in stream:
                print(piece, end="", flush=True)
                answer += piece
            if stream.completion.finish_reason == "length":
                length = len(prompts.chat(tokenizer, kept))
                self._note(f"\n{cut_note(length, self.options, context)}; /continue goes on")
        except KeyboardInterrupt:
            pass
        except (PromptError, RequestError, torch.OutOfMemoryError) as error:
            if is_launched() and isinstance(error, torch.OutOfMemoryError):
                raise  # the others wait for this process
            log(f"error: {str(error).splitlines()[0]} (or /reset)")
            return history
        print(flush=True)
        if kept[-1]["role"] == "assistant":
            kept, answer = kept[:-1], kept[-1]["content"] + answer
        if not answer.strip():
            return history
        kept = [*kept, {"role": "assistant", "content": answer, "destination": "user"}]
        try:
            prompts.chat(tokenizer, kept)
        except PromptError:
            self._note("note: the answer has a tag of the chat's format in it; it is forgotten\n")
            return history
        return kept

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
