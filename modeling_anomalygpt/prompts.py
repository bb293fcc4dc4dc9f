"""The words that travel: states, descriptions, questions, positions, yes and no, in English and Chinese."""

from typing import NamedTuple

LANGUAGES = ("en", "zh")

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
        category (`str`): Name of the object; underscores are read as spaces. An empty name becomes `"object"`.

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


def is_known(category: str) -> bool:
    """Whether a category has a description of its own, in any spelling."""
    return _key(category) in DESCRIPTIONS


def category_name(category: str, language: str = "en") -> str:
    """What to call an object of this category: known names are translated, others kept with underscores as spaces.

    Without a name it is `"object"` or `"物体"`.

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
    """The main question in English (`"en"`) or Chinese (`"zh"`)."""
    check_language(language)
    return DEFAULT_QUESTIONS[language]


def opening_question(
    category: str, language: str = "en", description: str | None = None, question: str | None = None
) -> str:
    """What a user says first: the description of the object ([`describe`]), then a question, by default the main one.

    Example:
    ```python
    >>> opening_question("cashew")
    'This is a cashew; a good one is whole and evenly colored. Is there any anomaly in the image?'

    ```
    """
    gap = " " if language == "en" else ""
    return describe(category, language, description) + gap + (question or default_question(language))


def position_name(row: int, column: int, language: str = "en") -> str:
    """Name of a cell of the 3 x 3 grid, such as `"bottom right"` for row 2 and column 2.

    Raises:
        ValueError: If the cell lies outside the grid **or** the language is unknown.
    """
    check_language(language)
    if row not in (0, 1, 2) or column not in (0, 1, 2):
        raise ValueError(f"`row` and `column` must be 0, 1 or 2, got {row} and {column}. The grid has 3 x 3 cells.")
    return POSITION_NAMES[language][row][column]


def original_category(text: str) -> str:
    """The name the original system takes from a question: the first of its list that occurs anywhere in the text.

    Only for the paper's protocol: `"pipe fryum"` becomes `"fryum"`, `"capsules"` becomes `"capsule"` and Chinese
    becomes `"object"`, as published.

    Example:
    ```python
    >>> original_category("This is a photo of a pipe fryum. Is there any anomaly in the image?")
    'fryum'

    ```
    """
    return next((name for name in ORIGINAL_CATEGORIES if name in text), "object")


def check_language(language: str) -> None:
    """Refuses (`ValueError`) what is neither `"en"` nor `"zh"`."""
    if language not in LANGUAGES:
        raise ValueError(f"`language` must be 'en' or 'zh', got {language!r}. There are no other words.")


def _key(category: str) -> str:
    return "".join(letter for letter in category.casefold() if letter.isalnum())


class Description(NamedTuple):
    """What a category is called and how a good one looks, in both languages."""

    en_name: str
    zh_name: str
    en: str
    zh: str


# Known categories; the keys are letters and digits alone, without spaces, underscores and capitals.
DESCRIPTIONS: dict[str, Description] = {
    # MVTec AD
    "bottle": Description("bottle", "瓶子",
        "This is a bottle seen from above; a good one has an evenly round rim and a clean inside.",
        "这是从上方拍摄的瓶子，合格品瓶口圆整，内部干净。"),
    "cable": Description("cable", "电缆",
        "This is the cut end of a cable; a good one has all its cores in place and sound insulation.",
        "这是电缆的截面，合格品线芯齐全，绝缘层完好。"),
    "capsule": Description("capsule", "胶囊",
        "This is a capsule; a good one is smooth and closed, with a legible print.",
        "这是胶囊，合格品表面光滑，封口完整，印字清晰。"),
    "carpet": Description("carpet", "地毯",
        "This is carpet; good carpet has an even weave and color, without holes or foreign threads.",
        "这是地毯，合格品编织均匀，颜色一致，没有破洞和杂线。"),
    "grid": Description("grid", "网格",
        "This is a metal grid; a good one has regular, unbroken, clean bars.",
        "这是金属网格，合格品网条规则、完整、干净。"),
    "hazelnut": Description("hazelnut", "榛子",
        "This is a hazelnut; a good one has a whole brown shell without cracks, holes or marks.",
        "这是榛子，合格品外壳完整，没有裂纹、孔洞和印记。"),
    "leather": Description("leather", "皮革",
        "This is leather; good leather has an even grain and color, without cuts, folds or stains.",
        "这是皮革，合格品纹理和颜色均匀，没有割痕、折痕和污渍。"),
    "metalnut": Description("metal nut", "金属螺母",
        "This is a metal nut; a good one lies face up and has straight, clean, unscratched edges.",
        "这是金属螺母，合格品正面朝上，棱边完整，没有划痕。"),
    "pill": Description("pill", "药片",
        "This is a pill; a good one is whole and evenly colored, with a clear imprint.",
        "这是药片，合格品完整，颜色均匀，压印清晰。"),
    "screw": Description("screw", "螺丝",
        "This is a screw; a good one has an undamaged head, thread and tip.",
        "这是螺丝，合格品头部、螺纹和尖端都完好。"),
    "tile": Description("tile", "瓷砖",
        "This is a tile; a good one is whole, with an even pattern and no stains or rough spots.",
        "这是瓷砖，合格品完整，花纹均匀，没有污渍和粗糙处。"),
    "toothbrush": Description("toothbrush", "牙刷",
        "This is the head of a toothbrush; a good one has straight tufts and none is missing.",
        "这是牙刷头，合格品刷毛整齐，没有缺失。"),
    "transistor": Description("transistor", "晶体管",
        "This is a transistor; a good one has a whole case and three straight legs in their holes.",
        "这是晶体管，合格品外壳完整，三个引脚笔直插入孔中。"),
    "wood": Description("wood", "木材",
        "This is wood; good wood shows its natural grain, without scratches, holes or liquid on it.",
        "这是木材，合格品纹理自然，没有划痕、孔洞和液体。"),
    "zipper": Description("zipper", "拉链",
        "This is a zipper; a good one has evenly closed teeth and sound fabric on both sides.",
        "这是拉链，合格品链牙整齐闭合，两侧布带完好。"),
    # VisA
    "candle": Description("candles", "蜡烛",
        "These are candles; good ones have smooth wax and a straight wick.",
        "这是蜡烛，合格品蜡面光滑，烛芯笔直。"),
    "capsules": Description("capsules", "胶囊",
        "These are capsules; good ones are clear, closed and free of bubbles and leaks.",
        "这是一组胶囊，合格品通透密封，没有气泡和渗漏。"),
    "cashew": Description("cashew", "腰果",
        "This is a cashew; a good one is whole and evenly colored.",
        "这是腰果，合格品完整，颜色均匀。"),
    "chewinggum": Description("chewing gum", "口香糖",
        "This is a piece of chewing gum; a good one is white, with whole corners and edges.",
        "这是口香糖，合格品洁白，边角完整。"),
    "fryum": Description("fryum", "油炸小食",
        "This is a wheel-shaped snack; a good one has a whole rim and whole spokes of one color.",
        "这是轮形油炸小食，合格品轮圈和轮辐完整，颜色一致。"),
    "macaroni1": Description("macaroni", "通心粉",
        "These are macaroni in rows; good ones are whole and evenly yellow.",
        "这是成排的通心粉，合格品完整，颜色均匀。"),
    "macaroni2": Description("macaroni", "通心粉",
        "These are loose macaroni; good ones are whole and evenly yellow.",
        "这是散放的通心粉，合格品完整，颜色均匀。"),
    "pcb1": Description("circuit board", "电路板",
        "This is a sensor board; a good one has all parts, straight pins and clean solder.",
        "这是传感器电路板，合格品元件齐全，引脚笔直，焊点干净。"),
    "pcb2": Description("circuit board", "电路板",
        "This is a small circuit board; a good one has all parts, straight pins and clean solder.",
        "这是小型电路板，合格品元件齐全，引脚笔直，焊点干净。"),
    "pcb3": Description("circuit board", "电路板",
        "This is a receiver board; a good one has all parts, straight pins and clean solder.",
        "这是接收器电路板，合格品元件齐全，引脚笔直，焊点干净。"),
    "pcb4": Description("circuit board", "电路板",
        "This is a battery board; a good one has all parts, whole traces and no dirt.",
        "这是电池电路板，合格品元件齐全，线路完整，没有污物。"),
    "pipefryum": Description("pipe fryum", "管状油炸小食",
        "This is a pipe-shaped snack; a good one is whole and of one color.",
        "这是管状油炸小食，合格品完整，颜色一致。"),
    # MVTec LOCO
    "breakfastbox": Description("breakfast box", "早餐盒",
        "This is a breakfast box; a good one holds two tangerines and a nectarine beside cereal and nuts.",
        "这是早餐盒，合格品有两个橘子和一个油桃，另一侧是麦片和坚果。"),
    "juicebottle": Description("juice bottle", "果汁瓶",
        "This is a bottle of juice; a good one is filled to the neck and wears the labels of its juice.",
        "这是果汁瓶，合格品灌装到瓶颈，标签与果汁相符。"),
    "pushpins": Description("pushpins", "图钉",
        "This is a box of pushpins; a good one has exactly one pin in every compartment.",
        "这是图钉盒，合格品每格恰好有一枚图钉。"),
    "screwbag": Description("screw bag", "螺丝包",
        "This is a bag of screws; a good one holds two washers, two nuts, a long screw and a short one.",
        "这是螺丝包，合格品有两个垫圈、两个螺母、一长一短两颗螺丝。"),
    "splicingconnectors": Description("splicing connectors", "接线端子",
        "These are two connectors joined by a cable; good ones have equal size and the same place on both sides.",
        "这是由电缆相连的两个接线端子，合格品大小相同，两端位置对应。"),
    # roads
    "crackforest": Description("road surface", "路面",
        "This is a road surface; a good one is closed, without cracks.",
        "这是路面，合格的路面平整，没有裂缝。"),
    # rendered parts
    "machinedmetal": Description("machined metal", "机加工金属",
        "This is machined metal; a good surface has an even finish, without scratches, dents or stains.",
        "这是机加工金属表面，合格品加工纹均匀，没有划痕、凹陷和污渍。"),
    "wovenfabric": Description("woven fabric", "机织布",
        "This is woven fabric; good fabric has even threads, without gaps, pulls or stains.",
        "这是机织布，合格品纱线均匀，没有断纱、抽丝和污渍。"),
    "knittedfabric": Description("knitted fabric", "针织布",
        "This is knitted fabric; good fabric has regular stitches, without holes or stains.",
        "这是针织布，合格品线圈规则，没有破洞和污渍。"),
    "woodgrain": Description("wood", "木材",
        "This is planed wood; a good board has a regular grain, without holes, cracks or stains.",
        "这是刨光的木材，合格品木纹连贯，没有孔洞、裂纹和污渍。"),
    "ceramictile": Description("ceramic tile", "瓷砖",
        "This is a ceramic tile; a good one has no cracks, chips, stains or rough spots.",
        "这是瓷砖，合格品没有裂纹、缺损、污渍和粗糙处。"),
    "granular": Description("granular material", "颗粒料",
        "This is granular material; a good layer holds grains of one kind and nothing else.",
        "这是颗粒料，合格品只有同一种颗粒，没有异物。"),
    "wiregrid": Description("wire grid", "金属丝网",
        "This is a wire grid; a good one has regular meshes, without bent, broken or dirty wires.",
        "这是金属丝网，合格品网孔规则，没有弯曲、断裂和脏污的丝。"),
    "circuitboard": Description("circuit board", "电路板",
        "This is a circuit board; a good one has all components in their places.",
        "这是电路板，合格品元件齐全，位置端正。"),
    "printedlabel": Description("printed label", "印刷标签",
        "This is a printed label; a good one has complete, sharp and clean print.",
        "这是印刷标签，合格品印刷完整、清晰、干净。"),
    "gear": Description("gear", "齿轮",
        "This is a gear; a good one has whole, evenly spaced teeth.",
        "这是齿轮，合格品轮齿完整，分布均匀。"),
    "hexnut": Description("hexagonal nut", "六角螺母",
        "This is a hexagonal nut; a good one has a clean thread and six whole corners.",
        "这是六角螺母，合格品螺纹干净，六个角完整。"),
    "bottletop": Description("bottle", "瓶子",
        "This is an open bottle seen from above; a good one has a round, whole and clean rim.",
        "这是从上方看的瓶口，合格品瓶口圆整、完好、干净。"),
    "biscuit": Description("biscuit", "饼干",
        "This is a biscuit; a good one is whole and evenly baked.",
        "这是饼干，合格品完整，烘烤均匀。"),
    "kernel": Description("kernel", "果仁",
        "This is a kernel; a good one has a whole skin without cracks, holes or marks.",
        "这是果仁，合格品外皮完整，没有裂纹、孔洞和印记。"),
    "block": Description("block", "积木",
        "This is a block; a good one has whole edges and even faces.",
        "这是积木，合格品棱边完整，表面均匀。"),
    "pills": Description("pills", "药片",
        "These are pills; good ones have the same shape and are whole and clean.",
        "这是一组药片，合格品外形一致，完整干净。"),
}  # fmt: skip
