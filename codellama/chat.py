"""A chat on the terminal: `python -m codellama.generate --chat`."""

from __future__ import annotations

import contextlib
import select
import sys
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

PASTE_SECONDS = 0.03
"""In which the next line of a pasted text comes."""


@dataclass
class Conversation:
    """A chat on the terminal."""

    llm: CodeLlama
    system: str | None
    options: Options
    quiet: bool
    mesh: DeviceMesh | None

    def hold(self) -> None:
        """Answers line after line, until /exit or the end of the input."""
        system = {"role": "system", "content": self.system or ""}
        history = opening = list[Message]([system] if self.system else [])
        variants = matching(self.llm.model.config)
        if variants and not any(variant.chat for variant in variants):
            self._note("note: this model was not trained to chat; Instruct models are\n")
        prompts.chat(self.llm.tokenizer, [*opening, {"role": "user", "content": ""}])
        self._note("/reset forgets the conversation, /exit ends it\n")
        while True:
            self._note("> ")
            line = broadcast(_line, self.mesh)
            if line is None:
                log("error: the line is not UTF-8 text; write it again")
                continue
            if not line or line.strip() == "/exit":
                return
            if line.strip() == "/reset":
                history = opening
            elif line.strip():
                history = self._answer(history, line.strip())

    def _answer(self, history: list[Message], question: str) -> list[Message]:
        """Streams the answer; returns the history with both. Ctrl-C keeps what has come so far."""
        messages = [*history, {"role": "user", "content": question}]
        answer = ""
        try:
            stream = self.llm.stream_chat(messages, **vars(self.options))
            for piece in stream:
                print(piece, end="", flush=True)
                answer += piece
            if stream.completion.finish_reason == "length":
                self._note("\nnote: the answer was cut at its length")
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
            prompts.chat(self.llm.tokenizer, [*messages, {"role": "user", "content": ""}])
        except PromptError:
            self._note("note: the answer has a tag of the chat's format in it; it is forgotten\n")
            return history
        return messages

    def _note(self, text: str) -> None:
        if not self.quiet:
            log(text, end="")


def _line() -> str | None:
    """The next line of a chat, or the lines that are pasted together into a terminal; empty at the
    end, None if it is not UTF-8."""
    if sys.stdin is None:
        return ""
    line = sys.stdin.buffer.readline()
    with contextlib.suppress(OSError, ValueError):  # a system whose terminals cannot be asked
        while sys.stdin.isatty() and select.select([sys.stdin], [], [], PASTE_SECONDS)[0]:
            if not (more := sys.stdin.buffer.readline()):
                break
            line += more
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None
