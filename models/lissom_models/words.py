"""What the rendered lines say: one word after the other, drawn from a generator of random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

_VOCABULARY: Final = (
    "account address amount answer april august autumn balance basket before better bridge button camera castle "
    "centre change chapter city clear coffee colour copper corner country credit dealer delivery desert district "
    "doctor dozen during eastern edition engine evening example factor family february figure flight forest freight "
    "garden general glass graph green group harbour height history hotel house image indigo invoice island january "
    "journey kernel kitchen ladder language layer letter library light london machine manual market matrix meadow "
    "member middle minute modern morning mountain museum network north notice number object october office orange "
    "order oxygen paper parcel passage payment pencil people picture planet please police postage printer process "
    "project quality quarter quick railway random receipt record region report return river sample school season "
    "second section sector service shadow signal silver simple south spring square station status street student "
    "summer supply system table tariff tender theory ticket timber total train travel under update value vector "
    "village visitor volume weather western window winter wonder yellow zone"
)
_WORDS: Final = _VOCABULARY.split()
_WORD_SHARE: Final = 0.7
_CASES: Final[Sequence[Callable[[str], str]]] = (str.lower, str.capitalize, str.upper)
_CASE_SHARES: Final = (0.5, 0.35, 0.15)
_ENDS: Final = ("", ",", ".", ":", "?", "!", ";")
_END_SHARES: Final = (0.76, 0.07, 0.07, 0.04, 0.02, 0.02, 0.02)
_NUMBERS: Final[Sequence[Callable[[np.random.Generator], str]]] = (
    lambda rng: str(rng.integers(10, 100_000)),
    lambda rng: f"{rng.uniform(0, 100):.2f}",
    lambda rng: f"{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}",
    lambda rng: f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1950, 2030)}",
    lambda rng: f"{rng.integers(2, 100)}%",
    lambda rng: f"${rng.uniform(1, 500):.2f}",
    lambda rng: f"#{rng.integers(100, 10_000)}",
    lambda rng: f"{'ABCDEFGHKMNPRSTUVWXYZ'[rng.integers(21)]}{rng.integers(2, 100)}-{rng.integers(100, 1000)}",
    lambda rng: f"({rng.integers(2, 100)})",
)


def word(rng: np.random.Generator) -> str:
    """A word, a number, a date, an amount or a code, some with punctuation behind them."""
    if rng.uniform() >= _WORD_SHARE:
        return _NUMBERS[int(rng.integers(len(_NUMBERS)))](rng)
    in_case = _CASES[int(rng.choice(len(_CASES), p=_CASE_SHARES))]
    return in_case(str(rng.choice(_WORDS))) + str(rng.choice(_ENDS, p=_END_SHARES))
