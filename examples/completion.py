"""Complete code: as it comes, in batches, with log-probabilities.

python examples/completion.py [DIR]    # without DIR: the checkpoint that comes with the package
"""

import math
import sys

from codellama import CodeLlama
from codellama.cli import checkpoint_directory

llm = CodeLlama.load(checkpoint_directory(sys.argv[1] if sys.argv[1:] else None))

# Text as it comes. The pieces add up to the completion's text.
prompt = "def fibonacci(n):"
print(prompt, end="")
for piece in llm.stream(prompt, max_new_tokens=64):
    print(piece, end="", flush=True)
print("\n")

# Several prompts of any lengths share a batch; each gets what it would get alone.
prompts = ["import json\n\ndef load(path):", "class Stack:"]
completions = llm.complete(
    prompts, max_new_tokens=48, temperature=0.8, top_p=0.95, seed=1, stop=["\n\n\n"]
)
for prompt, completion in zip(prompts, completions, strict=True):
    print(f"--- {len(completion.tokens)} tokens, {completion.finish_reason}")
    print(prompt + completion.text)

# How likely is a text? Echo it without adding to it: its perplexity is e to the mean surprise.
for text in ("for i in range(10):", "for range in i(10):"):
    [scored] = llm.complete([text], max_new_tokens=0, echo=True, logprobs=True)
    surprises = [-logprob for logprob in scored.logprobs[1:]]  # nothing predicts the first token
    print(f"perplexity {math.exp(sum(surprises) / len(surprises)):8.1f}  {text}")
