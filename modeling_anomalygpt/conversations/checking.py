"""Whether an answer contradicts what was measured, or tells it: read back from its words, not from how it was made.

For training data, tests and benchmarks; nothing is checked when the model answers.
"""

import re

from ..prompts import category_name
from ..wording import MeasuredFacts, field_in_words, number_in_words, reaches
from .grounded import named_place
from .word_metrics import parse_positions

# What claims something, by what it is about; it is so where `_states` has it.
_CLAIMS = {
    "verdict": {
        "normal": re.compile(
            r"\bno anomaly\b(?! [a-z]+ than)|looks as good ones do|nothing (differs|of the kind|speaks against)"
            r"|nothing wrong there, nor|found nothing(?! but)|measured no difference|it is fine\b|no place differs"
            r"|shows the same as the good|no more than the good pictures"
            r"|没有异常[，。]|没有缺陷|与良品一样|可以放行|没有任何地方|一处也没有|什么异常都没有|没有不同之处|它是好的|没有这种缺陷"
            r"|没有测到超出|不超过良品之间|那里没有异常，别处"
        ),
        "anomalous": re.compile(
            r"\bthere (is an|are \w+) anomal|^yes, there|\bit is not fine"
            r"|(?<!how far it )(?<!place )\bdiffers? from the good"
            r"|one anomaly\b|do not pass it on|the anomal(y is|ies are) at|measured (a )?differences? at"
            r"|something differs|more than the good pictures do|nothing but the|what i found is at"
            r"|^(there is only one, |it is )at the|the number i found is"
            r"|没有发现别的异常|^只有一处|我发现了"
            r"|(?<!没)有异常[，。]|(?<!没)有一处异常|(?<!没)有\w+处异常|与良品(图片)?不同|不是好的|不要直接放行|(?<!没有)测到了差异|异常在|我发现的在"
        ),
        "uncertain": re.compile(
            r"i (cannot|could not) decide (that|it|about)|i could not decide\.|\bundecided\b|too close to call"
            r"|我无法判定|无法判定的地方|：无法判定|过于接近界限"
        ),
        "unknown": re.compile(r"without a good picture to compare|没有良品图片可比较"),
    },
    "sure": {
        "clear": re.compile(r"\bquite sure\b|比较确定"),
        "close": re.compile(r"\bnot very sure\b|不太确定"),
        "undecided": re.compile(r"\bnot sure at all\b|完全不确定"),
    },
    "picture": {
        "blur": re.compile(r"less sharp than the good|focus on the part|不如良品图片清晰|对准零件对焦"),
        "exposure": re.compile(
            r"much darker or brighter than the good|with the same light|暗得多或亮得多|明显更暗或更亮|光线要与"
        ),
        "unlike": re.compile(r"unlike all good|from the same distance|与所有良品图片都不相似|距离和角度与"),
        "rotated": re.compile(r"part lies rotated|but rotated|lay the part|转了方向|零件旋转了|零件的方向要"),
        "fine": re.compile(
            r"picture will do|no rotation|looks like the part in"
            r"|这张图片可以用|没有发现旋转|看起来与良品图片中的零件相同"
        ),
        "as bright": re.compile(r"as sharp and as bright|亮度都与良品"),
        "exposure_matched": re.compile(r"evened it out|已经校正"),
    },
    "told": {
        "name": re.compile(r"it is called .+ here; i have that|它叫.+这是您告诉我的"),
        "description": re.compile(r"this i was told:|我得到的描述是"),
        "no name": re.compile(r"nobody has told me the name|没有人告诉我这个零件的名称"),
        "no description": re.compile(r"i was not told how|没有人描述过"),
        "no scale": re.compile(r"not know the scale|told me the scale|不知道比例|没有人告诉我比例"),
    },
    "compared": {"good pictures": re.compile(r"i compared it with|张良品图片作了比较")},
    "kind": {
        "unknown": re.compile(
            r"cannot name the kind|whether (it is|they are) that; something|说不出是哪种缺陷|无法确定是不是这种"
        )
    },
}
# What an answer says of one place; "in the top third" is the whole side, "at the top" the cell in its middle.
_ONE_PLACE = {
    "en": re.compile(
        r"^there is (?P<found>(?P<part>part of )?an anomaly|nothing wrong) "
        r"(?:at|in) the (?P<place>[a-z ]+?)(?P<side> third)?:"
    ),
    "zh": re.compile(
        r"^(?P<place>[上下左右中][\w]{1,2}?)(?P<side>三分之一处)?(?P<found>没有异常|有异常(?P<part>的一部分)?)："
    ),
}
# How many anomalies there are; what is asked about one of them ("the largest one") is no number.
_COUNT = {
    "en": re.compile(
        r"\b(\w+) (?:anomal(?:y|ies)\b|places? at|places differ)|\bthere are (\w+): at|\bonly (one)\b"
        r"|nothing but the (\w+) at the|the number i found is (\w+)"
    ),
    "zh": re.compile(r"(?:共有?|(?<!没)有|这|发现了) ?(\d+|[一两三四五六七八九])处"),
}
_PLACE_WORDS = ("top", "bottom", "left", "right", "center", "centre")
_NUMBERS = {number_in_words(count, language): count for language in _COUNT for count in range(1, 100)}
_SIZE = re.compile(r"(\d+) x (\d+) (?:pixels|像素)")
_TIMES = re.compile(r"(less than |不到 ?)?([\d.]+) ?(?:times|倍)")


def contradictions(answer: str, facts: MeasuredFacts) -> list[str]:
    """What of an answer is not so.

    Args:
        answer (`str`): In English or Chinese.
        facts ([`MeasuredFacts`]): Of the picture.

    Returns:
        `list[str]`: One word for each contradiction: `"verdict"`, `"place"`, `"count"`, `"size"`, `"ratio"`, `"sure"`
        (how sure the verdict is), `"picture"` (what is wrong with it), `"told"` (what the user has said), `"kind"`
        (that a known one cannot be named), `"field"` (something was not filled in); empty where there is none.

    Example:
    ```python
    >>> contradictions("Yes, there is an anomaly in the image.", MeasuredFacts("normal"))
    ['verdict']
    >>> contradictions("Quite sure: I found no anomaly.", MeasuredFacts("normal", ratio=0.9))
    ['sure']

    ```
    """
    answer = _without_what_was_told(answer, facts)
    found, text = [], answer.casefold()
    one_place = _ONE_PLACE["en"].search(text) or _ONE_PLACE["zh"].search(text)
    others = text[one_place.end() :] if one_place else text
    for subject, true in _states(facts).items():
        if {state for state, form in _CLAIMS[subject].items() if form.search(others)} - true:
            found.append(subject)
    wrong = parse_positions(others) - {region.position for region in facts.regions}
    if wrong or (one_place and not _holds(one_place, facts)):
        found.append("place")
    number = {"anomalous": len(facts.regions), "normal": 0}.get(facts.verdict)
    if number is not None and _numbers(text) - {number}:
        found.append("count")
    sizes = {(region.width, region.height) for region in facts.regions}
    if {(int(width), int(height)) for width, height in _SIZE.findall(answer)} - sizes:
        found.append("size")
    if any(
        facts.ratio >= float(said) if less else abs(float(said) - facts.ratio) > 0.06 * max(facts.ratio, 0.1)
        for less, said in _TIMES.findall(answer)
    ):
        found.append("ratio")
    if "@" in answer or re.search(r"at the [.,;]|：。|在[，。]|  ", answer):
        found.append("field")
    return found


def tells(answer: str, topic: str, facts: MeasuredFacts) -> bool:
    """Whether an answer holds what a question of a topic asks for, in whatever words, and nothing that is not so.

    Args:
        answer (`str`): In English or Chinese.
        topic (`str`): `"where"`, `"count"`, `"size"` or `"kind"`.
        facts ([`MeasuredFacts`]): Of the picture. Only of `"normal"` and `"anomalous"` ones anything can be asked for.

    Example:
    ```python
    >>> normal = MeasuredFacts("normal")
    >>> tells("No, there is no anomaly in the image.", "where", normal), tells("You are welcome.", "where", normal)
    (True, False)

    ```
    """
    if contradictions(answer, facts):
        return False
    answer = _without_what_was_told(answer, facts)
    text = answer.casefold()
    if facts.verdict == "normal":
        return bool(_CLAIMS["verdict"]["normal"].search(text))
    if facts.verdict != "anomalous":
        return False
    if topic == "where":
        return parse_positions(text) == {region.position for region in facts.regions}
    if topic == "count":
        return _numbers(text) == {len(facts.regions)}
    if topic == "size":
        sizes = {(str(region.width), str(region.height)) for region in facts.regions}
        return set(_SIZE.findall(answer)) == sizes
    if facts.kind_known:
        return any(field_in_words("kind", facts, language) in answer for language in ("en", "zh"))
    return bool(_CLAIMS["kind"]["unknown"].search(text))


def _without_what_was_told(answer: str, facts: MeasuredFacts) -> str:
    """The answer without the part's name ("right bracket" is no place) and the user's description."""
    for language in ("en", "zh") if facts.named else ():
        name = category_name(facts.category, language)
        if name.casefold() not in _PLACE_WORDS:  # "at the top" of a top
            answer = re.sub(rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])", "it", answer)
    return answer if facts.description is None else answer.replace(facts.description, "")


def _states(facts: MeasuredFacts) -> dict[str, set[str]]:
    """What is so, in the words of `_CLAIMS`."""
    known = {"name": facts.named, "description": facts.description is not None, "scale": facts.scaled}
    picture = {facts.condition, *facts.reasons}
    picture |= {"fine": {"as bright"}, "exposure_matched": {"fine"}}.get(facts.condition, set())
    sure = "undecided" if facts.verdict == "uncertain" else "clear" if facts.clear else "close"
    return {
        "verdict": {facts.verdict},
        "sure": {sure},
        "picture": set() if facts.verdict == "unknown" else picture,
        "told": {what if told else f"no {what}" for what, told in known.items()},
        "compared": set() if facts.verdict == "unknown" else {"good pictures"},
        "kind": set() if facts.kind_known else {"unknown"},
    }


def _numbers(text: str) -> set[int]:
    """Each number of anomalies that an answer names."""
    said = {word for form in _COUNT.values() for hit in form.finditer(text) for word in hit.groups()}
    return {_NUMBERS[word] for word in said & _NUMBERS.keys()}


def _holds(said: re.Match, facts: MeasuredFacts) -> bool:
    """Whether what an answer says of one place is so."""
    names = parse_positions(said["place"])
    if len(names) != 1:
        return False
    (name,) = names
    words = set(name.split()) if said["side"] else {name}
    cells = {region.position for region in facts.regions}
    there = any(words <= set(cell.split()) for cell in cells) if said["side"] else name in cells
    denies = said["found"] in ("nothing wrong", "没有异常")
    if there or not (denies or said["part"]):
        return there and not denies and not said["part"]
    row, column = named_place(name)
    place = (row, column) if said["side"] else tuple(1 if one is None else one for one in (row, column))
    return denies != any(reaches(region, place, facts.image_size) for region in facts.regions)
