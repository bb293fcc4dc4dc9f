"""Follow-up questions against facts on rendered families that no training picture shows, in both languages.

    python -m benchmarks.followup_quality [--model DIR_OR_ID] [--products 8] [--k-shot 2] [--output JSON]

Of each held-back family, --products products with --k-shot references, two good and two defective queries. After the
main question the same conversation goes on with one question of each topic; the answer is read back and compared:

place: exactly the cells of the mask. count: the number of its regions. kind: the kind that was drawn ("alike": at
least none that surely is not there). size: both sides of the largest region within a quarter or 10 pixels. object: the
name of the object. place_check, kind_check: yes or no. unknowable: a question the picture cannot answer is refused;
unheard: so is one that no training conversation holds. `verdict_right` counts pictures with a right verdict alone.
"""

import argparse
import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from benchmarks.rendered_quality import held_back_products
from datasets_scripts import HELD_BACK_FAMILIES
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.conversations.facts import Facts, absent_kinds
from modeling_anomalygpt.conversations.instructions import TOPICS, Speaker
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.conversations.word_metrics import parse_count, parse_positions, parse_presence
from modeling_anomalygpt.prompts import category_name
from modeling_anomalygpt.regions import regions_of_mask

LANGUAGES = ("en", "zh")
ASKED = ("where", "count", "kind", "size", "object", "place_check", "kind_check", "unknowable")
UNHEARD = {  # of forms that neither the conversations nor recipes/tiny/unknowable_questions.py have
    "en": (
        "Can you read me its maintenance log?",
        "Do our competitors use the same one?",
        "Should I invest in this company?",
        "How far did it travel to get here?",
        "Could it survive a fall from the table?",
        "Does it smell of oil?",
    ),
    "zh": (
        "能念一下它的保养记录吗？",
        "竞争对手也用同样的吗？",
        "这家公司值得投资吗？",
        "它是从多远的地方运来的？",
        "从桌上摔下来会坏吗？",
        "闻起来有油味吗？",
    ),
}
_KINDS = {language: load_phrases(language)["kinds"] for language in LANGUAGES}
_REFUSALS = {language: load_phrases(language)["answers"]["unknowable"] for language in LANGUAGES}


def named_kinds(answer: str, language: str) -> set[str]:
    """The kinds of defect that an answer names."""
    found = set()
    for kind, words in _KINDS[language].items():
        if any(re.search(rf"\b{word}\b" if language == "en" else word, answer) for word in words):
            found.add(kind)
    return found


def named_size(answer: str) -> tuple[int, int] | None:
    """Width and height in pixels that an answer gives."""
    found = re.search(r"(\d+) ?x ?(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else None


def agrees(topic: str, answer: str, expected: str, facts: Facts, language: str) -> dict[str, bool]:
    """Whether an answer says what the facts say: one verdict, for kinds a milder one as well."""
    if topic in ("unknowable", "unheard"):
        return {topic: answer in _REFUSALS[language]}
    if topic == "where":
        return {topic: parse_positions(answer) == parse_positions(expected)}
    if topic == "count":
        return {topic: parse_count(answer) == parse_count(expected)}
    if topic in ("place_check", "kind_check"):
        return {topic: parse_presence(answer) == parse_presence(expected)}
    if topic == "object":
        return {topic: category_name(facts.category, language) in answer}
    if topic == "size":
        true, said = named_size(expected), named_size(answer)
        if true is None or said is None:
            return {topic: true == said}
        return {topic: all(abs(a - b) <= max(10, b / 4) for a, b in zip(said, true, strict=True))}
    said, true = named_kinds(answer, language), set(facts.kinds)
    return {"kind": said == true, "kind_alike": bool(said) == bool(true) and not said & set(absent_kinds(facts.kinds))}


def measure(inspector: AnomalyInspector, family: str, products: int, k_shot: int, seed: int) -> dict[str, list]:
    """For each topic and language, pairs (the answer agrees, the verdict was right)."""
    outcome, rng = defaultdict(list), np.random.default_rng([seed, 8])
    for references, parts in tqdm(held_back_products(family, products, k_shot, seed), total=products, desc=family):
        inspector.set_references(references, category=family.replace("_", " "))
        for part in parts:
            facts = Facts(family, part.mask.shape, regions_of_mask(part.mask), [part.defect_type])
            for language in LANGUAGES:
                result = inspector.inspect(part.image, language=language)
                right = (result.log_odds > 0) == facts.anomalous
                asked = {topic: TOPICS[topic](Speaker(facts, language, rng)) for topic in ASKED}
                asked["unheard"] = (str(rng.choice(UNHEARD[language])), "")
                asked = {topic: turn for topic, turn in asked.items() if turn is not None}
                turns = [[*result.conversation, {"role": "user", "content": asking}] for asking, _ in asked.values()]
                tokens = result.image_tokens.expand(len(turns), -1, -1)
                answers, _ = inspector.dialogue.answer(turns, tokens, language, max_new_tokens=64)
                for (topic, (_, expected)), answer in zip(asked.items(), answers, strict=True):
                    for name, agreed in agrees(topic, answer, expected, facts, language).items():
                        outcome[f"{name}_{language}"].append((agreed, right))
    return outcome


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.followup_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--products", type=int, default=8)
    parser.add_argument("--k-shot", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results" / "followup_quality.json"
    )
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    pairs, rows = defaultdict(list), {}
    for family in HELD_BACK_FAMILIES:
        for name, values in measure(inspector, family, options.products, options.k_shot, options.seed).items():
            pairs[name] += values
    for name, values in pairs.items():
        agreed, right = np.array(values, bool).T
        rows[name] = {
            "agree": round(float(agreed.mean()), 3),
            "verdict_right": round(float(agreed[right].mean()), 3),
            "asked": len(values),
        }
    for part in ("agree", "verdict_right"):
        rows.setdefault("mean", {})[part] = round(
            float(np.mean([row[part] for row in rows.values() if part in row])), 3
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
