"""Conversations of twelve turns about ten photographs, in both languages, as they are printed: docs/conversations.md.

    python -m benchmarks.conversations --photographs DIR [--models embedded small]

Of each of five sets (folders with `train/good` and `test`) a good and a bad test picture, two references. Nothing is
chosen by hand: the pictures are drawn with a fixed seed.
"""

import argparse
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.measuring import ROOT, good_pair, photograph_sets
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.conversations.checking import contradictions
from modeling_anomalygpt.files import write_atomically

PAGE = ROOT / "docs" / "conversations.md"
MODELS = {"embedded": None, "small": "small"}
QUESTIONS = {
    "en": (
        "Where exactly?",
        "How big is it?",
        "What sort of damage is that?",
        "Would you throw it away?",
        "How certain are you about this?",
        "What are you comparing it to?",
        "Anything odd in the lower right corner?",
        "Which supplier delivered it?",
        "Isn't that just a reflection?",
        "What do I tell the operator?",
        "Put it in one sentence for my report.",
    ),
    "zh": (
        "具体在什么地方？",
        "它有多大？",
        "这是哪一类损伤？",
        "要不要报废？",
        "你有多大把握？",
        "你是跟什么对比的？",
        "右下角有没有异样？",
        "是哪家供应商送来的？",
        "会不会只是反光？",
        "我该让操作员怎么做？",
        "用一句话概括，写进报告。",
    ),
}
_HEAD = """# Conversations

Ten photographs, twelve turns each, in both languages, as printed by
`python -m benchmarks.conversations --photographs ../shared/data/inspection --models embedded small`. Pictures were
drawn with a fixed seed and nothing was left out. Verdicts are the checkpoint's, right or wrong; `contradicts` marks
answers that do not agree with what was measured.
"""


def chosen_pictures(folder: pathlib.Path) -> Iterator[tuple[list[pathlib.Path], pathlib.Path, bool]]:
    """References, a test picture, whether it is good: one good and one bad picture of each of five sets."""
    for one in photograph_sets([folder])[:5]:
        rng = np.random.default_rng(5)
        references = good_pair(one, rng)
        test = sorted(path for path in (one / "test").rglob("*") if path.is_file())
        for is_good in (False, True):
            those = [path for path in test if (path.parent.name == "good") == is_good]
            yield references, those[int(rng.integers(len(those)))], is_good


def told(inspector: AnomalyInspector, folder: pathlib.Path) -> Iterator[str]:
    """The page's lines for one model."""
    for references, picture, is_good in chosen_pictures(folder):
        name = next(part for part in reversed(picture.relative_to(folder).parts[:-1]) if part not in ("good", "test"))
        category = picture.relative_to(folder).parts[0]
        inspector.set_references(references, category=category.replace("_", " "))
        for language in QUESTIONS:
            result = inspector.inspect(picture, language=language)
            kind = "good" if is_good else name
            yield f"### {category}, {kind}: {result.verdict} ({result.pred_score:.2f}), {language}\n"
            for question in QUESTIONS[language]:
                inspector.ask(result, question)
            for message in result.conversation:
                wrong = message["role"] == "assistant" and contradictions(message["content"], result.facts)
                mark = f" **contradicts: {', '.join(wrong)}**" if wrong else ""
                yield f"{'- ' if message['role'] == 'user' else '  - '}{message['content']}{mark}"
            yield ""


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.conversations", description=__doc__, formatter_class=plain)
    parser.add_argument("--photographs", type=pathlib.Path, required=True, help="folder with sets")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["embedded"])
    parser.add_argument("--output", type=pathlib.Path, default=PAGE)
    options = parser.parse_args(arguments)
    lines = [_HEAD]
    for name in options.models:
        lines += [f"## {name}\n", *told(AnomalyInspector.from_pretrained(MODELS[name]), options.photographs)]
    write_atomically(options.output, "\n".join(lines))
    print(f"-> {options.output}")


if __name__ == "__main__":
    main()
