"""The small tokenizer: nothing is lost, numbers and Chinese fall into known pieces, yes and no are single tokens."""

import random
import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from modeling_anomalygpt.conversations.instructions import conversation
from modeling_anomalygpt.prompts import NO_WORDS, YES_WORDS
from recipes.tiny.tokenizer import SPECIAL_TOKENS, VOCAB_SIZE, main, random_facts, train_tokenizer, training_texts


@pytest.fixture(scope="module")
def texts():
    return list(training_texts(seed=0, conversations=600))


@pytest.fixture(scope="module")
def tokenizer(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_special_tokens_survive_saving_and_come_first(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert (tokenizer.image_token, tokenizer.image_token_id) == ("<image>", 3)
    assert 1500 < len(tokenizer) <= VOCAB_SIZE


@pytest.mark.parametrize("seed", range(6))
def test_any_text_comes_back_as_it_went_in(seed, tokenizer):
    rng = random.Random(seed)
    ranges = [(0, 0x7F), (0xA0, 0x24F), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF), (0, 0xD7FF), (0xE000, 0x10FFFF)]
    for low, high in ranges:
        text = "".join(chr(rng.randint(low, high)) for _ in range(60))
        assert tokenizer.decode(tokenizer(text).input_ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("word", [*YES_WORDS.values(), *NO_WORDS.values()])
def test_yes_and_no_are_single_tokens_at_the_start_of_an_answer(word, tokenizer):
    (index,) = tokenizer(word).input_ids
    comma = "，" if ord(word[0]) > 0x2000 else ","
    assert tokenizer(word + comma).input_ids[0] == index


def test_digits_and_chinese_characters_stand_alone(tokenizer):
    assert [token.lstrip("Ġ") for token in tokenizer.tokenize("128.5") if token != "Ġ"] == list("128.5")
    ids = tokenizer("图像中有异常吗？").input_ids
    assert [tokenizer.decode([index]) for index in ids] == list("图像中有异常吗？")


def test_pieces_of_the_prompt_are_short_and_the_answers_end_is_its_own_tokens(tokenizer):
    assert tokenizer.tokenize("### Human: <Img>") == ["###", "ĠHuman", ":", "Ġ<", "Img", ">"]
    for answer in ("No, there is no anomaly in the image.", "否，图像中没有异常。"):
        assert tokenizer(answer + "\n###").input_ids == tokenizer(answer).input_ids + tokenizer("\n###").input_ids


def test_conversations_are_short(tokenizer):
    rng = np.random.default_rng(5)
    for language in ("en", "zh"):
        lengths = []
        for _ in range(200):
            messages = conversation(random_facts("bottle", rng), rng, language)
            lengths.append(sum(len(tokenizer(message["content"]).input_ids) for message in messages))
        assert np.mean(lengths) < 80
        assert np.percentile(lengths, 95) < 140


def test_training_is_deterministic(texts):
    again = list(training_texts(seed=0, conversations=600))
    assert again == texts
    assert train_tokenizer(texts[:4000]).get_vocab() == train_tokenizer(texts[:4000]).get_vocab()


def test_no_text_holds_an_open_field(texts):
    assert not [text for text in texts if re.search(r"[{}]", text)]


def test_the_command_writes_a_folder(tmp_path, capsys):
    main(["--output", str(tmp_path / "out"), "--conversations", "20", "--vocab-size", "512"])
    assert "512 tokens" in capsys.readouterr().out
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 512


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="`vocab_size` must be at least 260, got 100"):
        train_tokenizer(["a"], 100)
