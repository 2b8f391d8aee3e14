"""An edit that is dictated to a model, to time it."""

from codellama import Options
from codellama.evaluation.edit_speed import Dictation, edit_speed
from codellama.inference.decoding import Decoder
from codellama.inference.speculative import PromptLookup

PROMPT, TEXT = [1, 300, 301, 302, 303], [300, 301, 310, 303, 300, 301, 310]


def write(llm, speculate):
    passes = []
    hook = llm.model.register_forward_hook(lambda *_: passes.append(1))
    sequence = Dictation(PROMPT, TEXT, Options(speculate=speculate), llm.tokenizer)
    for _ in Decoder(llm.model, PromptLookup).run([sequence]):
        pass
    hook.remove()
    return sequence.tokens, len(passes)


def test_the_text_is_written_whatever_the_model_thinks_of_it(llm):
    plain, passes = write(llm, 0)
    assert (plain, passes) == (TEXT, len(TEXT) - 1)  # the first comes out of the prompt's pass


def test_drafts_that_fit_the_text_save_passes(llm):
    drafted, passes = write(llm, 3)
    assert drafted == TEXT
    assert passes < len(TEXT) - 1


def test_an_edit_of_real_code_is_timed_with_drafts_and_without(llm):
    speed = edit_speed(llm, speculate=4, most=20)
    assert speed.plain > 0 < speed.speculative
