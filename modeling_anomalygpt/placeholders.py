"""Puts what was seen in the place of the placeholders."""

import torch
from torch import nn


def fill_placeholders(
    vectors: torch.Tensor,
    input_ids: torch.LongTensor | None,
    inputs_embeds: torch.Tensor,
    image_token_id: int,
    embeddings: nn.Module,
) -> torch.Tensor:
    r"""
    Replaces the embeddings of placeholders, row by row and from left to right.

    Args:
        vectors (`torch.Tensor` of shape `(batch_size, num_vectors, text_width)`):
            What replaces the placeholders.
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Token ids. `None`: placeholders are recognised by their embedding.
        inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, text_width)`):
            Embeddings of the tokens.
        image_token_id (`int`):
            Id of the placeholder.
        embeddings (`nn.Module`):
            The language model's token embeddings.

    Returns:
        `torch.Tensor` of shape `(batch_size, sequence_length, text_width)`

    Raises:
        ValueError: If a row has not `num_vectors` placeholders.
    """
    if input_ids is not None:
        placeholders = input_ids == image_token_id
    else:
        token = torch.tensor(image_token_id, device=inputs_embeds.device)
        placeholders = (inputs_embeds == embeddings(token)).all(-1)
    counts = placeholders.sum(1)
    if len(placeholders) != len(vectors) or (counts != vectors.shape[1]).any():
        raise ValueError(
            f"`input_ids` must hold {vectors.shape[1]} placeholders in each of {len(vectors)} rows, got "
            f"{counts.tolist()}. Put one picture into each prompt; `AnomalyGPTProcessor` writes the placeholders."
        )
    vectors = vectors.to(inputs_embeds.device, inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), vectors)


__all__ = ["fill_placeholders"]
