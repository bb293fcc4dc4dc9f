"""Both vocabularies as fast tokenizers, against slow second implementations."""

import gzip
import random

import pytest
from transformers import AutoTokenizer

from modeling_anomalygpt.conversion.tokenizers import (
    CLIP_NUM_MERGES,
    _read_sentencepiece,
    clip_tokenizer,
    llama_tokenizer,
)
from tests.clip_merges import USED, write_merges
from tests.references.naive_tokenizers import clip_ids, sentencepiece_ids

MODEL = USED.parent / "golden" / "vicuna" / "tokenizer.model"
TEXTS = [
    "### Human: <Img>",
    "</Img> ",
    "Is there any anomaly in the image?\n### Assistant:",
    "  two  spaces, 500 mm and\ttabs\n\n",
    "多少？图像中有异常吗？右上角。",
    "emoji \U0001f600 and accents: café, naïve",
    "x",
]


@pytest.fixture(scope="module")
def merges_file(tmp_path_factory):
    return write_merges(tmp_path_factory.mktemp("clip") / "merges.txt")


@pytest.fixture(scope="module")
def clip(merges_file):
    return clip_tokenizer(merges_file)


@pytest.fixture(scope="module")
def llama():
    return llama_tokenizer(MODEL, num_embeddings=513)


def test_llama_ids_are_those_of_merging_by_score_and_decode_to_the_text(llama):
    rng, known = random.Random(0), [(piece, score) for piece, score, _ in _read_sentencepiece(MODEL)[0]]
    vocabulary = [piece.replace("\u2581", " ") for piece, _ in known[259:]] + ["异", "é", "\n", "#"]
    drawn = ["".join(rng.choices(vocabulary, k=rng.randint(1, 12))) for _ in range(100)]
    for text in (*TEXTS, *drawn):
        ids = llama(text, add_special_tokens=False).input_ids
        assert ids == sentencepiece_ids(text, known), repr(text)
        assert text in drawn or llama.decode(ids) == text


def test_the_row_beyond_the_vocabulary_becomes_the_placeholder(llama):
    assert llama.convert_tokens_to_ids("<image>") == llama.image_token_id == 512
    assert llama.unk_token == "<unk>"
    assert llama("a <image> b").input_ids.count(512) == 1


def test_without_such_a_row_the_unknown_token_lends_its_own():
    tokenizer = llama_tokenizer(MODEL, num_embeddings=512)
    assert tokenizer.convert_tokens_to_ids("<image>") == 0
    assert tokenizer.unk_token is None
    assert len(tokenizer) == 512


def test_llama_puts_the_start_token_first_and_pads_with_the_end_token(llama):
    ids = llama(["a photo", "a"], padding=True).input_ids
    assert ids[0][0] == llama.bos_token_id == 1
    assert ids[1][0] == llama.pad_token_id == llama.eos_token_id == 2


@pytest.mark.parametrize("kind", ["llama", "clip"])
def test_a_saved_tokenizer_loads_without_sentencepiece_and_gives_the_same_ids(request, tmp_path, kind):
    tokenizer = request.getfixturevalue(kind)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.model"))
    for text in TEXTS:
        assert loaded(text).input_ids == tokenizer(text).input_ids


def test_clip_ids_are_those_of_merging_by_rank(clip, merges_file):
    merges = [tuple(line.split(" ")) for line in merges_file.read_text(encoding="utf-8").split("\n")[1:-1]]
    for text in (
        "a photo of a damaged metal nut.", "It's a 500mm pipe-fryum, damaged!", "划痕，有吗？", "  A \n PHOTO ",
        "\u201ccurly\u201d quotes, don\u2019t", "\uff21\uff22\uff23\u3000scratch", "x" * 20,
    ):  # fmt: skip
        assert clip(text).input_ids == clip_ids(text, merges), text


def test_clip_cuts_at_its_context_and_keeps_the_end_token(clip):
    ids = clip("a photo of a bottle. " * 40, truncation=True).input_ids
    assert len(ids) == 77
    assert (ids[0], ids[-1]) == (49406, 49407)


def test_packed_and_plain_merge_lists_are_the_same(clip, merges_file, tmp_path):
    packed = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    packed.write_bytes(gzip.compress(merges_file.read_bytes() + b"further merges\n" * 10))
    assert clip_tokenizer(packed).get_vocab() == clip.get_vocab()


def test_a_short_merge_list_is_refused(tmp_path):
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ValueError, match=f"at least {CLIP_NUM_MERGES} merges after a version line, got 1"):
        clip_tokenizer(tmp_path / "merges.txt")


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(ValueError, match="`num_embeddings` must be at least 512.*got 400"):
        llama_tokenizer(MODEL, num_embeddings=400)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "must be a SentencePiece model"),
        (b"", "must be a SentencePiece model of type BPE with byte fallback"),
    ],
)
def test_other_files_are_refused_as_vocabulary(tmp_path, content, message):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        llama_tokenizer(tmp_path / "tokenizer.model", num_embeddings=32001)
