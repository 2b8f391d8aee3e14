"""A chat on the terminal: `python -m codellama.generate --chat`."""

from __future__ import annotations

import contextlib
import select
import sys

from torch.distributed.device_mesh import DeviceMesh

from codellama.cli import say
from codellama.errors import PromptError, RequestError
from codellama.inference.generation import CodeLlama
from codellama.inference.requests import Options
from codellama.processes import from_first_rank
from codellama.text import prompts
from codellama.weights.variants import matching

PASTE_SECONDS = 0.03
"""In which the next line of a pasted text comes."""


class Conversation:
    """A chat on the terminal, with the history that the model is shown."""

    def __init__(
        self,
        llm: CodeLlama,
        system: str | None,
        options: Options,
        *,
        quiet: bool,
        mesh: DeviceMesh | None,
    ) -> None:
        self.llm = llm
        self.options = vars(options)
        self.quiet = quiet
        self.mesh = mesh
        self.opening = [{"role": "system", "content": system}] if system else []
        self.messages = list(self.opening)

    def hold(self) -> None:
        """Answers line after line, until /exit or the end of the input."""
        variants = matching(self.llm.model.config)
        if variants and not any(variant.chat for variant in variants):
            self._note("note: this model was not trained to chat; Instruct models are\n")
        prompts.chat(self.llm.tokenizer, [*self.opening, {"role": "user", "content": ""}])
        self._note("/reset forgets the conversation, /exit ends it\n")
        while True:
            self._note("> ")
            line = from_first_rank(_line, self.mesh)
            if line is None:
                say("error: the line is not UTF-8 text; write it again")
                continue
            if not line or line.strip() == "/exit":
                return
            if line.strip() == "/reset":
                self.messages = list(self.opening)
            elif line.strip():
                self._answer(line.strip())

    def _answer(self, question: str) -> None:
        """Streams the answer and adds both to the history; Ctrl-C keeps what has come so far."""
        messages = [*self.messages, {"role": "user", "content": question}]
        answer = ""
        try:
            stream = self.llm.stream_chat(messages, **self.options)
            for piece in stream:
                print(piece, end="", flush=True)
                answer += piece
            if stream.completion.finish_reason == "length":
                self._note("\nnote: the answer was cut at its length")
        except KeyboardInterrupt:
            pass
        except (PromptError, RequestError) as error:
            say(f"error: {error} (or /reset)")
            return
        print(flush=True)
        if not answer.strip():
            return
        messages.append({"role": "assistant", "content": answer, "destination": "user"})
        try:
            prompts.chat(self.llm.tokenizer, [*messages, {"role": "user", "content": ""}])
        except PromptError:
            self._note("note: the answer has a tag of the chat's format in it; it is forgotten\n")
        else:
            self.messages = messages

    def _note(self, text: str) -> None:
        if not self.quiet:
            say(text, end="")


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
