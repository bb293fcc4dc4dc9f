"""Answers against what was measured: questions that no training has, in both languages.

    python -m benchmarks.answers [--model DIR_OR_ID] [--photographs DIR ...] [--output JSON]

`drawn`: facts of pictures that nobody took, one held-back question of each topic. `photographs`: sets of real ones
(folders with `train/good` and `test`), two references, held-back questions about what was measured there. `free`: the
questions of tests/conversations/free_questions.json, each about three pictures; `fresh`: those of
fresh_questions.json, by a writer who had seen three examples of each topic. No training has a question of either list,
but their figures were looked at beside those of `drawn`, by which the weights were chosen. `after_ten_turns`: the same
questions at the end of a conversation of ten. `names`: made names, asked for in held-back words: how many answers name
the part, and how many of those exactly.

An answer is right where it is the true one of its topic (conversations/answers_*.json), word for word, numbers
filled in. `follow_ups_told`: the fact asked for is in the answer, in the words of whatever topic, and nothing in it is
false. A contradiction is read from an answer's words (conversations/checking.py), whatever was asked.
"""

import argparse
import json
import pathlib
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measuring import RESULTS, ROOT, good_pair, photograph_sets, write_result
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.conversations.checking import contradictions, tells
from modeling_anomalygpt.conversations.grounded import (
    Question,
    draw_facts,
    draw_question,
    grounded_answer,
    load_answers,
    load_questions,
    named_place,
)
from modeling_anomalygpt.prompts import category_name, default_question
from modeling_anomalygpt.wording import MeasuredFacts
from recipes.tiny.drawn_evidence import draw_category, draw_evidence

LANGUAGES = ("en", "zh")
FREE_QUESTIONS = {name: ROOT / "tests" / "conversations" / f"{name}_questions.json" for name in ("free", "fresh")}
TOLD = ("where", "count", "size", "kind")
FOLLOW_UPS = (*TOLD, "object", "advice")
BATCH = 32
NAMES = 400
LONGEST = 80
Asked = tuple[MeasuredFacts, str, Question, tuple[str, ...]]


class Answers:
    """Asks a model about facts, many questions at a time."""

    def __init__(self, inspector: AnomalyInspector):
        self.inspector = inspector
        config = inspector.model.config
        with torch.inference_mode():
            self.unseen = inspector.model.model.embed_evidence(
                torch.zeros(1, config.projection_dim), torch.full((1, config.map_size, config.map_size), 0.3)
            )

    def __call__(self, asked: Sequence[Asked], tokens: Sequence[torch.Tensor | None]) -> list[str]:
        """The answer to each question; `None` for what is seen stands for an even map."""
        order = sorted(range(len(asked)), key=lambda index: (asked[index][1], len(asked[index][2].text)))
        answers = [""] * len(asked)
        for language in LANGUAGES:
            those = [index for index in order if asked[index][1] == language]
            for start in tqdm(range(0, len(those), BATCH), desc=f"asking {language}", leave=False):
                batch = those[start : start + BATCH]
                seen = torch.cat([self.unseen if tokens[i] is None else tokens[i] for i in batch])
                messages = [asked[i][2].messages for i in batch]
                facts = [asked[i][0] for i in batch]
                said, _ = self.inspector.dialogue.answer(messages, seen, language, LONGEST, facts)
                for index, answer in zip(batch, said, strict=True):
                    answers[index] = answer
        return answers


def is_right(answer: str, asked: Asked) -> bool:
    """Whether an answer is the true one of any topic that serves the question."""
    facts, language, question, topics = asked
    others = [replace(question, topic=topic) for topic in topics]
    return answer in {grounded_answer(one, facts, language) for one in others}


def is_told(answer: str, asked: Asked) -> bool:
    """Whether an answer in the language of the question tells the fact asked for."""
    facts, language, question, _ = asked
    same_language = bool(re.search("[\u4e00-\u9fff]", answer)) == (language == "zh")
    return question.topic in TOLD and same_language and tells(answer, question.topic, facts)


def drawn(pictures: int, rng: np.random.Generator) -> Iterator[Asked]:
    """One held-back question of each topic about each picture's facts."""
    for _ in range(pictures):
        _, truth = draw_evidence(rng, 56)
        facts = draw_facts(rng, tuple(truth.regions), truth.image_size, draw_category(rng))
        for language in LANGUAGES:
            for topic in load_questions(language):
                yield facts, language, draw_question(rng, topic, facts, language, held_back=True), (topic,)


def free(questions: pathlib.Path, rng: np.random.Generator) -> Iterator[Asked]:
    """The questions of a file, each about a normal picture, one with one place and one with several."""
    pictures = []
    while len(pictures) < 3:
        _, truth = draw_evidence(rng, 56)
        if min(len(truth.regions), 2) == len(pictures):
            facts = draw_facts(rng, tuple(truth.regions), truth.image_size, "bracket")
            if facts.verdict == ("anomalous" if truth.regions else "normal"):
                pictures.append(facts)
    for language, rows in json.loads(questions.read_text(encoding="utf-8")).items():
        for row in rows:
            place = named_place(row["place"]) if "place" in row else None
            before = Question(row["before"]["question"], row["before"]["topic"]) if "before" in row else None
            question = Question(row["question"], row["topics"][0], place, row.get("number"), before)
            for facts in pictures:
                yield facts, language, question, tuple(row["topics"])


def photographed(
    inspector: AnomalyInspector, folder: pathlib.Path, pictures: int, rng: np.random.Generator
) -> Iterator[tuple[Asked, torch.Tensor]]:
    """Questions about photographs of a set: the usual one first, then a held-back one of each topic."""
    inspector.set_references(good_pair(folder, rng), category=folder.name)
    test = sorted(path for path in (folder / "test").rglob("*") if path.is_file())
    for path in [test[index] for index in rng.permutation(len(test))[:pictures]]:
        result = inspector.inspect(path, answer=False)
        for language in LANGUAGES:
            asked = [Question(default_question(language), "presence")]
            asked += [
                draw_question(rng, topic, result.facts, language, held_back=True) for topic in load_questions(language)
            ]
            for question in asked:
                yield (result.facts, language, question, (question.topic,)), result.image_tokens


def shares(asked: Sequence[Asked], answers: Sequence[str]) -> dict[str, dict[str, float | int]]:
    """Right answers by topic and language, the worst topic, and contradictions of all."""
    right: dict[str, list[bool]] = defaultdict(list)
    wrong = []
    for one, answer in zip(asked, answers, strict=True):
        _, language, question, _ = one
        ok = is_right(answer, one)
        for name in (f"{question.topic}_{language}", language, "all"):
            right[name].append(ok)
        if question.topic in FOLLOW_UPS:
            right["follow_ups"].append(ok)
            right["follow_ups_told"].append(ok or is_told(answer, one))
        if kinds := contradictions(answer, one[0]):
            wrong.append([*kinds, question.topic, question.text, answer])
    rows = {name: {"right": round(float(np.mean(values)), 3), "asked": len(values)} for name, values in right.items()}
    of_the_verdict = sum("verdict" in one for one in wrong)
    rows["contradictions"] = {"found": len(wrong), "verdict": of_the_verdict, "asked": len(answers), "answers": wrong}
    return dict(sorted(rows.items()))


def after_ten_turns(ask: Answers, asked: Sequence[Asked], answers: Sequence[str]) -> dict[str, float | int]:
    """The same questions at the end of conversations of ten turns: how many are right, before and after.

    The turns before are ten of the other questions in the same language, each time others.
    """
    dialogue, first, last = ask.inspector.dialogue, 0, 0
    pairs = list(zip(asked, answers, strict=True))
    for number, (one, answer) in enumerate(tqdm(pairs, desc="ten turns", leave=False)):
        others = [pair for pair in [*pairs[number + 1 :], *pairs[:number]] if pair[0][1] == one[1]][:10]
        history = [
            {"role": role, "content": text}
            for (_, _, question, _), said in others
            for role, text in (("user", question.text), ("assistant", said))
        ]
        first += is_right(answer, one)
        last += is_right("".join(dialogue.stream([*history, *one[2].messages], ask.unseen, LONGEST, one[0])), one)
    return {"first": round(first / len(asked), 3), "last": round(last / len(asked), 3), "asked": len(asked)}


def names(ask: Answers, rng: np.random.Generator) -> dict[str, float | int]:
    """Made names, asked for: how many answers name the part, and how many of those name it as it was given."""
    asked: list[Asked] = []
    for _ in range(NAMES):
        name = draw_category(rng)
        language = "en" if name.isascii() else "zh"
        facts = MeasuredFacts("normal", ratio=0.4, num_references=2, category=name)
        asked.append((facts, language, draw_question(rng, "object", facts, language, held_back=True), ("object",)))
    exact = []
    for (facts, language, *_), answer in zip(asked, ask(asked, [None] * NAMES), strict=True):
        if (said := said_name(answer, language)) is not None:
            exact.append(said == category_name(facts.category, language))
    return {"named": len(exact), "copied": round(float(np.mean(exact)), 3), "asked": NAMES}


def said_name(answer: str, language: str) -> str | None:
    """What an answer calls the part, right or wrong; `None`: it names none.

    Example:
    ```python
    >>> said_name("It is called wing nut here; I have that from you.", "en")
    'wing nut'
    >>> said_name("No, there is no anomaly in the image.", "en")

    ```
    """
    for cases in load_answers(language).values():
        for words in cases.values():
            before, name, after = words.partition("@name")
            begins, ends = (re.compile("@[a-z]+").split(part) for part in (before, after))
            pattern = ".+?".join(map(re.escape, begins)) + "(.+?)" + ".+?".join(map(re.escape, ends))
            if name and (found := re.fullmatch(pattern, answer)):
                return found[1]
    return None


def measure(inspector: AnomalyInspector, options: argparse.Namespace) -> dict[str, dict]:
    """All rows."""
    rng, ask = np.random.default_rng(11), Answers(inspector)
    rows = {}
    parts = {"drawn": list(drawn(options.pictures, rng))}
    parts |= {name: list(free(path, rng)) for name, path in FREE_QUESTIONS.items()}
    for name, asked in parts.items():
        answers = ask(asked, [None] * len(asked))
        rows[name] = shares(asked, answers)
        if name == "drawn":
            some = rng.permutation(len(asked))[: options.turns]
            rows["after_ten_turns"] = after_ten_turns(ask, [asked[i] for i in some], [answers[i] for i in some])
    rows["names"] = names(ask, np.random.default_rng([11, 1]))
    sets = photograph_sets(options.photographs)
    together: tuple[list, list] = ([], [])
    for folder in tqdm(sets, desc="sets"):
        rng = np.random.default_rng([11, zlib.crc32(folder.name.encode())])  # of a set the same in every run
        asked, tokens = zip(*photographed(inspector, folder, options.pictures_of_a_set, rng), strict=True)
        answers = ask(asked, tokens)
        rows[f"photographs {folder.name}"] = {"all": shares(asked, answers)["all"]}
        together[0].extend(asked)
        together[1].extend(answers)
    if sets:
        rows["photographs"] = shares(*together)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__, formatter_class=plain)
    parser.add_argument("--model", help="folder or Hub id, or small (default: the embedded checkpoint)")
    parser.add_argument("--pictures", type=int, default=20, help="pictures whose facts are drawn (default: 20)")
    parser.add_argument("--turns", type=int, default=100, help="questions asked after ten turns (default: 100)")
    parser.add_argument("--photographs", type=pathlib.Path, nargs="*", default=[], help="folders with sets")
    parser.add_argument("--pictures-of-a-set", type=int, default=6, help="of each set (default: 6)")
    parser.add_argument("--output", type=pathlib.Path, help="default: benchmarks/results/answers[_small].json")
    options = parser.parse_args(arguments)
    rows = measure(AnomalyInspector.from_pretrained(options.model), options)
    suffix = "" if options.model is None else f"_{pathlib.Path(options.model).name}"
    write_result(options.output or RESULTS / f"answers{suffix}.json", rows)
    shown = ("all", "follow_ups", "follow_ups_told", "contradictions", *LANGUAGES)
    for name, row in rows.items():
        brief = {key: value for key, value in row.items() if key in shown}
        print(name, json.dumps(brief or row))


if __name__ == "__main__":
    main()
