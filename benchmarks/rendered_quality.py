"""Words against facts on rendered families that no training picture shows: yes or no, places, counts, both languages.

    python -m benchmarks.rendered_quality [--model DIR_OR_ID] [--products 12] [--k-shot 2] [--output JSON]

Of each held-back family, --products products with --k-shot references, two good and two defective queries. Presence is
the sign of the log-odds; places count as right when they are exactly those of the mask; counts likewise.
"""

import argparse
import json
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from datasets_scripts import HELD_BACK_FAMILIES, RenderedPart, render_product
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.conversations.facts import Facts
from modeling_anomalygpt.conversations.instructions import fixed_turn
from modeling_anomalygpt.conversations.word_metrics import parse_count, parse_positions, parse_presence
from modeling_anomalygpt.regions import regions_of_mask


def held_back_products(
    family: str, products: int, k_shot: int, seed: int
) -> Iterator[tuple[list[np.ndarray], list[RenderedPart]]]:
    """References and four queries (good, defective, good, defective) of each product of a family."""
    for index in range(products):
        rng = np.random.default_rng([seed, 7, index])
        product = render_product(family, rng)
        references = [product.photograph(rng).image for _ in range(k_shot)]
        yield references, [product.photograph(rng, defect="random" if query % 2 else None) for query in range(4)]


def measure(inspector: AnomalyInspector, family: str, products: int, k_shot: int, seed: int) -> dict[str, list]:
    """Right or wrong (1 or 0) for each thing asked, and scores with labels."""
    outcome = defaultdict(list)
    for references, parts in tqdm(held_back_products(family, products, k_shot, seed), total=products, desc=family):
        inspector.set_references(references, category=family.replace("_", " "))
        for part in parts:
            facts = Facts(family, part.mask.shape, regions_of_mask(part.mask), [part.defect_type])
            for language in ("en", "zh"):
                result = inspector.inspect(part.image, language=language)
                truth = bool(part.mask.any())
                outcome[f"yes_no_{language}"].append((result.log_odds > 0) == truth)
                outcome[f"text_agrees_{language}"].append(parse_presence(result.answer) == (result.log_odds > 0))
                if truth and result.log_odds > 0:
                    asked = {topic: fixed_turn(facts, topic, language) for topic in ("where", "count")}
                    positions = parse_positions(inspector.ask(result, asked["where"][0]))
                    outcome[f"places_{language}"].append(positions == parse_positions(asked["where"][1]))
                    count = parse_count(inspector.ask(result, asked["count"][0]))
                    outcome[f"count_{language}"].append(count == parse_count(asked["count"][1]))
            outcome["labels"].append(truth)
            outcome["scores"].append(result.pred_score)
    return outcome


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rendered_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--products", type=int, default=12)
    parser.add_argument("--k-shot", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results" / "rendered_quality.json"
    )
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    rows = {}
    for family in HELD_BACK_FAMILIES:
        outcome = measure(inspector, family, options.products, options.k_shot, options.seed)
        labels, scores = outcome.pop("labels"), outcome.pop("scores")
        rows[family] = {"image_auroc": round(roc_auc_score(labels, scores), 3)} | {
            name: {"right": round(float(np.mean(values)), 3), "asked": len(values)} for name, values in outcome.items()
        }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
