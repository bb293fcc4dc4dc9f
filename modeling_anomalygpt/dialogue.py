"""Questions to the language model about pictures already seen: yes/no evidence, answers, streamed answers."""

import functools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

from .modeling_anomalygpt import AnomalyGPTImageFeatures
from .processing_anomalygpt import AnomalyGPTProcessor
from .prompts import category_name, default_question, describe, is_known

Messages = Sequence[dict[str, Any]]

# "###" ends an answer; while an answer is streamed, these could still become that mark.
_MAYBE_MARK = "\n#"
_CHINESE = re.compile("[\u3400-\u9fff]")
# What a guided model calls an object whose name it cannot spell, and what of an answer could still become that.
_STAND_INS = {"en": re.compile(r"\b(?:(a)n |)object\b", re.IGNORECASE), "zh": re.compile("物体|物品")}
_UNSETTLED = {"en": re.compile(r"(?:\ban?\s+)?(?:\S+\s+)?\S*$", re.IGNORECASE), "zh": re.compile("(?:物[体品]?)?$")}


def first_turn(question: str, description: str | None, language: str) -> list[dict[str, str]]:
    """The conversation that opens with a question about the picture, the object's description before it."""
    space = " " if language == "en" else ""
    return [{"role": "user", "content": f"{description}{space}{question}" if description else question}]


def with_picture(messages: Messages) -> list[dict[str, Any]]:
    """The same messages, the picture in the first one."""
    opening = [{"type": "image"}, {"type": "text", "text": messages[0]["content"]}]
    return [{"role": messages[0]["role"], "content": opening}, *messages[1:]]


def recent(messages: Messages, num_earlier: int) -> list[dict[str, Any]]:
    """The first question and its answer, this many later ones, and the last question.

    Example:
    ```python
    >>> [one["content"] for one in recent([{"content": word} for word in "q0 a0 q1 a1 q2 a2 q3".split()], 1)]
    ['q0', 'a0', 'q2', 'a2', 'q3']

    ```
    """
    return [*messages[:2], *messages[2:][-2 * num_earlier - 1 :]]


class Dialogue:
    """Asks a model about pictures of which only the vectors are kept.

    Of a long conversation the model is given what it can bear: its configuration's `max_history`, and what fits into
    its positions.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): In evaluation mode, on its device.
        processor ([`AnomalyGPTProcessor`]): Its processor.
    """

    def __init__(self, model: PreTrainedModel, processor: AnomalyGPTProcessor):
        self.model = model
        self.processor = processor

    @torch.inference_mode()
    def answer(
        self, conversations: Sequence[Messages], image_tokens: torch.Tensor, language: str, max_new_tokens: int
    ) -> tuple[list[str], list[float]]:
        """Answers the last question of each conversation, greedily, and weighs Yes against No at the first word.

        Args:
            conversations (`list[list[dict]]`): Messages of `role` and `content`; each ends with a user's question.
            image_tokens (`torch.Tensor` of shape `(batch_size, num_vectors, text_width)`): What
                [`AnomalyGPTModel.embed_evidence`] returned.
            language (`str`): `"en"` or `"zh"`: which words mean Yes and No.
            max_new_tokens (`int`): Longest answer; 1 for the evidence alone.

        Returns:
            `tuple(list[str], list[float])`: Answers, and natural logarithms of P(yes) / P(no).
        """
        shared, yes_ids, no_ids = self.processor.yes_no_token_ids(language)
        inputs = self._inputs(conversations, image_tokens, max_new_tokens, shared)
        generated = self.model.generate(
            **inputs,
            **self._options(language, max_new_tokens),
            stopping_criteria=self.processor.stopping_criteria(),
            return_dict_in_generate=True,
            output_logits=True,
        )
        first = generated.logits[0].float()
        log_odds = first[:, yes_ids].logsumexp(1) - first[:, no_ids].logsumexp(1)
        start = inputs["input_ids"].shape[1] - len(shared)
        answers = [self.processor.strip_answer(row[start:]) for row in generated.sequences]
        return answers, log_odds.tolist()

    def stream(
        self, conversation: Messages, image_tokens: torch.Tensor, max_new_tokens: int, category: str = "object"
    ) -> Iterator[str]:
        """Answers one conversation piece by piece, in the language of its last question.

        Closing the iterator ends the generation at its next token.

        Args:
            conversation (`list[dict]`): Messages of `role` and `content`; the last is a user's question.
            image_tokens (`torch.Tensor` of shape `(1, num_vectors, text_width)`): See [`Dialogue.answer`].
            max_new_tokens (`int`): Longest answer.
            category (`str`, *optional*, defaults to `"object"`): What the picture shows.

        Yields: `str`: Pieces that join to the whole answer.
        """
        language = "zh" if _CHINESE.search(conversation[-1]["content"]) else "en"
        name = None
        if self.model.config.guided_answers:
            conversation, name = _guided(conversation, category, language)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failures: list[BaseException] = []
        given_up = _GivenUp()

        def generate() -> None:
            try:
                with torch.inference_mode():
                    self.model.generate(
                        **self._inputs([conversation], image_tokens, max_new_tokens),
                        **self._options(language, max_new_tokens),
                        stopping_criteria=StoppingCriteriaList([*self.processor.stopping_criteria(), given_up]),
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
                settled = whole.rstrip(_MAYBE_MARK) if whole == text else whole.rstrip()
                if name is not None and whole == text:
                    settled = _UNSETTLED[language].sub("", settled, count=1)
                said = _named(settled.lstrip(), name, language)
                if len(said) > given:
                    yield said[given:]
                    given = len(said)
            said = _named(self.processor.strip_answer(text), name, language)
            if len(said) > given:  # what could have become a mark or a name
                yield said[given:]
        finally:
            given_up.event.set()
            thread.join()
        if failures:
            raise failures[0]

    def _options(self, language: str, max_new_tokens: int) -> dict[str, Any]:
        barred = list(self.model.generation_config.suppress_tokens or [])
        if self.model.config.guided_answers:
            barred += self._foreign_tokens[language]
        return {
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "num_beams": 1,
            "pad_token_id": self.processor.tokenizer.pad_token_id,
            "suppress_tokens": barred or None,
        }

    @functools.cached_property
    def _foreign_tokens(self) -> dict[str, list[int]]:
        """Tokens that no answer in a language holds: other letters than ASCII's in English, Latin words in Chinese."""
        tokenizer = self.processor.tokenizer
        texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
        units = tokenizer([" px", "px", " x", "x", " mm", "mm"], add_special_tokens=False)["input_ids"]
        kept = {*tokenizer.all_special_ids, *(token for ids in units for token in ids)}
        return {
            "en": [token for token, text in texts.items() if token not in kept and not text.isascii()],
            "zh": [token for token, text in texts.items() if token not in kept and re.search("[A-Za-z]", text)],
        }

    def _inputs(
        self,
        conversations: Sequence[Messages],
        image_tokens: torch.Tensor,
        max_new_tokens: int,
        ending: Sequence[int] = (),
    ) -> dict[str, torch.Tensor | dict[str, AnomalyGPTImageFeatures]]:
        ids = [[*self._prompt(messages, max_new_tokens), *ending] for messages in conversations]
        padded = self.processor.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        features = AnomalyGPTImageFeatures(pooler_output=image_tokens.to(self.model.device))
        return {
            "input_ids": padded["input_ids"].to(self.model.device),
            "attention_mask": padded["attention_mask"].to(self.model.device),
            "mm_encoder_outputs": {"image": features},
        }

    def _prompt(self, messages: Messages, max_new_tokens: int) -> list[int]:
        """Token ids of as much of a conversation as the model can bear."""
        config = self.model.config
        num_earlier = len(messages) // 2 if config.max_history is None else config.max_history
        longest = getattr(config.text_config, "max_position_embeddings", None)
        while True:
            rendered = self.processor.apply_chat_template(with_picture(recent(messages, num_earlier)))
            ids = self.processor.encode_prompt(rendered)
            if not num_earlier or longest is None or len(ids) + max_new_tokens <= longest:
                return ids
            num_earlier -= 1


class _GivenUp(StoppingCriteria):
    """Ends a generation that nobody reads any more."""

    def __init__(self):
        self.event = threading.Event()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


def _guided(messages: Messages, category: str, language: str) -> tuple[list[dict[str, Any]], str | None]:
    """The conversation as a small model understands it, and the name to put in where it reads of an object only.

    It opens in the language of the last question; names that the model has not learned are left out.
    """
    names = {category, category_name(category, "en"), category_name(category, "zh")}
    names = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?:\ban? )?({names})", re.IGNORECASE)

    def language_of(text: str) -> str:
        return "zh" if _CHINESE.search(pattern.sub("", text)) else "en"

    def unnamed(text: str) -> str:
        if language_of(text) == "zh":
            return pattern.sub("物体", text)
        return pattern.sub(lambda found: "object" if found[0] == found[1] else "an object", text)

    if language_of(messages[0]["content"]) != language:
        opening = first_turn(default_question(language), describe(category, language), language)
        messages = [*opening, *messages[1:]]
    name = category_name(category, language)
    if name == category_name("object", language) or (is_known(category) and name in messages[0]["content"]):
        return list(messages), None
    return [message | {"content": unnamed(message["content"])} for message in messages], name


def _named(answer: str, name: str | None, language: str) -> str:
    """The answer about an object with its name put in."""
    if name is None:
        return answer

    def insert(found: re.Match) -> str:
        article = ("an " if name[0] in "aeiouAEIOU" else "a ") if language == "en" and found[1] else ""
        return (article.capitalize() if found[0].startswith("A") else article) + name

    return _STAND_INS[language].sub(insert, answer)


__all__ = ["Dialogue", "first_turn", "recent", "with_picture"]
