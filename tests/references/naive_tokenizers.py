"""Slow second implementations of the two vocabularies, from their papers' descriptions: no code shared with ours.

Byte-pair merging after https://arxiv.org/abs/1508.07909 (CLIP's word pieces) and SentencePiece's greedy merging by
score with byte fallback, https://arxiv.org/abs/1808.06226.
"""

import re
import unicodedata


def clip_ids(text: str, merges: list[tuple[str, str]]) -> list[int]:
    """CLIP's ids of a text: words, bytes, merges in order of rank."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    symbol = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        symbol.setdefault(byte, chr(256 + len([other for other in range(byte) if other not in printable])))
    order = [symbol[byte] for byte in printable] + [symbol[byte] for byte in range(256) if byte not in printable]
    vocabulary = order + [one + "</w>" for one in order] + ["".join(pair) for pair in merges]
    ids = {word: i for i, word in enumerate(vocabulary)}
    ranks = {pair: i for i, pair in enumerate(merges)}
    text = "".join(
        " " if one == "\u3000" else unicodedata.normalize("NFKC", one) if "\uff01" <= one <= "\uffef" else one
        for one in text
    )
    text = re.sub("[\u2018-\u201b\u02bc]", "'", re.sub("[\u201c-\u201f]", '"', text))
    text = " ".join(unicodedata.normalize("NFC", text).split()).lower()
    result = [len(vocabulary)]
    for word in _clip_words(text):
        parts = [symbol[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), len(merges)))
            if (parts[best], parts[best + 1]) not in ranks:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        result += [ids[part] for part in parts]
    return [*result, len(vocabulary) + 1]


def _clip_words(text: str) -> list[str]:
    words, i = [], 0
    while i < len(text):
        suffix = next((s for s in ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d") if text.startswith(s, i)), None)
        kind = _kind(text[i])
        j = i + 1
        if suffix:
            j = i + len(suffix)
        elif kind in ("letter", "other"):
            while j < len(text) and _kind(text[j]) == kind:
                j += 1
        if kind != "space":
            words.append(text[i:j])
        i = j
    return words


def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if character.isspace():
        return "space"
    return {"L": "letter", "N": "number"}.get(category[0], "other")


def sentencepiece_ids(text: str, pieces: list[tuple[str, float]]) -> list[int]:
    """Ids of a text under (piece, score) pairs: merge the best-scored neighbours, first from the left, until none."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    scores = dict(pieces)
    parts = list("\u2581" + text.replace(" ", "\u2581")) if text else []
    while True:
        candidates = [
            (scores[parts[i] + parts[i + 1]], -i)
            for i in range(len(parts) - 1)
            if parts[i] + parts[i + 1] in ids and not (parts[i] + parts[i + 1]).startswith("<0x")
        ]
        if not candidates:
            break
        i = -max(candidates)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    result = []
    for part in parts:
        result += [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return result
