"""Answers against facts on rendered families that no training picture shows, in both languages.

    python -m benchmarks.answers [--model DIR_OR_ID] [--products 8] [--k-shot 2] [--output JSON]

Of each held-back family, --products products with --k-shot references, two good and two defective queries. First, a
family a row: image AUROC, presence (the sign of the log-odds), whether the text says the same, and, where the verdict
is rightly "anomalous", places (exactly those of the mask) and number. Then the conversation goes on with one question
of each topic, and the answer is read back and compared:

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
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from benchmarks.measuring import RESULTS
from datasets_scripts import HELD_BACK_FAMILIES, RenderedPart, render_product
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.conversations.facts import Facts, absent_kinds
from modeling_anomalygpt.conversations.instructions import TOPICS, Speaker, fixed_turn
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.conversations.word_metrics import parse_count, parse_positions, parse_presence
from modeling_anomalygpt.evaluation.metrics import auroc
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.prompts import category_name
from modeling_anomalygpt.regions import regions_of_mask
from modeling_anomalygpt.results import InspectionResult

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


def held_back_products(
    family: str, products: int, k_shot: int, seed: int
) -> Iterator[tuple[list[np.ndarray], list[RenderedPart]]]:
    """References and four queries (good, defective, good, defective) of each product of a family."""
    for index in range(products):
        rng = np.random.default_rng([seed, 7, index])
        product = render_product(family, rng)
        references = [product.photograph(rng).image for _ in range(k_shot)]
        yield references, [product.photograph(rng, defect="random" if query % 2 else None) for query in range(4)]


def main_answer(inspector: AnomalyInspector, result: InspectionResult, facts: Facts, language: str) -> dict[str, bool]:
    """Whether presence, text, places and number of the first answers are right."""
    right = {
        f"yes_no_{language}": (result.log_odds > 0) == facts.anomalous,
        f"text_agrees_{language}": parse_presence(result.answer) == (result.log_odds > 0),
    }
    if facts.anomalous and result.log_odds > 0:
        for name, topic, read in (("places", "where", parse_positions), ("count", "count", parse_count)):
            question, expected = fixed_turn(facts, topic, language)
            conversation = list(result.conversation)
            right[f"{name}_{language}"] = read(inspector.ask(result, question)) == read(expected)
            result.conversation = conversation
    return right


def follow_ups(
    inspector: AnomalyInspector, result: InspectionResult, facts: Facts, language: str, rng: np.random.Generator
) -> dict[str, bool]:
    """Whether the answer to one question of each topic agrees with the facts."""
    asked = {topic: TOPICS[topic](Speaker(facts, language, rng)) for topic in ASKED}
    asked["unheard"] = (str(rng.choice(UNHEARD[language])), "")
    asked = {topic: pair for topic, pair in asked.items() if pair is not None}
    messages = [[*result.conversation, {"role": "user", "content": question}] for question, _ in asked.values()]
    tokens = result.image_tokens.expand(len(messages), -1, -1)
    answers, _ = inspector.dialogue.answer(messages, tokens, language, max_new_tokens=64)
    right = {}
    for (topic, (_, expected)), answer in zip(asked.items(), answers, strict=True):
        right |= agrees(topic, answer, expected, facts, language)
    return {f"{name}_{language}": agreed for name, agreed in right.items()}


def measure(
    inspector: AnomalyInspector, family: str, products: int, k_shot: int, topics: dict[str, list]
) -> dict[str, dict]:
    """The row of a family; pairs (the answer agrees, the verdict was right) are added to the topics."""
    right, rng = defaultdict(list), np.random.default_rng(8)
    labels, scores = [], []
    for references, parts in tqdm(held_back_products(family, products, k_shot, 0), total=products, desc=family):
        inspector.set_references(references, category=family.replace("_", " "))
        for part in parts:
            facts = Facts(family, part.mask.shape, regions_of_mask(part.mask), [part.defect_type])
            for language in LANGUAGES:
                result = inspector.inspect(part.image, language=language)
                for name, value in main_answer(inspector, result, facts, language).items():
                    right[name].append(value)
                for name, value in follow_ups(inspector, result, facts, language, rng).items():
                    topics[name].append((value, right[f"yes_no_{language}"][-1]))
            labels.append(int(facts.anomalous))
            scores.append(result.pred_score)
    return {"image_auroc": round(auroc(labels, scores), 3)} | {
        name: {"right": round(float(np.mean(values)), 3), "asked": len(values)} for name, values in right.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__, formatter_class=plain)
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--products", type=int, default=8)
    parser.add_argument("--k-shot", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / "answers.json")
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    pairs, families, topics = defaultdict(list), {}, {}
    for family in HELD_BACK_FAMILIES:
        families[family] = measure(inspector, family, options.products, options.k_shot, pairs)
    for name, values in pairs.items():
        agreed, right = np.array(values, bool).T
        means = {"agree": agreed.mean(), "verdict_right": agreed[right].mean()}
        topics[name] = {part: round(float(value), 3) for part, value in means.items()} | {"asked": len(values)}
    parts = ("agree", "verdict_right")
    topics["mean"] = {part: round(float(np.mean([row[part] for row in topics.values()])), 3) for part in parts}
    text = json.dumps({"families": families, "topics": topics}, indent=1) + "\n"
    write_atomically(options.output, text)
    print(text)


if __name__ == "__main__":
    main()
