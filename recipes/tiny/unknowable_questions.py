"""Questions that no picture of a part can answer, put together from words: their kind is learned, not a list."""

import numpy as np

_STARTED = ("made", "sold", "ordered", "designed", "assembled", "delivered", "stored", "painted", "owned", "shipped")
_DONE = ("mounted", "bought", "checked", "installed", "moulded", "cut", "opened", "polished", "used", "transported")
_PEOPLE = ("customer", "inspector", "engineer", "buyer", "driver", "owner", "designer", "team", "factory", "shop")
_VALUES = ("speed", "voltage", "humidity", "torque", "load", "stiffness", "density", "colour code", "article number")
_PLACES = ("press", "store", "mould", "truck", "cleaning bath", "test bench", "shop", "paint line", "warehouse")
_MATERIALS = ("copper", "nylon", "real leather", "cast iron", "glass fibre", "brass", "titanium", "wool", "rubber")
_MATTERS = ("recall", "delivery", "certificate", "contract", "test report", "lease", "insurance", "service", "licence")
_ELSE = ("the rest of the shipment", "the other machine", "the next one", "the lid", "the one before", "the packaging")

_ZH_DONE = ("组装", "发货", "采购", "设计", "安装", "验收", "抛光", "运输", "切割", "喷漆", "开封", "铸造")
_ZH_PEOPLE = ("客户", "工程师", "采购员", "司机", "设计师", "班长", "检验员", "店主", "仓库管理员")
_ZH_VALUES = ("转速", "电压", "湿度", "扭矩", "载荷", "刚度", "密度", "货号", "色号")
_ZH_PLACES = ("压机", "仓库", "模具", "卡车", "清洗槽", "试验台", "喷漆线", "车间")
_ZH_MATERIALS = ("铜", "尼龙", "真皮", "铸铁", "玻璃纤维", "黄铜", "钛", "羊毛", "橡胶")
_ZH_MATTERS = ("召回", "交货", "证书", "合同", "检测报告", "租约", "保险", "维修", "许可证")
_ZH_CITIES = ("北京", "上海", "广州", "柏林", "东京", "巴黎", "成都", "深圳")
_ZH_NAMES = ("小王", "张工", "老李", "小美", "机器人", "助手")
_ZH_ELSE = ("其余的货", "另一台机器", "下一个", "盖子", "前一个", "包装")


def unknowable_question(rng: np.random.Generator, language: str) -> str:
    """A question in English (`"en"`) or Chinese (`"zh"`); hundreds are possible."""

    def word(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    if language == "zh":
        forms = (
            f"是谁{word(_ZH_DONE)}的？", f"什么时候{word(_ZH_DONE)}的？", f"它在哪里{word(_ZH_DONE)}？",
            f"为什么要{word(_ZH_DONE)}？", f"{word(_ZH_PLACES)}的{word(_ZH_VALUES)}是多少？",
            f"它的{word(_ZH_VALUES)}是多少？", f"它是{word(_ZH_MATERIALS)}做的吗？",
            f"里面有{word(_ZH_MATERIALS)}吗？",
            f"{word(_ZH_PEOPLE)}叫什么？", f"哪位{word(_ZH_PEOPLE)}负责？", f"{word(_ZH_PEOPLE)}会怎么说？",
            f"{word(_ZH_MATTERS)}什么时候到期？", f"有没有{word(_ZH_MATTERS)}？", f"{word(_ZH_ELSE)}好吗？",
            f"{word(_ZH_DONE)}花了多少钱？", f"{word(_ZH_DONE)}用了多长时间？", f"{word(_ZH_PEOPLE)}今天上班吗？",
            f"{word(_ZH_CITIES)}今天下雨吗？", f"怎么去{word(_ZH_CITIES)}？", f"下次{word(_ZH_DONE)}是哪天？",
            f"有多少{word(_ZH_PEOPLE)}见过它？", f"{word(_ZH_MATTERS)}放在哪个{word(_ZH_PLACES)}？",
            f"要不要给{word(_ZH_PEOPLE)}打电话？", f"{word(_ZH_MATERIALS)}多少钱一斤？", f"谁{word(_ZH_DONE)}得最快？",
            f"和{word(_ZH_ELSE)}相比哪个更贵？", f"你认识{word(_ZH_PEOPLE)}吗？", f"你叫{word(_ZH_NAMES)}吗？",
            f"{word(_ZH_VALUES)}超标了吗？", f"{word(_ZH_CITIES)}的{word(_ZH_PEOPLE)}几点下班？",
        )  # fmt: skip
    else:
        forms = (
            f"Who {word(_STARTED)} it?", f"Who is the {word(_PEOPLE)}?", f"Which {word(_PEOPLE)} {word(_DONE)} it?",
            f"When was it {word(_DONE)}?", f"Where was it {word(_STARTED)}?", f"Why was it {word(_DONE)}?",
            f"What was the {word(_VALUES)} in the {word(_PLACES)}?", f"What is its {word(_VALUES)}?",
            f"Is it made of {word(_MATERIALS)}?", f"Is there {word(_MATERIALS)} inside?",
            f"When is the {word(_MATTERS)} due?", f"Is there a {word(_MATTERS)}?", f"Is {word(_ELSE)} good?",
            f"What does the {word(_PEOPLE)} say?", f"How long was it in the {word(_PLACES)}?",
            f"How often was it {word(_DONE)}?", f"How many were {word(_STARTED)}?",
        )  # fmt: skip
    return word(forms)
