"""What each process of a tensor-parallel run does; the first prints what the tests look at."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from codellama import CodeLlama
from codellama.distributed import broadcast, init_mesh, shutdown


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon" in line)


def main(directory: str, prompts: list[str], *quantized: str) -> None:
    mesh = init_mesh(torch.device("cpu"))
    memory = []  # from when the first parameter is in place

    def watch(*_):
        memory.append(anonymous_bytes())

    llm = CodeLlama.load(directory, dtype=torch.float32, progress=watch, mesh=mesh)
    grown = [torch.zeros(1) for _ in range(mesh.size())]
    dist.all_gather(grown, torch.tensor([float(max(memory) - memory[0])]))
    greedy = llm.complete(prompts, max_new_tokens=12, logprobs=True)
    seeded = llm.complete(prompts, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3)
    unseeded = llm.complete(prompts, max_new_tokens=12, temperature=1.0)
    tokens = [completion.tokens for completion in unseeded]
    everywhere: list[list[list[int]]] = [[] for _ in range(mesh.size())]
    dist.all_gather_object(everywhere, tokens)
    told: list[list[object]] = [[] for _ in range(mesh.size())]
    dist.all_gather_object(told, broadcast(lambda: ["ü", mesh.get_local_rank()]))
    cache_heads = llm.model.new_cache().keys[0].shape[1]
    parameters = llm.model.config.parameter_count
    integers = {}
    for mode, place in zip(("int8", "int4"), quantized, strict=True):
        for source, quantize in ((directory, mode), (place, None)):
            llm = CodeLlama.load(source, dtype=torch.float32, quantize=quantize, mesh=mesh)
            found = llm.complete(prompts, max_new_tokens=12, logprobs=True)
            integers[f"{mode} {quantize}"] = [(one.tokens, one.logprobs) for one in found]
    result = {
        "integers": integers,
        "greedy": [completion.tokens for completion in greedy],
        "logprobs": [completion.logprobs for completion in greedy],
        "seeded": [completion.tokens for completion in seeded],
        "agreed": all(other == tokens for other in everywhere),
        "told": told,
        "cache_heads": cache_heads,
        "memory": [float(share) for share in grown],
        "parameters": parameters,
    }
    if mesh.get_local_rank() == 0:
        print(json.dumps(result))
    shutdown(0)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), *sys.argv[3:])
