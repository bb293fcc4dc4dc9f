"""What is said of a judgement, in English and Chinese: its reasons, and the answer that agrees with it.

Knows verdicts, regions and numbers; knows no model. Travels with a checkpoint, so its words are Python.
"""

import re
from collections.abc import Sequence

from .prompts import POSITION_NAMES, check_language
from .regions import Region

_REASONS = {
    "en": {
        "no_references": "Give at least one good picture: without one, nothing says what is normal here.",
        "map_above": "The most conspicuous place differs {ratio:.2f} times as much as good parts do.",
        "map_below": "The most conspicuous place differs only {ratio:.2f} times as much as good parts may.",
        "language_yes": "The language model sees an anomaly ({probability} sure).",
        "language_no": "The language model sees no anomaly (probability of one: {probability}).",
        "language_alone_yes": "The language model alone would say yes ({probability}); the comparison decided.",
        "language_alone_no": "The language model alone would say no (anomaly: {probability}); the comparison decided.",
        "close": "It is too close to call: look at the marked place.",
        "unlike": "The picture is unlike all good pictures: another part, camera or distance?",
        "rotated": "The part lies rotated by {degrees} degrees compared with the good pictures.",
        "exposure": "The picture is much darker or brighter than the good pictures.",
        "exposure_matched": "The picture is darker or brighter than the good ones; it was compared in their light.",
        "is_reference": "This picture is one of the good pictures itself: the comparison says nothing about it.",
        "blur": "The picture is much less sharp than the good pictures.",
        "few_references": "Only {count} good picture(s) to compare with: more of them make the verdict surer.",
    },
    "zh": {
        "no_references": "请至少提供一张良品图片：没有它就无法知道什么是正常。",
        "map_above": "最可疑处与良品的差异是良品之间差异的 {ratio:.2f} 倍。",
        "map_below": "最可疑处与良品的差异仅为良品允许差异的 {ratio:.2f} 倍。",
        "language_yes": "语言模型认为存在异常（把握 {probability}）。",
        "language_no": "语言模型认为没有异常（异常概率 {probability}）。",
        "language_alone_yes": "语言模型单独会回答“是”（{probability}），以图片比较的结果为准。",
        "language_alone_no": "语言模型单独会回答“否”（异常概率 {probability}），以图片比较的结果为准。",
        "close": "过于接近界限，无法判定：请查看标出的位置。",
        "unlike": "图片与所有良品图片都不相似：是否换了零件、相机或距离？",
        "rotated": "与良品图片相比，零件旋转了 {degrees} 度。",
        "exposure": "图片比良品图片明显更暗或更亮。",
        "exposure_matched": "图片比良品图片更暗或更亮，已换成良品图片的亮度进行比较。",
        "is_reference": "这张图片本身就是良品图片之一：比较不能说明它的好坏。",
        "blur": "图片明显不如良品图片清晰。",
        "few_references": "只有 {count} 张良品图片可供比较，图片越多判断越可靠。",
    },
}  # fmt: skip
_ANSWERS = {
    "en": {
        "normal": "No, there is no anomaly in the image.",
        "anomalous": "Yes, there is an anomaly in the image, at the {places}.",
        "anomalous_many": "Yes, there are {count} anomalies in the image, at the {places}.",
        "anomalous_nowhere": "Yes, there is an anomaly in the image.",
        "uncertain": "This cannot be decided from the image; look at the {places}.",
        "uncertain_nowhere": "This cannot be decided from the image.",
        "unknown": "There is no verdict: give at least one good picture to compare with.",
        "and": " and the ",
        "comma": ", the ",
    },
    "zh": {
        "normal": "否，图像中没有异常。",
        "anomalous": "是，图像中有一处异常，位于{places}。",
        "anomalous_many": "是，图像中有{count}处异常，位于{places}。",
        "anomalous_nowhere": "是，图像中有异常。",
        "uncertain": "无法根据图像判定，请查看{places}。",
        "uncertain_nowhere": "无法根据图像判定。",
        "unknown": "无法给出结论：请至少提供一张良品图片进行比较。",
        "and": "和",
        "comma": "、",
    },
}
_NUMBERS = {"en": ("two", "three", "four", "five", "six", "seven", "eight", "nine"), "zh": "两三四五六七八九"}
# Reasons that tell a person more than "undecided" does, in the order in which they are told.
_EXPLAINING = ("unlike", "rotated", "exposure", "blur")


def reason_in_words(kind: str, language: str, **numbers: float) -> str:
    """One reason of a verdict as a sentence.

    Args:
        kind (`str`): As in [`Score`].
        language (`str`): `"en"` or `"zh"`.
        numbers: Those of the reason.

    Example:
    ```python
    >>> reason_in_words("language_alone_no", "en", probability=0.44)
    'The language model alone would say no (anomaly: 44%); the comparison decided.'

    ```
    """
    check_language(language)
    if "probability" in numbers:  # rounded, it never claims certainty
        share = numbers["probability"]
        numbers["probability"] = "> 99%" if share > 0.99 else "< 1%" if share < 0.01 else f"{share:.0%}"
    return _REASONS[language][kind].format(**numbers)


def answer_in_words(verdict: str, regions: Sequence[Region], reasons: Sequence[str], language: str) -> str:
    """The answer to "is there an anomaly?" that agrees with the verdict and the regions.

    Args:
        verdict (`str`): `"normal"`, `"anomalous"`, `"uncertain"` or `"unknown"`.
        regions (`list[Region]`): Of the same picture.
        reasons (`list[str]`): Kinds of reasons, as in [`Score`].
        language (`str`): `"en"` or `"zh"`.

    Returns:
        `str`: One sentence or two.

    Example:
    ```python
    >>> answer_in_words("normal", [], [], "en"), answer_in_words("uncertain", [], ["blur"], "zh")
    ('No, there is no anomaly in the image.', '无法根据图像判定。图片明显不如良品图片清晰。')

    ```
    """
    check_language(language)
    words = _ANSWERS[language]
    form = verdict
    if verdict in ("anomalous", "uncertain"):
        form = f"{verdict}_nowhere" if not regions else verdict
        if verdict == "anomalous" and len(regions) > 1:
            form = "anomalous_many"
    answer = words[form].format(places=_places(regions, language), count=_number(len(regions), language))
    explaining = next((kind for kind in _EXPLAINING if kind in reasons), None)
    if verdict == "uncertain" and explaining in ("unlike", "exposure", "blur"):
        gap = " " if language == "en" else ""
        answer = f"{words['uncertain_nowhere']}{gap}{_REASONS[language][explaining]}"
    return answer


# Plain questions about the judgement, whole: anything else is for the language model. `@` stands for a place. The
# first topic that fits is meant; `kind` is for the language model where there is an anomaly.
_DEFECT = r"anomal\w+|defects?|damages?|faults?|flaws?|problems?"
_IT = rf"(it|they|this( (part|piece|one))?|that|the (image|picture|part|piece|regions?|{_DEFECT}))"
_BAD = "anomalous|defective|damaged|broken|faulty|bad"
_FINE = "ok|okay|good|fine|normal|intact|undamaged|all right"
_DO = "use|keep|ship|pass|replace|reject|scrap|repair|rework"
_DONE = "used|kept|shipped|passed|replaced|rejected|scrapped|repaired|reworked"
_WORSE = r"(worse|worst|more (serious|severe|conspicuous)|(the )?most (serious|severe|conspicuous))"
_KIND = "cracks?|scratch(es)?|dents?|stains?|holes?|chips?|contaminations?|(missing|misplaced) parts?"
_BAD_ZH, _ASK_ZH = "异常|缺陷|问题|损坏|损伤|瑕疵", "(吗|么|吧|呢)?"
_PART_ZH = "(这个|这张|该|此|这)?(零件|产品|图(像|片)?|它)?(整体)?"
_DO_ZH = "更换|换掉?|报废|返工|返修|放行|出货|发货|使用|用|保留|通过"
_QUESTIONS = {
    "en": {
        "kind": rf"what( is|'s) wrong( with {_IT})?|what (kind|type|sort) of ({_DEFECT})( is (it|there)| do you see)?"
        rf"|(is|are) there (any|an?|some)? ?({_KIND})|describe {_IT}",
        "presence": rf"(is|are) there (any|an?|some)? ?(visible )?({_DEFECT})( (in|on|with) {_IT})?|is {_IT} ({_BAD})"
        rf"( or not)?|((do|can) you (see|find|notice) )?(any|an?|some) (visible )?({_DEFECT})( (in|on) {_IT})?"
        rf"|(does|do) {_IT} have (any|an?|some)? ?(visible )?({_DEFECT})"
        rf"|((is|do you see) )?(there )?(anything|something) wrong( (with|in|on) {_IT})?",
        "good": rf"(is|are) ({_IT}|everything|all) (a )?({_FINE})( part| one)?( or (not|bad))?|good or bad"
        rf"|(everything|all) ({_FINE})|({_IT}|everything) (is|looks) (a )?({_FINE})"
        rf"|(does|do) ({_IT}|everything) (look|seem) ({_FINE})",
        "place": rf"is @ ({_BAD}|{_FINE})|(what|how) about @|@|is {_IT} (in|on|at) @"
        rf"|((is|are) there )?((do|can) you see )?(any|an?|some)? ?({_DEFECT}|anything wrong) (in|on|at) @"
        rf"( of {_IT})?",
        "where": rf"where( exactly)?( (is|are) {_IT})?|what( is|'s) (its|the|their) (position|location)"
        rf"|((can|could) you )?(tell|show) me where( exactly)? {_IT} (is|are)|show( me)? ({_IT}|({_DEFECT}))",
        "count": rf"how many( ({_DEFECT}|regions?))?"
        r"( are there| do you see| are (visible|in it))?( (in|on) the (image|picture|part))?",
        "size": rf"how (large|big|wide|long|tall)( (is|are) {_IT})?|what( is|'s| are) (its|the|their) (size|area)s?",
        "severity": rf"how (bad|serious|severe|critical)( (is|are) {_IT})?"
        rf"|(is|are) {_IT} (serious|severe|critical|dangerous)",
        "else": rf"((is|are) there )?(anything|something) (else|more)( wrong)?( (in|on|with) {_IT})?"
        rf"|((is|are) there )?(any )?(other|more|further) ({_DEFECT})( (in|on) {_IT})?|what else( is wrong)?"
        r"|is (that|this) (all|everything|it)",
        "worst": rf"which( (one|region|place|{_DEFECT}))? (is|looks) (the )?{_WORSE}",
        "largest": rf"which( (one|region|place|{_DEFECT}))? is (the )?(larger|largest|bigger|biggest)",
        "sure": r"(are|how) (you )?(really |quite |absolutely )?(sure|certain)( are you)?( (about|of) (it|that|this))?"
        r"|really|is (that|this) (right|true|sure|certain)",
        "advice": rf"(should|can|may|must) {_IT} be ({_DONE})|(can|may|should|must) (i|we) ({_DO}) {_IT}"
        rf"|do (i|we) (have|need) to ({_DO}) {_IT}"
        rf"|(is {_IT} )?(safe|ok|okay|fit|ready|good enough)( to| for) ({_DO}|use)( {_IT})?"
        rf"|is {_IT} (safe|usable|acceptable)|(pass|ok|accept|keep) or (fail|not|reject|scrap)|(does|did|will) {_IT} "
        rf"(pass|fail)|what (should|shall|can|must|do) (i|we) do( with {_IT})?( now)?",
    },
    "zh": {
        "kind": rf"(它|零件)?(有|是|存在)什么(样的)?({_BAD_ZH})|(描述|说明)(一下)?(这个|该)?(异常|缺陷|问题)"
        rf"|{_PART_ZH}(里|中|上)?(有没有|是否有|有)(裂纹|裂缝|划痕|凹坑|污渍|孔|缺口|异物|断裂){_ASK_ZH}",
        "presence": rf"{_PART_ZH}(里|中|上)*(有没有|是否有|有|是否存在|存在)(任何)?({_BAD_ZH}){_ASK_ZH}"
        rf"|{_PART_ZH}(有|存在)什么({_BAD_ZH})(吗|么)|{_PART_ZH}(是不是)?(坏|损坏|破损|破)了?(吗|么|没有|没)"
        rf"|你?(能)?(看到|发现)(了)?({_BAD_ZH})(了)?(吗|么)",
        "good": rf"{_PART_ZH}(看起来|看上去|是)?(没(有)?问题|正常|合格|完好|好|良品)的?(吗|么|吧)"
        rf"|{_PART_ZH}是?(良品|好的?|合格品?|正常)还是(不良品|坏的?|不合格品?|不正常|异常)",
        "place": rf"@(里|处)?(的?(零件|部分|位置|地方))?(有没有|是否有|有|是否|是)?(任何)?"
        rf"({_BAD_ZH}|坏|破|正常|完好|没问题)的?了?(吗|么|吧|没有)?|@(呢|怎么样|如何)|({_BAD_ZH}|它)是?在@(吗|么)",
        "where": r"(它|它们|异常|缺陷|问题)?(具体)?(在|位于)(什么地方|哪里|哪儿|何处|哪个位置|什么位置)",
        "count": r"(一共)?(有)?(几处|几个|多少处|多少个)(异常|缺陷|问题)?",
        "size": r"(它|异常|缺陷)?的?(有)?(多大|大小(是多少|如何)?|尺寸(是多少)?|面积(是多少)?)",
        "severity": r"(它|这|异常|缺陷|问题)?(有多|多)?严重(吗|么|程度如何)?",
        "else": rf"(图(像|片)?(中|里|上)|零件上)?还有(没有)?(别的|其他的?|其它的?|更多的?|另外的?)?"
        rf"(地方|{_BAD_ZH})?(吗|么)?|有没有(别的|其他的?|其它的?)(地方|{_BAD_ZH})?|就这些(吗|么)?",
        "worst": r"(哪|那)(一)?(个|处|里|块)(异常|缺陷)?(更|最)(严重|明显|糟)",
        "largest": r"(哪|那)(一)?(个|处|里|块)(异常|缺陷)?(更|最)大",
        "sure": r"(你|您)?(真的)?(确定|肯定|确认)(吗|么)|真的(吗|么)",
        "advice": rf"{_PART_ZH}(还)?(应该|应当|需要|要|可以|能|要不要|能不能|可不可以|需不需要"
        rf"|是否(可以|需要|应该)|必须)(被)?({_DO_ZH})(吗|么)?|{_PART_ZH}安全(吗|么)|(我)?(应该|该)?(怎么|如何|怎样)(处理|办|做)"
        r"|(通过|放行|合格)还是(不通过|拒收|报废|不放行)",
    },
}  # fmt: skip
_PLACES = {
    "en": r"\b(the )?((top|upper|bottom|lower)([ -](left|right))?|left|right|center|centre|middle)"
    r"( (corner|side|half|edge))?\b",
    "zh": r"[左右][上下](角|方|部|边)?|[上下左右](方|面|部|边|侧|半部分)|[顶底]部|中(央|间|心|部)",
}  # fmt: skip
# What stands before and after a question without changing it.
_AROUND = r"^(and|so|then|but|please|ok|okay|那么?|请问|请)[\s,，]+|^(那么|请问|请)|[\s?？!.。！]+$"
# Words of the first and the last row and column; a place without any is the middle.
_ROWS = {"en": ("top|upper", "bottom|lower"), "zh": ("[上顶]", "[下底]")}
_COLUMNS = {"en": ("left", "right"), "zh": ("左", "右")}
_FOLLOW_UPS = {
    "en": {
        "none": "There is no anomaly.",
        "where": "It is at the {places}.",
        "where_many": "They are at the {places}.",
        "count": "There is one anomaly.",
        "count_many": "There are {count} anomalies.",
        "size": "The one at the {place} is {width} x {height} pixels{millimetres}.",
        "millimetres": " ({width:.3g} x {height:.3g} mm)",
        "place": "There is an anomaly at the {places}.",
        "severity": "How serious that is, a person must judge.",
        "else": "Nothing but the one at the {places}.",
        "else_many": "Nothing but the {count} at the {places}.",
        "worst": "There is only one, at the {places}.",
        "worst_many": "The most conspicuous one is at the {places}.",
        "largest": "There is only one, at the {places}.",
        "largest_many": "The largest one is at the {places}.",
        "sure_normal": "I see no anomaly, but a person should confirm what matters.",
        "sure_anomalous": "It differs from good ones at the {places}, but a person should confirm it.",
        "good_normal": "Yes, it looks as good ones do.",
        "good_anomalous": "No, it differs from good ones at the {places}.",
        "advice_normal": "Nothing speaks against it: it differs no more than good parts do.",
        "advice_anomalous": "Do not pass it on as it is: let a person look at the {places} and decide.",
        "advice_uncertain": "Let a person look at it before it goes on.",
    },
    "zh": {
        "none": "没有异常。",
        "where": "在{places}。",
        "where_many": "在{places}。",
        "count": "有一处异常。",
        "count_many": "有{count}处异常。",
        "size": "{place}的一处为 {width} x {height} 像素{millimetres}。",
        "millimetres": "（{width:.3g} x {height:.3g} 毫米）",
        "place": "{places}有异常。",
        "severity": "严重程度应由人判断。",
        "else": "除{places}的一处外，没有发现其他异常。",
        "else_many": "除{places}的{count}处外，没有发现其他异常。",
        "worst": "只有一处，在{places}。",
        "worst_many": "最明显的一处在{places}。",
        "largest": "只有一处，在{places}。",
        "largest_many": "最大的一处在{places}。",
        "sure_normal": "没有看到异常，但重要的零件应由人确认。",
        "sure_anomalous": "{places}与良品不同，但应由人确认。",
        "good_normal": "是，与良品一样。",
        "good_anomalous": "否，{places}与良品不同。",
        "advice_normal": "没有发现不可放行的理由：与良品的差异不超过良品之间的差异。",
        "advice_anomalous": "不要直接放行：请人工查看{places}后决定。",
        "advice_uncertain": "放行之前请人工查看。",
    },
}


def follow_up_in_words(question: str, verdict: str, regions: Sequence[Region], reasons: Sequence[str]) -> str | None:
    """The answer to a plain question about a judgement: whether, where, how many, how large, which, what to do.

    Args:
        question (`str`): English or Chinese; answered in its own language.
        verdict (`str`): As in [`answer_in_words`].
        regions (`list[Region]`): Of the same picture.
        reasons (`list[str]`): Kinds of reasons, as in [`Score`].

    Returns:
        `str`, *optional*: Agrees with verdict and regions; `None` for any other question.

    Example:
    ```python
    >>> [follow_up_in_words(question, "normal", [], []) for question in ("How many are there?", "Who made it?")]
    ['There is no anomaly.', None]

    ```
    """
    language = "zh" if re.search(r"[\u4e00-\u9fff]", question) else "en"
    plain = re.sub(_AROUND, "", question.strip().casefold())
    spoken = (plain, re.sub(_PLACES[language], "@", plain, count=1))
    topics = [topic for topic, form in _QUESTIONS[language].items() if any(re.fullmatch(form, one) for one in spoken)]
    if not topics or (topics[0] == "kind" and verdict == "anomalous"):
        return None
    topic, words, gap = topics[0], _FOLLOW_UPS[language], " " if language == "en" else ""
    undecided = verdict == "unknown" or (verdict == "uncertain" and topic not in ("size", "advice"))
    nowhere = verdict in ("anomalous", "uncertain") and not regions
    if topic == "presence" or undecided or (nowhere and topic not in ("advice", "good")):
        return answer_in_words(verdict, regions, reasons, language)
    if topic in ("advice", "good", "sure"):
        form = words["advice_uncertain" if nowhere else f"{topic}_{verdict}"]
        return form.format(places=_places(regions, language))
    if verdict == "normal":
        return words["none"]
    if topic in ("size", "severity"):
        rest = [words["severity"]] if topic == "severity" else []
        return gap.join([_size(region, language) for region in regions] + rest)
    if topic == "place":
        if there := _regions_at(plain, regions, language):
            return words["place"].format(places=_places(there, language))
        topic = "where"
    named = regions
    if topic in ("worst", "largest"):  # the most conspicuous comes first
        named = regions[:1] if topic == "worst" else [max(regions, key=lambda region: region.area_pixels)]
    form = words[topic if len(regions) == 1 else f"{topic}_many"]
    return form.format(places=_places(named, language), count=_number(len(regions), language))


def _regions_at(question: str, regions: Sequence[Region], language: str) -> list[Region]:
    """The regions at the place that a question names: `left` means the whole left column."""
    place = re.search(_PLACES[language], question)[0]
    row, column = (
        next((2 * end for end, form in enumerate(ends[language]) if re.search(form, place)), None)
        for ends in (_ROWS, _COLUMNS)
    )
    if row is None and column is None:
        row = column = 1
    return [region for region in regions if row in (None, region.row) and column in (None, region.column)]


def _size(region: Region, language: str) -> str:
    words, millimetres = _FOLLOW_UPS[language], ""
    if region.width_mm is not None:
        millimetres = words["millimetres"].format(width=region.width_mm, height=region.height_mm)
    place = POSITION_NAMES[language][region.row][region.column]
    return words["size"].format(place=place, width=region.width, height=region.height, millimetres=millimetres)


def _places(regions: Sequence[Region], language: str) -> str:
    words = _ANSWERS[language]
    cells = list(dict.fromkeys((region.row, region.column) for region in regions))
    names = [POSITION_NAMES[language][row][column] for row, column in cells]
    return words["comma"].join(names[:-1]) + (words["and"] if names[1:] else "") + "".join(names[-1:])


def _number(count: int, language: str) -> str:
    return _NUMBERS[language][count - 2] if 2 <= count <= 9 else str(count)


__all__ = ["answer_in_words", "follow_up_in_words", "reason_in_words"]
