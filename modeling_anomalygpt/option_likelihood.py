"""How likely a language model finds each of several answers to a question about a picture.

Knows conversations and token probabilities; knows no benchmark.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .outputs_anomalygpt import AnomalyGPTImageFeatures


@torch.inference_mode()
def answer_likelihoods(
    model: torch.nn.Module,
    processor: Any,
    turns: Sequence[dict[str, str]],
    answers: Sequence[str],
    image_tokens: torch.Tensor,
) -> list[float]:
    r"""
    Mean log-probability of the tokens of each answer, its end included.

    The mean, not the sum, so that a long answer is not worse for its length.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            In evaluation mode.
        processor ([`AnomalyGPTProcessor`]):
            Its processor.
        turns (`list[dict[str, str]]`):
            `role` and `content` each; the last one is the question.
        answers (`list[str]`):
            At least one.
        image_tokens (`torch.Tensor` of shape `(1, num_vectors, text_width)`):
            What the language model sees of the picture.

    Returns:
        `list[float]`: Natural logarithms, at most 0.
    """
    encoded = [processor.encode_conversation([*turns, {"role": "assistant", "content": answer}]) for answer in answers]
    batch = processor.pad_conversations(encoded).to(model.device)
    features = AnomalyGPTImageFeatures(pooler_output=image_tokens.to(model.device).repeat(len(answers), 1, 1))
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        mm_encoder_outputs={"image": features},
    ).logits
    found = []
    for row, labels in zip(logits.float().log_softmax(-1)[:, :-1], batch["labels"][:, 1:], strict=True):
        # Of the earlier answers only the last one is weighed.
        places = torch.nonzero(labels != -100).flatten()
        start = int(places[-1])
        while start > 0 and labels[start - 1] != -100:
            start -= 1
        own = labels[start : int(places[-1]) + 1]
        found.append(float(row[start : start + len(own)].gather(1, own[:, None]).mean()))
    return found


__all__ = ["answer_likelihoods"]
