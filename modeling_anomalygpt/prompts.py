"""The words: states, templates, descriptions, questions, positions, yes and no, in English and Chinese.

Knows sentences; knows no tensor, no folder and no tokenizer.
"""

from .descriptions import DESCRIPTIONS

LANGUAGES = ("en", "zh")
"""English and Chinese."""

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
"""How a good object is called in the prompt ensemble. Order and wording belong to the published weights."""

ANOMALOUS_STATES = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
"""How an anomalous object is called in the prompt ensemble. Order and wording belong to the published weights."""

TEMPLATES = ("a photo of a {}.", "a photo of the {}.")
"""The sentences around each state; both templates of a state stand side by side."""

ORIGINAL_CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper", "object", "candle", "cashew", "chewinggum", "fryum", "macaroni",
    "pcb", "pipe fryum",
)  # fmt: skip
"""The names the original system looks for in a question, in its order."""

POSITION_NAMES = {
    "en": (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right")),
    "zh": (("左上角", "上方", "右上角"), ("左侧", "中央", "右侧"), ("左下角", "下方", "右下角")),
}
"""Names of the cells of the 3 x 3 grid, `POSITION_NAMES[language][row][column]`."""

YES_WORDS = {"en": "Yes", "zh": "是"}
"""Every answer to "is there an anomaly" begins with this word where there is one ..."""

NO_WORDS = {"en": "No", "zh": "否"}
"""... and with this word where there is none. The first bytes differ, so the first tokens do in any tokenizer."""

DEFAULT_QUESTIONS = {"en": "Is there any anomaly in the image?", "zh": "图像中有异常吗？"}
"""The main question."""


def state_prompts(category: str) -> tuple[list[str], list[str]]:
    """The prompt ensemble of an object: every state in every template.

    AnomalyGPT (https://huggingface.co/papers/2308.15366), section 3.2; the ensemble is WinCLIP's idea
    (https://huggingface.co/papers/2303.14814).

    Args:
        category (`str`):
            Name of the object; underscores are read as spaces. An empty name becomes `"object"`.

    Returns:
        `tuple[list[str], list[str]]`: 14 prompts of a good object, 10 of an anomalous one.

    Example:
    ```python
    >>> normal, anomalous = state_prompts("metal_nut")
    >>> len(normal), len(anomalous), anomalous[1]
    (14, 10, 'a photo of the damaged metal nut.')

    ```
    """
    name = category.replace("_", " ").strip() or "object"
    normal = [template.format(state.format(name)) for state in NORMAL_STATES for template in TEMPLATES]
    anomalous = [template.format(state.format(name)) for state in ANOMALOUS_STATES for template in TEMPLATES]
    return normal, anomalous


def category_name(category: str, language: str = "en") -> str:
    """What to call an object of this category.

    Args:
        category (`str`): Any name; known ones are translated, others are kept, underscores read as spaces.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

    Returns:
        `str`: The name, `"object"` or `"物体"` where none is given.

    Example:
    ```python
    >>> category_name("pcb1"), category_name("metal_nut", "zh"), category_name("hinge_pin", "zh")
    ('circuit board', '金属螺母', 'hinge pin')

    ```
    """
    check_language(language)
    known = DESCRIPTIONS.get(_key(category))
    if known is not None:
        return known.en_name if language == "en" else known.zh_name
    name = category.replace("_", " ").strip()
    if name.casefold() in ("", "object"):
        return "object" if language == "en" else "物体"
    return name


def describe(category: str, language: str = "en", description: str | None = None) -> str:
    """One sentence that says what the object is and how a good one looks.

    Args:
        category (`str`): Any name; unknown ones get a neutral sentence.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.
        description (`str`, *optional*): Your own words, used instead; `"a bolt, ..."` becomes `"This is a bolt, ..."`.

    Returns:
        `str`: A sentence that ends with a full stop.

    Example:
    ```python
    >>> describe("hinge_pin")
    'This is a photo of a hinge pin; a good one has no damage, flaw or foreign matter.'

    ```
    """
    check_language(language)
    if description is not None and description.strip():
        description = description.strip()
        if description.startswith(("a ", "an ")):
            description = "This is " + description
        description = description[0].upper() + description[1:]
        return description if description[-1] in ".!?。！？" else description + ("." if language == "en" else "。")
    known = DESCRIPTIONS.get(_key(category))
    if known is not None:
        return known.en if language == "en" else known.zh
    name = category_name(category, language)
    if language == "zh":
        return f"这是{name}的照片，合格品完好，没有损伤、缺陷和异物。"
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    return f"This is a photo of {article} {name}; a good one has no damage, flaw or foreign matter."


def default_question(language: str = "en") -> str:
    """The main question.

    Args:
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

    Returns:
        `str`: Such as `"Is there any anomaly in the image?"`.
    """
    check_language(language)
    return DEFAULT_QUESTIONS[language]


def opening_question(
    category: str, language: str = "en", description: str | None = None, question: str | None = None
) -> str:
    """What a user says first: the description of the object, then a question.

    Args:
        category (`str`): Any name.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.
        description (`str`, *optional*): See [`describe`].
        question (`str`, *optional*): Defaults to the main question.

    Returns:
        `str`: Both, as one line of text.

    Example:
    ```python
    >>> opening_question("cashew")
    'This is a cashew; a good one is whole and evenly colored. Is there any anomaly in the image?'

    ```
    """
    gap = " " if language == "en" else ""
    return describe(category, language, description) + gap + (question or default_question(language))


def position_name(row: int, column: int, language: str = "en") -> str:
    """Name of a cell of the 3 x 3 grid.

    Args:
        row (`int`): 0 (top) to 2 (bottom).
        column (`int`): 0 (left) to 2 (right).
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

    Returns:
        `str`: Such as `"bottom right"`.

    Raises:
        ValueError: If the cell lies outside the grid.
    """
    check_language(language)
    if row not in (0, 1, 2) or column not in (0, 1, 2):
        raise ValueError(f"`row` and `column` must be 0, 1 or 2, got {row} and {column}. The grid has 3 x 3 cells.")
    return POSITION_NAMES[language][row][column]


def original_category(text: str) -> str:
    """The name the original system takes from a question: the first of its list that occurs anywhere in the text.

    Only for the paper's protocol: `"pipe fryum"` becomes `"fryum"`, `"capsules"` becomes `"capsule"` and Chinese
    becomes `"object"`, as published.

    Args:
        text (`str`): The user's question.

    Returns:
        `str`: One of `ORIGINAL_CATEGORIES`.

    Example:
    ```python
    >>> original_category("This is a photo of a pipe fryum. Is there any anomaly in the image?")
    'fryum'

    ```
    """
    return next((name for name in ORIGINAL_CATEGORIES if name in text), "object")


def check_language(language: str) -> None:
    """Refuse a language without words.

    Args:
        language (`str`): `"en"` or `"zh"`.

    Raises:
        ValueError: If it is another.
    """
    if language not in LANGUAGES:
        raise ValueError(f"`language` must be 'en' or 'zh', got {language!r}. There are no other words.")


def _key(category: str) -> str:
    return "".join(letter for letter in category.casefold() if letter.isalnum())
