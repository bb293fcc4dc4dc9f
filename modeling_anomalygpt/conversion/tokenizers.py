"""LLaMA's SentencePiece vocabulary and CLIP's byte pairs as fast tokenizers with the original's ids.

Knows vocabulary files; needs neither the sentencepiece nor the protobuf package. Knows nothing of weights or prompts.
"""

import gzip
import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

CLIP_NUM_MERGES = 49152 - 256 - 2  # the published vocabulary uses only the first lines of its file
_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"

# Kinds of SentencePiece pieces (sentencepiece_model.proto).
_NORMAL, _CONTROL, _BYTE = 1, 3, 6
_BPE_MODEL = 2
_SPACE = "\u2581"
_IMAGE = "<image>"


def llama_tokenizer(model_file: str | Path, num_embeddings: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer from LLaMA's `tokenizer.model`, with the placeholder `<image>` for image and prompt vectors.

    The placeholder takes the first row that the language model has beyond the vocabulary: `[PAD]` (32000) of Vicuna
    v0, which its texts never use. A model without such a row lends `<unk>`, which byte fallback never produces. So no
    row is added, and the probabilities stay those of the published model.

    Args:
        model_file (`str` or `Path`): SentencePiece model of type BPE with byte fallback.
        num_embeddings (`int`): Rows of the language model's embedding.

    Returns:
        `PreTrainedTokenizerFast`: Padding is the end token, as in the original; `<s>` is put before a text unless
        `add_special_tokens=False`.

    Raises:
        ValueError: If the file is no such model, **or** has more pieces than the model has rows.
    """
    pieces, model_type = _read_sentencepiece(Path(model_file))
    if model_type != _BPE_MODEL or not any(kind == _BYTE for _, _, kind in pieces):
        raise ValueError(
            f"'{model_file}' must be a SentencePiece model of type BPE with byte fallback, as LLaMA's, "
            f"got model type {model_type}. Use the tokenizer.model that came with LLaMA."
        )
    if len(pieces) > num_embeddings:
        raise ValueError(
            f"`num_embeddings` must be at least {len(pieces)}, the pieces of '{model_file}', got {num_embeddings}. "
            "The tokenizer belongs to another language model."
        )
    vocabulary = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    if num_embeddings == len(pieces):
        vocabulary = {_IMAGE if piece == "<unk>" else piece: i for piece, i in vocabulary.items()}
    else:
        vocabulary[_IMAGE] = len(pieces)
    backend = Tokenizer(BPE(vocab=vocabulary, merges=_merges(pieces), fuse_unk=True, byte_fallback=True))
    # The original tokenizes with a leading space before every text, also between special tokens.
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    start, end = (piece for piece, _, kind in pieces[:3] if kind == _CONTROL)
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (start, end, _IMAGE)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, vocabulary[start])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        unk_token=None if vocabulary[_IMAGE] == 0 else "<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": _IMAGE},
    )


def clip_tokenizer(merges_file: str | Path) -> PreTrainedTokenizerFast:
    """A fast tokenizer from CLIP's merge list (`bpe_simple_vocab_16e6.txt.gz`, or `merges.txt` of a CLIP on the Hub).

    The original first repairs the text (package ftfy). Of that, full-width characters, curly quotes, Unicode
    composition and white space are done here, so Chinese punctuation gets the original's ids; wrongly decoded text and
    HTML entities are not repaired.

    Args:
        merges_file (`str` or `Path`): One merge of two symbols per line after a version line, packed with gzip or not.

    Returns:
        `PreTrainedTokenizerFast`: Cuts at 77 tokens, with start and end. Padding is the end token. The text tower
            reads its state at the first one, so what follows has no effect (the original pads with 0).

    Raises:
        ValueError: If the file has too few merges.
    """
    merges = _read_merges(Path(merges_file))
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())  # CLIP's order: printable bytes, then the rest from 256 up
    words = symbols + [f"{symbol}</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    vocabulary = {word: i for i, word in enumerate([*words, _CLIP_START, _CLIP_END])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=_CLIP_END))
    repairs = [normalizers.Replace(character, plain) for character, plain in _full_width_forms()]
    quotes = [("[\u02bc\u2018-\u201b]", "'"), ("[\u201c-\u201f]", '"'), (r"\s+", " ")]
    backend.normalizer = normalizers.Sequence(
        [
            *repairs,
            *(normalizers.Replace(Regex(pattern), plain) for pattern, plain in quotes),
            normalizers.NFC(),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )
    words_of_text = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words_of_text, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    backend.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (_CLIP_START, _CLIP_END)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_CLIP_START} $A {_CLIP_END}",
        special_tokens=[(t, vocabulary[t]) for t in (_CLIP_START, _CLIP_END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_CLIP_START,
        eos_token=_CLIP_END,
        pad_token=_CLIP_END,
        unk_token=_CLIP_END,
        model_max_length=77,
        clean_up_tokenization_spaces=False,
    )


def _read_merges(path: Path) -> list[tuple[str, str]]:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    lines = data.decode("utf-8").split("\n")[1 : CLIP_NUM_MERGES + 1]
    merges = [(first, second) for first, _, second in (line.strip().partition(" ") for line in lines) if second]
    if len(merges) != CLIP_NUM_MERGES:
        raise ValueError(
            f"'{path}' must hold at least {CLIP_NUM_MERGES} merges after a version line, got {len(merges)}. Use "
            "bpe_simple_vocab_16e6.txt.gz of ImageBind's or CLIP's source, or merges.txt of a CLIP on the Hub."
        )
    return merges


def _full_width_forms() -> Iterator[tuple[str, str]]:
    """Full-width and half-width characters (Unicode block FF00) with their ordinary forms."""
    yield "\u3000", " "
    for code in range(0xFF01, 0xFFF0):
        plain = unicodedata.normalize("NFKC", chr(code))
        if plain != chr(code):
            yield chr(code), plain


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others; the best-scored piece first, as SentencePiece merges."""
    ids = {piece: i for i, (piece, _, kind) in enumerate(pieces) if kind == _NORMAL}
    found = []
    for piece in ids:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        pairs = [(left, right) for left, right in splits if left in ids and right in ids]
        found += [(-pieces[ids[piece]][1], ids[piece], ids[left], (left, right)) for left, right in pairs]
    return [pair for *_, pair in sorted(found)]


def _read_sentencepiece(path: Path) -> tuple[list[tuple[str, float, int]], int]:
    """Pieces (text, score, kind) and model type of a SentencePiece file (protocol buffer `ModelProto`)."""
    pieces, model_type = [], 1
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0
                pieces.append((piece[1].decode("utf-8"), score, piece.get(3, _NORMAL)))
            elif number == 2:
                model_type = dict(_fields(value)).get(3, 1)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise ValueError(
            f"'{path}' must be a SentencePiece model, got a file that cannot be read as one. On the Hub, large files "
            "may have been downloaded as pointers: fetch tokenizer.model again."
        ) from error
    return pieces, model_type


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values of one protocol-buffer message."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        if tag & 7 not in (1, 2, 5):
            raise ValueError(f"Unknown wire type {tag & 7}.")
        length = varint() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        if position + length > len(data):
            raise ValueError("The file ends inside a field.")
        yield tag >> 3, data[position : position + length]
        position += length
