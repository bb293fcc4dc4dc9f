"""Whether an answer contradicts what was measured: read back from its words, not from how it was made.

For training data, tests and benchmarks; nothing is checked when the model answers.
"""

import re

from ..prompts import category_name
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
        r"|more than the good pictures do|nothing but the|what i found is at"
        r"|(?<!没)有异常[，。]|(?<!没)有一处异常|(?<!没)有\w+处异常|与良品(图片)?不同|不是好的|不要直接放行|(?<!没有)测到了差异|异常在|我发现的在"
    ),
}
# What an answer says of one place; "in the top third" is the whole side, "at the top" the cell in its middle.
_ONE_PLACE = {
    "en": re.compile(
        r"^there is (?P<found>an anomaly|nothing wrong) (?:at|in) the (?P<place>[a-z ]+?)(?P<side> third)?:"
    ),
    "zh": re.compile(r"^(?P<place>[上下左右中][\w]{1,2}?)(?P<side>三分之一处)?(?P<found>没有异常|有异常)："),
}
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
    for language in ("en", "zh") if facts.named else ():  # "right bracket" is a name, no place
        answer = answer.replace(category_name(facts.category, language), "it")
    found, text = [], answer.casefold()
    one_place = _ONE_PLACE["en"].search(text) or _ONE_PLACE["zh"].search(text)
    others = text[one_place.end() :] if one_place else text
    claimed = {verdict for verdict, form in _CLAIMS.items() if form.search(others)}
    if claimed - {facts.verdict}:
        found.append("verdict")
    wrong = parse_positions(others) - {region.position for region in facts.regions}
    if wrong or (one_place and not _holds(one_place, facts)):
        found.append("place")
    sizes = {(region.width, region.height) for region in facts.regions}
    if {(int(width), int(height)) for width, height in _SIZE.findall(answer)} - sizes:
        found.append("size")
    if any(abs(float(said) - facts.ratio) > 0.06 * max(facts.ratio, 0.1) for said in _TIMES.findall(answer)):
        found.append("ratio")
    if "@" in answer or re.search(r"at the [.,;]|：。|在。|  ", answer):
        found.append("field")
    return found


def _holds(said: re.Match, facts: MeasuredFacts) -> bool:
    """Whether what an answer says of one place is so."""
    names = parse_positions(said["place"])
    if len(names) != 1:
        return False
    (name,) = names
    words = set(name.split()) if said["side"] else {name}
    cells = {region.position for region in facts.regions}
    there = any(words <= set(cell.split()) for cell in cells) if said["side"] else name in cells
    return there == (said["found"] in ("an anomaly", "有异常"))
