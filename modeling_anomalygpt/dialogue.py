"""Questions to the language model about pictures already seen: yes/no evidence, answers, streamed answers.

Knows one model and one processor; the pictures come in as vectors. Knows no maps and no verdict.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from .modeling_anomalygpt import AnomalyGPTImageFeatures
from .processing_anomalygpt import AnomalyGPTProcessor

# "###" ends an answer; while an answer is streamed, these could still become that mark.
_MAYBE_MARK = "\n#"


def first_turn(question: str, description: str | None, language: str) -> list[dict[str, str]]:
    """The conversation that opens with a question about the picture, the object's description before it."""
    space = " " if language == "en" else ""
    return [{"role": "user", "content": f"{description}{space}{question}" if description else question}]


class Dialogue:
    """Asks a model about pictures of which only the vectors are kept.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): In evaluation mode, on its device.
        processor ([`AnomalyGPTProcessor`]): Its processor.
    """

    def __init__(self, model: PreTrainedModel, processor: AnomalyGPTProcessor):
        self.model = model
        self.processor = processor

    @torch.inference_mode()
    def answer(
        self,
        conversations: Sequence[Sequence[dict[str, str]]],
        image_tokens: torch.Tensor,
        language: str,
        max_new_tokens: int,
    ) -> tuple[list[str], list[float]]:
        """Answers the last question of each conversation, greedily, and weighs Yes against No at the first word.

        Args:
            conversations (`list[list[dict]]`): Turns of `role` and `content`; each ends with a user's question.
            image_tokens (`torch.Tensor` of shape `(batch_size, num_vectors, text_width)`): What
                [`AnomalyGPTModel.embed_evidence`] returned.
            language (`str`): `"en"` or `"zh"`: which words mean Yes and No.
            max_new_tokens (`int`): Longest answer; 1 for the evidence alone.

        Returns:
            `tuple(list[str], list[float])`: Answers, and natural logarithms of P(yes) / P(no).
        """
        shared, yes_ids, no_ids = self.processor.yes_no_token_ids(language)
        inputs = self._inputs(conversations, image_tokens, shared)
        generated = self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stopping_criteria=self.processor.stopping_criteria(),
            pad_token_id=self.processor.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        first = generated.logits[0].float()
        log_odds = first[:, yes_ids].logsumexp(1) - first[:, no_ids].logsumexp(1)
        start = inputs["input_ids"].shape[1] - len(shared)
        answers = [self.processor.strip_answer(row[start:]) for row in generated.sequences]
        return answers, log_odds.tolist()

    def stream(
        self, conversation: Sequence[dict[str, str]], image_tokens: torch.Tensor, max_new_tokens: int
    ) -> Iterator[str]:
        """Answers one conversation piece by piece, as the words come; the pieces join to the whole answer.

        Closing the iterator ends the generation at its next token.
        """
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failures: list[BaseException] = []
        given_up = _GivenUp()

        def generate() -> None:
            try:
                with torch.inference_mode():
                    self.model.generate(
                        **self._inputs([conversation], image_tokens, []),
                        max_new_tokens=max_new_tokens,
                        do_sample=False,
                        stopping_criteria=StoppingCriteriaList([*self.processor.stopping_criteria(), given_up]),
                        pad_token_id=self.processor.tokenizer.pad_token_id,
                        streamer=streamer,
                    )
            except BaseException as error:  # carried to the reader's thread, where it is raised
                failures.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        text, given = "", 0
        try:
            for piece in streamer:
                text += piece
                whole = text.split("###")[0]
                safe = len(whole.rstrip(_MAYBE_MARK)) if whole == text else len(whole.rstrip())
                if safe > given:
                    yield whole[given:safe] if given else whole[:safe].lstrip()
                    given = safe
        finally:
            given_up.event.set()
            thread.join()
        if failures:
            raise failures[0]

    def _inputs(
        self, conversations: Sequence[Sequence[dict[str, str]]], image_tokens: torch.Tensor, ending: list[int]
    ) -> dict[str, torch.Tensor | dict[str, AnomalyGPTImageFeatures]]:
        ids = []
        for turns in conversations:
            rendered = self.processor.apply_chat_template(with_picture(turns), add_generation_prompt=True)
            ids.append(self.processor.encode_prompt(rendered) + ending)
        padded = self.processor.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        features = AnomalyGPTImageFeatures(pooler_output=image_tokens.to(self.model.device))
        return {
            "input_ids": padded["input_ids"].to(self.model.device),
            "attention_mask": padded["attention_mask"].to(self.model.device),
            "mm_encoder_outputs": {"image": features},
        }


class _GivenUp(StoppingCriteria):
    """Ends a generation that nobody reads any more."""

    def __init__(self):
        self.event = threading.Event()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


def with_picture(turns: Sequence[dict[str, str]]) -> list[dict]:
    """The same turns, the picture in the first one."""
    opening = [{"type": "image"}, {"type": "text", "text": turns[0]["content"]}]
    return [{"role": turns[0]["role"], "content": opening}, *turns[1:]]


__all__ = ["Dialogue", "first_turn", "with_picture"]
