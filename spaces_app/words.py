"""The page's words by language."""

from modeling_anomalygpt.prompts import check_language

from .words_en import WORDS as _ENGLISH
from .words_zh import WORDS as _CHINESE

_WORDS = {"en": _ENGLISH, "zh": _CHINESE}


def words_of(language: str) -> dict[str, str]:
    """All words of the page in a language.

    Args:
        language (`str`): `"en"` or `"zh"`.

    Returns:
        `dict[str, str]`: The same keys in both languages; words in braces are filled in.
    """
    check_language(language)
    return _WORDS[language]


__all__ = ["words_of"]
