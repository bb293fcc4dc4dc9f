"""The smallest processor: every byte is a token, pictures are 28 x 28."""

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.processing_anomalygpt import AnomalyGPTProcessor


def byte_tokenizer(bos="<s>", merges=()):
    """Every byte is a token (so is each merge); then <s>, </s>, <pad> and <image>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + ["".join(merge) for merge in merges]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>", "<pad>", "<image>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def picture(seed=0, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def make_processor(class_tokenizer=True, **kwargs):
    image_processor = AnomalyGPTImageProcessor(size={"height": 28, "width": 28})
    kwargs = {"num_prompt_tokens": 7, **kwargs}
    tokenizer = kwargs.pop("tokenizer", None) or byte_tokenizer()
    return AnomalyGPTProcessor(image_processor, tokenizer, byte_tokenizer() if class_tokenizer else None, **kwargs)


def chat(question, image=True, *history):
    content = [{"type": "text", "text": question}]
    if image:
        content.insert(0, {"type": "image", "image": picture()})
    return [{"role": "user", "content": content}, *history]
