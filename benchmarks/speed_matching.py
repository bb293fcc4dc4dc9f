"""Matching a picture's patches with a memory bank: the broadcast cosine, chunked products, growth.

    python -m benchmarks.speed_matching [--rounds 5] [--width 1280]

References stand with their three turned copies, so k references are 4 k pictures of 256 patches. The last line printed
is the result as JSON.
"""

import argparse
import json
from functools import partial

import torch
from torch.nn import functional

from benchmarks.measuring import extra_memory, in_turns, ratio, summary
from modeling_anomalygpt.memory_bank import best_matches, unit_length

PATCHES, COPIES = 256, 4
BROADCAST_COPIES = 3  # arrays of (256, patches, width) that `cosine_similarity` holds at once, measured


def broadcast_scores(query: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """The original's way: best cosine of each of `(num_queries, dim)` among `(num_patches, dim)`, all pairs held."""
    return functional.cosine_similarity(query.unsqueeze(1), good.unsqueeze(0), dim=2).max(dim=1).values


def matching(width: int, rounds: int, memory_limit: float, generator: torch.Generator) -> list[dict]:
    """Time and memory of one layer of one picture at k = 1, 4, 16."""
    query = unit_length(torch.randn(PATCHES, width, generator=generator))
    rows = []
    for k in (1, 4, 16):
        needed = BROADCAST_COPIES * 4 * PATCHES * k * COPIES * PATCHES * width
        if needed > memory_limit:
            rows.append({"k": k, "not_run": f"the broadcast needs {needed / 1e9:.0f} GB"})
            continue
        bank = unit_length(torch.randn(k * COPIES * PATCHES, width, generator=generator))
        torch.testing.assert_close(best_matches(query, bank)[0], broadcast_scores(query, bank))
        calls = {"broadcast": partial(broadcast_scores, query, bank), "ours": partial(best_matches, query, bank)}
        times = in_turns(calls, rounds if k < 16 else 1)
        # What an earlier call has freed is used again and does not show: at least the similarities of one chunk.
        least = 4 * len(query) * min(len(bank), 2**24 // len(query))
        memory = {name: max(extra_memory(call), least) for name, call in calls.items()}
        ratios = {"time_ratio": ratio(times["broadcast"], times["ours"])}
        ratios["memory_ratio"] = round(memory["broadcast"] / memory["ours"], 1)
        each = {name: summary(times[name]) for name in ("ours", "broadcast")}
        rows.append({"k": k, "bank_patches": len(bank), **ratios, "extra_bytes": memory, **each})
    return rows


def growth(width: int, rounds: int, generator: torch.Generator) -> list[dict]:
    """Our matching with up to 256 references (no turned copies)."""
    query = unit_length(torch.randn(PATCHES, width, generator=generator))
    rows = []
    for k in (1, 4, 16, 64, 256):
        bank = unit_length(torch.randn(k * PATCHES, width, generator=generator))
        ours = partial(best_matches, query, bank)
        times, memory = in_turns({"ours": ours}, rounds)["ours"], extra_memory(ours)
        rows.append({"k": k, **summary(times), "extra_bytes": memory, "bank_bytes": bank.numel() * 4})
    return rows


@torch.inference_mode()
def main() -> None:
    """Runs the comparisons and prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_matching", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=1280, help="width of a patch vector; ImageBind-Huge: 1280")
    parser.add_argument("--memory-limit", type=float, default=18e9, help="bytes; a broadcast beyond it is not run")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    result = {
        "width": options.width,
        "threads": torch.get_num_threads(),
        "matching": matching(options.width, options.rounds, options.memory_limit, generator),
        "growth": growth(options.width, options.rounds, generator),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
