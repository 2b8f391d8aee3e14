"""Hold a conversation with an Instruct model, from Python.

python examples/chat.py DIR
"""

import sys

from codellama import CodeLlama

if len(sys.argv) != 2:
    sys.exit("usage: python examples/chat.py DIR")
llm = CodeLlama.load(sys.argv[1])

messages = [{"role": "system", "content": "Answer with Python code only."}]
for question in ("Reverse a string.", "Now without slicing."):
    messages.append({"role": "user", "content": question})
    print(f"> {question}")
    answer = llm.stream_chat(messages, max_new_tokens=128, temperature=0.2, top_p=0.95, seed=0)
    for piece in answer:
        print(piece, end="", flush=True)
    print()
    messages.append({"role": "assistant", "content": answer.completion.text})
