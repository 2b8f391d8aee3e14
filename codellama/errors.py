"""Every exception that a user can cause.

Each text says what was found, what was expected, and what to do. Commands print it as one sentence
and end with exit code 2. Whatever else is raised is a defect of this package.
"""

MAX_LENGTH = 900
"""Characters of a text."""


class CodeLlamaError(ValueError):
    """The base of all the others.

    What is quoted from files and prompts may be of any kind and length: the text shows control
    characters escaped, and leaves out the middle of what is longer than `MAX_LENGTH`.
    """

    def __init__(self, text: str) -> None:
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
        if len(text) > MAX_LENGTH:
            text = f"{text[: MAX_LENGTH // 2]} … {text[3 - MAX_LENGTH // 2 :]}"
        super().__init__(text)


class ConfigError(CodeLlamaError):
    """Hyper-parameters that do not describe a model."""


class CheckpointError(CodeLlamaError):
    """Files that are not a checkpoint, or not one whole checkpoint; or no place to write one."""


class TokenizerError(CodeLlamaError):
    """A vocabulary that cannot be read, or text and ids that it does not cover."""


class PromptError(CodeLlamaError):
    """A prompt that the model's formats cannot express, or that would break out of them."""


class RequestError(CodeLlamaError):
    """An option out of its range, or a request that this model or machine cannot serve."""


class DataError(CodeLlamaError):
    """Documents, problems or a run's files that cannot be used."""
