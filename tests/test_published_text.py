"""Small real weights, published with the text that they generate."""

from shared_data import shared

from codellama import CodeLlama


def test_stories260k_tells_the_story_that_its_authors_published():
    directory = shared("checkpoints/stories260K")
    llm = CodeLlama.load(directory, device="cpu")
    [completion] = llm.complete([""], max_new_tokens=256, temperature=0.0)
    assert completion.text + "\n" == (directory / "expected.txt").read_text()
