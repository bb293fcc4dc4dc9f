"""Makes the tokenizer and the word vectors of the embedded checkpoint from those of SmolLM2 (Apache-2.0).

    python -m recipes.tiny.tokenizer --base DIR --output DIR [--common 12000]

Byte-level byte pairs: any text comes back exactly as it went in. Kept are the commonest tokens of the base and those
that the project's own conversations need; Chinese characters and the fields of answers get tokens of their own. Digits
stand alone. The vectors of the base are brought to the width of the small language model by their principal
components, so that words which no conversation holds lie beside words of the same sense.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from modeling_anomalygpt.conversations.grounded import load_answers, load_questions
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.prompts import DESCRIPTIONS, POSITION_NAMES
from modeling_anomalygpt.wording import FIELDS

from .inspection_vocabulary import CHINESE, ENGLISH

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")
CONTEXT_LENGTH = 1024
VECTORS = "word_vectors.safetensors"
# Between a Chinese character and the next nothing is joined; digits stand alone.
_SPLIT = [
    {"type": "Digits", "individual_digits": True},
    {"type": "Split", "pattern": {"Regex": r"[\u3400-\u9fff]"}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]


def conversation_texts() -> list[str]:
    """Every question, answer, name and word of the project's conversations."""
    texts = [f" {word}" for word in ENGLISH.split()] + ["### Human: <Img></Img> ", "\n### Assistant:", "\n###"]
    for language in ("en", "zh"):
        for topics in (load_questions(language), load_answers(language)):
            for entries in topics.values():
                texts += entries.values() if isinstance(entries, dict) else entries
        phrases = load_phrases(language)
        texts += [f" {word}" for words in phrases["kinds"].values() for word in words] + phrases["absent_things"]
        texts += [f" {name}" for row in POSITION_NAMES[language] for name in row]
    for one in DESCRIPTIONS.values():
        texts += [one.en, one.zh, one.en_name, one.zh_name]
    return texts


def chosen_tokens(base: dict, used: Sequence[str], common: int) -> tuple[list[str], list[list[str]]]:
    """Tokens and merges of the base that are kept.

    Args:
        base (`dict`): The `model` part of a byte-pair tokenizer's JSON.
        used (`Sequence[str]`): Tokens that must stay, with all that they are merged from.
        common (`int`): Tokens with lower numbers stay as well; numbers rise as tokens become rarer.

    Returns:
        `tuple[list[str], list[list[str]]]`: Tokens in their order, merges in their order.
    """
    made = {"".join(pair): pair for pair in reversed(base["merges"])}  # the first merge that makes a token counts
    commonest = {token for token, number in base["vocab"].items() if number < common}
    waiting, kept = [token for token in {*used, *commonest} if token in base["vocab"]], set()
    while waiting:
        token = waiting.pop()
        if token not in kept:
            kept.add(token)
            waiting += made.get(token, ())
    merges = [pair for pair in base["merges"] if "".join(pair) in kept and {*pair} <= kept]
    tokens = [token for token, _ in sorted(base["vocab"].items(), key=lambda item: item[1]) if token in kept]
    return tokens, merges


def small_tokenizer(base: PreTrainedTokenizerFast, common: int) -> PreTrainedTokenizerFast:
    """The base's tokenizer with fewer tokens, and some for Chinese characters and fields.

    Args:
        base (`PreTrainedTokenizerFast`): A byte-level byte-pair tokenizer.
        common (`int`): How many of its commonest tokens stay.

    Returns:
        `PreTrainedTokenizerFast`: With `<pad>`, `<s>`, `</s>` and `image_token` `<image>` (ids 0 to 3); adds none by
            itself.
    """
    state = json.loads(base.backend_tokenizer.to_str())
    texts = conversation_texts()
    used = {token for encoding in base.backend_tokenizer.encode_batch(texts) for token in encoding.tokens}
    tokens, merges = chosen_tokens(state["model"], sorted(used), common)
    tokens = dict.fromkeys(token for token in tokens if not token.startswith("<|"))
    merges = dict.fromkeys(map(tuple, merges))
    byte_names = Tokenizer.from_str(json.dumps(_state(state, ["a"], [])))
    for character in sorted({one for text in [*texts, CHINESE] for one in text if one >= "\u3000"}):
        pieces = list(byte_names.pre_tokenizer.pre_tokenize_str(character)[0][0])
        while len(pieces) > 1:
            merges[tuple(pieces[:2])] = None
            pieces = ["".join(pieces[:2]), *pieces[2:]]
            tokens[pieces[0]] = None
    tokenizer = Tokenizer.from_str(json.dumps(_state(state, [*SPECIAL_TOKENS, *tokens], list(merges))))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([f"@{field}" for field in FIELDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=CONTEXT_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _state(base: dict, tokens: list[str], merges: Sequence[Sequence[str]]) -> dict:
    state = copy.deepcopy(base)
    state["added_tokens"], state["post_processor"] = [], None
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": _SPLIT}
    state["model"] |= {"vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges}
    state["model"]["unk_token"] = None
    return state


def word_vectors(base: np.ndarray, width: int, deviation: float) -> np.ndarray:
    """Vectors brought to fewer dimensions by their principal components.

    Args:
        base (`np.ndarray` of shape `(tokens, base_width)`): float.
        width (`int`): Dimensions that remain.
        deviation (`float`): Standard deviation of all numbers together afterwards.

    Returns:
        `np.ndarray` of shape `(tokens, width)`: float32.
    """
    centred = base - base.mean(0)
    _, components = np.linalg.eigh(centred.T @ centred)  # the last ones hold most
    small = centred @ components[:, : -width - 1 : -1]
    return (small * (deviation / small.std())).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.tokenizer", description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="folder with SmolLM2-135M-Instruct")
    parser.add_argument("--output", type=Path, required=True, help="folder to save the tokenizer in")
    parser.add_argument("--common", type=int, default=12_000, help="commonest tokens that stay (default: 12000)")
    parser.add_argument("--width", type=int, default=192, help="width of the language model (default: 192)")
    options = parser.parse_args(arguments)
    base = AutoTokenizer.from_pretrained(options.base)
    tokenizer = small_tokenizer(base, options.common)
    known = base.get_vocab()
    everything = AutoModelForCausalLM.from_pretrained(options.base).get_input_embeddings().weight.detach().numpy()
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    shared = [number for number, token in enumerate(tokens) if token in known]
    vectors = np.random.default_rng(0).normal(0, 0.04, (len(tokens), options.width)).astype(np.float32)
    vectors[shared] = word_vectors(everything[[known[tokens[number]] for number in shared]], options.width, 0.04)
    tokenizer.save_pretrained(options.output)
    save_file({"vectors": vectors}, options.output / VECTORS)
    print(f"{len(tokenizer)} tokens, {len(shared)} with vectors of the base -> {options.output}")


if __name__ == "__main__":
    main()
