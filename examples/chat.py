"""Hold a conversation with an Instruct model, from Python.

python examples/chat.py DIR
"""

from command_line import run_example

from codellama import CodeLlama


def chat(ckpt: str) -> None:
    """Ask two questions, of which the second builds on the first.

    Args:
        ckpt: checkpoint directory of an Instruct model.
    """
    llm = CodeLlama.load(ckpt)

    messages = [{"role": "system", "content": "Answer with Python code only."}]
    for question in ("Reverse a string.", "Now without slicing."):
        messages.append({"role": "user", "content": question})
        print(f"> {question}")
        answer = llm.stream_chat(messages, max_new_tokens=128, temperature=0.2, top_p=0.95, seed=0)
        for piece in answer:
            print(piece, end="", flush=True)
        print()
        messages.append({"role": "assistant", "content": answer.completion.text})


if __name__ == "__main__":
    run_example(chat)
