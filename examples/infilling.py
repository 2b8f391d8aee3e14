"""Fill a gap in code, in both orders that the model was trained with.

python examples/infilling.py [DIR]    # without DIR: the checkpoint that comes with the package
"""

import sys

from codellama import CodeLlama, prompts
from codellama.cli import checkpoint_directory

llm = CodeLlama.load(checkpoint_directory(sys.argv[1] if sys.argv[1:] else None))

code = '''def remove_non_ascii(s: str) -> str:
    """ <FILL_ME>
    return result
'''
prefix, suffix = prompts.split_fill(code)

# Prefix-suffix-middle shows the prefix first, suffix-prefix-middle right before the gap's text.
for suffix_first in (False, True):
    [completion] = llm.infill([(prefix, suffix)], suffix_first=suffix_first, max_new_tokens=64)
    print(f"--- {'suffix-prefix' if suffix_first else 'prefix-suffix'}-middle")
    print(prefix + completion.text + suffix)

# What the model reads, token by token.
ids = prompts.infilling(llm.tokenizer, prefix, suffix)
print(" ".join(llm.tokenizer.piece(id) for id in ids))
