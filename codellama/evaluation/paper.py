"""The paper's figures, in % (Rozière et al. 2023, arXiv 2308.12950), by published variant."""

from __future__ import annotations

from itertools import product

from codellama.model.config import ModelConfig
from codellama.weights.variants import matching

_RATES = [f"pass@{k}" for k in (1, 10, 100)]
_CELLS = [
    f"{length}/{place}" for length, place in product((8000, 16000, 24000), ("0", "0.2", "0.4"))
]
_TABLES = {
    "Table 2": ([f"{test} {rate}" for test, rate in product(("humaneval", "mbpp"), _RATES)], """
        7b            33.5 59.6 85.9  41.4 66.7 82.5
        13b           36.0 69.4 89.8  47.0 71.7 87.1
        34b           48.8 76.8 93.0  55.0 76.2 86.6
        70b           53.0 84.6 96.2  62.4 81.1 91.9
        7b-Instruct   34.8 64.3 88.1  44.4 65.4 76.8
        13b-Instruct  42.7 71.6 91.6  49.4 71.2 84.1
        34b-Instruct  41.5 77.2 93.5  57.0 74.6 85.4
        70b-Instruct  67.8 90.3 97.3  62.2 79.6 89.2
        7b-Python     38.4 70.3 90.6  47.6 70.3 84.8
        13b-Python    43.3 77.4 94.1  49.0 74.0 87.6
        34b-Python    53.7 82.8 94.7  56.2 76.4 88.2
        70b-Python    57.3 89.3 98.4  65.6 81.5 91.9"""),
    "Table 6": ([f"single_line {order}_exact_match" for order in ("psm", "spm")], """
        7b   67.6 72.7
        13b  68.3 74.5"""),
    "Table 8": (["mbpp_chat pass@1"], """
        7b-Instruct   37.4
        13b-Instruct  40.2"""),
    "Table 14": ([f"{kind} {order}_pass@1" for kind, order in product(
        ("single_line", "multi_line", "random_span"), ("psm", "spm"))], """
        7b   74.1 83.3  48.2 50.8  59.7 39.0
        13b  75.9 85.6  51.0 56.1  63.6 41.9"""),
    "Table 17": ([f"key_retrieval {cell}" for cell in _CELLS], """
        7b            100 95.3 100   54.7 100 98.4  3.1 85.9 85.9
        13b           100 100 100    100 100 100    100 89.1 6.3
        34b           76.6 100 100   95.3 96.9 100  81.3 0 81.3
        7b-Instruct   100 97.7 100   7.0 96.9 96.1  0 62.5 54.7
        13b-Instruct  100 100 100    100 100 93.8   4.7 84.4 100
        34b-Instruct  92.2 100 100   68.8 95.3 100  46.9 0 85.9"""),
}  # fmt: skip
FIGURES = {
    (f"CodeLlama-{variant}", measure): (float(figure), table)
    for table, (measures, rows) in _TABLES.items()
    for variant, *figures in map(str.split, rows.strip().splitlines())
    for measure, figure in zip(measures, figures, strict=True)
}
"""Figure and table by variant and measure, such as ("CodeLlama-7b", "humaneval pass@1")."""


def published(config: ModelConfig, measure: str, name: str = "") -> str:
    """The paper's figure for a model of this configuration, with its table; "" where it has none.

    Variants that only weights tell apart are all given, unless `name`, a directory's, is of one.
    """
    names = [variant.name for variant in matching(config)]
    names = [one for one in names if one.lower() == name.lower()] or names
    found = {one: FIGURES[one, measure] for one in names if (one, measure) in FIGURES}
    shown = [
        f"{one} {value}" if len(names) > 1 else f"{value}" for one, (value, _) in found.items()
    ]
    return f"{', '.join(shown)} ({next(iter(found.values()))[1]})" if found else ""
