"""Whether an answer contradicts what was measured: read back from its words, not from how it was made.

For training data, tests and benchmarks; nothing is checked when the model answers.
"""

import re

from ..wording import MeasuredFacts
from .word_metrics import parse_positions

# What claims that there is no anomaly, and what claims that there is one.
_CLAIMS = {
    "normal": re.compile(
        r"\bno anomaly\b(?! [a-z]+ than)|looks as good ones do|nothing (differs|of the kind|speaks against)"
        r"|nothing wrong there, nor|found nothing|measured no difference|it is fine\b|no place differs"
        r"|shows the same as the good|no more than the good pictures"
        r"|没有异常[，。]|没有缺陷|与良品一样|可以放行|没有任何地方|一处也没有|什么异常都没有|没有不同之处|它是好的|没有这种缺陷"
        r"|没有测到超出|不超过良品之间|那里没有异常，别处"
    ),
    "anomalous": re.compile(
        r"\bthere (is an|are \w+) anomal|^yes, there|\bit is not fine"
        r"|(?<!how far it )(?<!place )\bdiffers? from the good"
        r"|one anomaly\b|do not pass it on|the anomal(y is|ies are) at|measured (a )?differences? at|something differs"
        r"|more than the good pictures do|nothing but the"
        r"|(?<!没)有异常[，。]|(?<!没)有一处异常|(?<!没)有\w+处异常|与良品(图片)?不同|不是好的|不要直接放行|(?<!没有)测到了差异|异常在"
    ),
}
_NOT_THERE = re.compile(r"nothing wrong there; |那里没有异常，异常在")
_SIZE = re.compile(r"(\d+) x (\d+) (?:pixels|像素)")
_TIMES = re.compile(r"([\d.]+) ?(?:times|倍)")


def contradictions(answer: str, facts: MeasuredFacts) -> list[str]:
    """What of an answer is not so.

    Args:
        answer (`str`): In English or Chinese.
        facts ([`MeasuredFacts`]): Of the picture.

    Returns:
        `list[str]`: One word for each contradiction: `"verdict"`, `"place"`, `"size"`, `"ratio"`, `"field"` (something
        was not filled in); empty where there is none.

    Example:
    ```python
    >>> contradictions("Yes, there is an anomaly in the image.", MeasuredFacts("normal"))
    ['verdict']

    ```
    """
    found, text = [], answer.casefold()
    plain = _NOT_THERE.sub("", text)  # "nothing wrong there; the anomaly is at ..." denies one place only
    claimed = {verdict for verdict, form in _CLAIMS.items() if form.search(plain)}
    if claimed - {facts.verdict}:
        found.append("verdict")
    if parse_positions(answer) - {region.position for region in facts.regions}:
        found.append("place")
    sizes = {(region.width, region.height) for region in facts.regions}
    if {(int(width), int(height)) for width, height in _SIZE.findall(answer)} - sizes:
        found.append("size")
    if any(abs(float(said) - facts.ratio) > 0.06 * max(facts.ratio, 0.1) for said in _TIMES.findall(answer)):
        found.append("ratio")
    if "@" in answer or re.search(r"at the [.,;]|：。|在。|  ", answer):
        found.append("field")
    return found


__all__ = ["contradictions"]
