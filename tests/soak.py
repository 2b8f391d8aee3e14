"""Mixed requests to one process for as long as you like: `python tests/soak.py --minutes 60`.

Completions, gaps, chats and streams of all lengths, some of them left half-way, in batches of any
size. Every tenth round asks what the first asked. The exit code is 1 if an answer has changed, or
if memory after the warm-up, a tenth of the time, grows by more than a hundredth.
"""

import argparse
import gc
import random
import sys
import time
from pathlib import Path

from codellama import EMBEDDED, CodeLlama

CODE = Path(__file__).read_text()


def resident_bytes() -> int:
    """Memory of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmRSS" in line)


def ask(llm: CodeLlama, seed: int) -> list[str]:
    """The answers to a random round of requests, the same for the same seed."""
    chance = random.Random(seed)

    def text() -> str:
        start = chance.randrange(len(CODE))
        return CODE[start : start + chance.choice([0, 5, 50, 500, 1500])]

    options = {
        "max_new_tokens": chance.choice([1, 8, 32]),
        "temperature": chance.choice([0.0, 0.9]),
        "batch_size": chance.choice([1, 3, 8]),
        "seed": seed,
        "speculate": chance.choice([0, 0, 4]),
    }
    texts = [text() for _ in range(chance.choice([1, 2, 5, 9]))]
    answers = [one.text for one in llm.complete(texts, **options)]
    answers += [one.text for one in llm.infill([(text(), text())], **options)]
    dialog = [{"role": "user", "content": text() or "hello"}]
    answers.append("".join(llm.stream_chat(dialog, **options)))
    next(iter(llm.stream(text(), **options)), None)  # left half-way
    answers.append("".join(llm.stream(text(), **options)))
    return answers


def main() -> int:
    """Prints memory once a minute; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--ckpt", default=EMBEDDED)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    llm = CodeLlama.load(given.ckpt, "cpu", given.dtype, compile=given.compile)
    first = {seed: ask(llm, seed) for seed in range(3)}
    started, told, settled, rounds = time.monotonic(), 0.0, 0, 0
    while (elapsed := (time.monotonic() - started) / 60) < given.minutes:
        rounds += 1
        if rounds % 10:
            ask(llm, rounds)
        elif ask(llm, seed := rounds // 10 % 3) != first[seed]:
            print(f"round {rounds}: the answers are no longer those of the beginning")
            return 1
        if elapsed >= given.minutes / 10 and not settled:
            gc.collect()
            settled = resident_bytes()
        if elapsed - told >= 1:
            told = elapsed
            print(
                f"{elapsed:.0f} min, {rounds} rounds: {resident_bytes() / 1e6:.0f} MB", flush=True
            )
    gc.collect()
    grown = resident_bytes() / settled - 1
    print(f"{rounds} rounds, {settled / 1e6:.0f} MB after the warm-up, then {grown:+.2%}")
    return int(grown > 0.01)


if __name__ == "__main__":
    sys.exit(main())
