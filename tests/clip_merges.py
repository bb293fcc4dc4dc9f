"""A merge list of CLIP's size that holds only the merges our prompts need, each at its published rank.

`fixtures/clip_merges_used.txt` is an excerpt of OpenAI's bpe_simple_vocab_16e6.txt (MIT licence,
https://github.com/openai/CLIP). All other ranks are filled with pairs that no text contains, so that ids stay.
"""

import itertools
from pathlib import Path

NUM_MERGES = 48894
USED = Path(__file__).parent / "fixtures" / "clip_merges_used.txt"


def write_merges(path: Path) -> Path:
    """Write the list in the layout of CLIP's file, unpacked; returns the path."""
    used = {int(rank): merge for rank, _, merge in (line.partition("\t") for line in USED.read_text().splitlines())}
    # Characters that stand for control bytes, which normalized text never has.
    control = [chr(256 + i) for i in range(32)]
    singles = itertools.product(control, control, ("", "</w>"))
    fillers = [(first, second + end) for first, second, end in singles]
    words = [first + second for first, second in fillers if not second.endswith("</w>")]
    fillers += [(word, other + end) for word, other, end in itertools.product(words, control, ("", "</w>"))]
    remaining = iter(fillers)
    merges = [used.get(rank) or " ".join(next(remaining)) for rank in range(NUM_MERGES)]
    path.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return path
