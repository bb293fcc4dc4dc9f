"""Questions to the language model about pictures already seen: yes/no evidence, answers, streamed answers.

A model with `answering="grounded"` is told what was measured and the last two questions, so that the twentieth answer
of a conversation is as good as the second.
"""

import re
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.generation.streamers import BaseStreamer

from .modeling_anomalygpt import AnomalyGPTImageFeatures
from .processing_anomalygpt import AnomalyGPTProcessor
from .prompts import category_name
from .wording import MeasuredFacts, facts_in_words, fill_in

Messages = Sequence[dict[str, Any]]

# "###" ends an answer; while an answer is streamed, these could still become that mark, or a field.
_MAYBE_MARK = "\n#"
_MAYBE_FIELD = re.compile("@[a-z]*$")
_CHINESE = re.compile("[\u3400-\u9fff]")
# What a part is called in a question to a grounded model, which need not know its name to answer.
_STAND_INS = {"en": "item", "zh": "物件"}
_LONGEST_QUESTION = 500  # letters; nobody asks about a part in more
_LONGEST_BEFORE = 200  # of the question before it, on which it may lean ("Pardon?")
_ANSWERS_REMEMBERED = 64
_FUNCTION_WORDS = ("a", "an", "can", "do", "is", "it", "may", "must", "no", "one", "or", "the", "this", "to", "will")
_AGAIN = "@again"  # what a grounded model says where the question before is to be answered again
_TWO_TURNS = {"en": "Before: {} Now: {}", "zh": "之前：{} 现在：{}"}


def first_turn(question: str, description: str | None, language: str) -> list[dict[str, str]]:
    """The conversation that opens with a question about the picture, the object's description before it."""
    space = " " if language == "en" else ""
    return [{"role": "user", "content": f"{description}{space}{question}" if description else question}]


def with_picture(messages: Messages) -> list[dict[str, Any]]:
    """The same messages, the picture in the first one."""
    opening = [{"type": "image"}, {"type": "text", "text": messages[0]["content"]}]
    return [{"role": messages[0]["role"], "content": opening}, *messages[1:]]


def language_of(text: str, category: str = "object") -> str:
    """`"zh"` for a text with Chinese characters outside the part's name, else `"en"`."""
    return "zh" if _CHINESE.search(_names(category).sub("", text)) else "en"


def with_facts(messages: Messages, facts: MeasuredFacts, language: str) -> list[dict[str, str]]:
    """What a grounded model is asked after what was measured: the last question, and the one before it.

    Args:
        messages (`list[dict]`): Messages of `role` and `content`; the last is a user's question.
        facts ([`MeasuredFacts`]): Of the picture.
        language (`str`): `"en"` or `"zh"`.

    Example:
    ```python
    >>> facts = MeasuredFacts("normal", ratio=0.4, category="hinge")
    >>> with_facts([{"role": "user", "content": "Is the hinge bent?"}], facts, "en")[0]["content"][-32:]
    'not described. Is the item bent?'

    ```
    """
    asked = [message["content"] for message in messages if message["role"] == "user"]
    asked = [_names(facts.category).sub(_STAND_INS[language], text[:_LONGEST_QUESTION]) for text in asked[-2:]]
    question = asked[-1]
    if len(asked) == 2:
        question = _TWO_TURNS[language].format(asked[0][:_LONGEST_BEFORE], question)
    return [{"role": "user", "content": f"{facts_in_words(facts, language)} {question}"}]


def until_the_question_before(messages: Messages) -> list[dict[str, Any]]:
    """The conversation up to the last question but one; empty where there is none.

    Example:
    ```python
    >>> [one["content"] for one in until_the_question_before([
    ...     {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."},
    ...     {"role": "user", "content": "Pardon?"}])]
    ['Where?']

    ```
    """
    asked = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return list(messages[: asked[-2] + 1]) if len(asked) > 1 else []


def _names(category: str) -> re.Pattern[str]:
    names = {category, category_name(category, "en"), category_name(category, "zh")} - {"", "object"}
    names = {name for name in names if name.casefold() not in _FUNCTION_WORDS}  # "Can you ...?" asks about no can
    latin = "[A-Za-z0-9]"  # no name is found within a word
    words = [
        rf"(?<!{latin}){re.escape(name)}(?!{latin})" if name.isascii() else re.escape(name)
        for name in sorted(names, key=len, reverse=True)
    ]
    return re.compile("|".join(words) or r"(?!)", re.IGNORECASE)


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
        self.drafts = Drafts()

    @torch.inference_mode()
    def answer(
        self,
        conversations: Sequence[Messages],
        image_tokens: torch.Tensor,
        language: str,
        max_new_tokens: int,
        facts: Sequence[MeasuredFacts] | None = None,
    ) -> tuple[list[str], list[float]]:
        """Answers the last question of each conversation, greedily, and weighs Yes against No at the first word.

        Args:
            conversations (`list[list[dict]]`): Messages of `role` and `content`; each ends with a user's question.
            image_tokens (`torch.Tensor` of shape `(batch_size, num_vectors, text_width)`): What
                [`AnomalyGPTModel.embed_evidence`] returned.
            language (`str`): `"en"` or `"zh"`: which words mean Yes and No.
            max_new_tokens (`int`): Longest answer; 1 for the evidence alone.
            facts (`list[MeasuredFacts]`, *optional*): What was measured on each picture; the model answers from it.

        Returns:
            `tuple(list[str], list[float])`: Answers, and natural logarithms of P(yes) / P(no).
        """
        asked = conversations
        shared, yes_ids, no_ids = self.processor.yes_no_token_ids(language)
        if facts is not None:
            pairs = zip(conversations, facts, strict=True)
            conversations, shared = [with_facts(messages, known, language) for messages, known in pairs], []
        inputs = self._inputs(conversations, image_tokens, max_new_tokens, shared)
        drafted = {"custom_generate": self.drafts.generate} if facts is not None and len(facts) == 1 else {}
        generated = self.model.generate(
            **inputs,
            **self._options(max_new_tokens),
            **drafted,
            stopping_criteria=self.processor.stopping_criteria(),
            return_dict_in_generate=True,
            output_logits=True,
        )
        first = generated.logits[0].float()
        log_odds = first[:, yes_ids].logsumexp(1) - first[:, no_ids].logsumexp(1)
        start = inputs["input_ids"].shape[1] - len(shared)
        answers = [self.processor.strip_answer(row[start:]) for row in generated.sequences]
        for index, known in enumerate(facts or ()):
            earlier = until_the_question_before(asked[index]) if _AGAIN in answers[index] else []
            if earlier:
                seen = image_tokens[index : index + 1]
                answers[index] = self.answer([earlier], seen, language, max_new_tokens, [known])[0][0]
            else:
                answers[index] = fill_in(answers[index], known, language)
        return answers, log_odds.tolist()

    def stream(
        self,
        conversation: Messages,
        image_tokens: torch.Tensor,
        max_new_tokens: int,
        facts: MeasuredFacts | None = None,
        language: str | None = None,
    ) -> Iterator[str]:
        """Answers one conversation piece by piece, in the language of its last question.

        Closing the iterator ends the generation at its next token.

        Args:
            conversation (`list[dict]`): Messages of `role` and `content`; the last is a user's question.
            image_tokens (`torch.Tensor` of shape `(1, num_vectors, text_width)`): See [`Dialogue.answer`].
            max_new_tokens (`int`): Longest answer.
            facts ([`MeasuredFacts`], *optional*): What was measured; the model answers from it.
            language (`str`, *optional*): `"en"` or `"zh"`, if another than that of the last question.

        Yields: `str`: Pieces that join to the whole answer.
        """
        earlier = until_the_question_before(conversation)
        if facts is not None:
            language = language or language_of(conversation[-1]["content"], facts.category)
            conversation = with_facts(conversation, facts, language)
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        # `generate` hands a streamer to none but its own loops.
        drafted = {} if facts is None else {"custom_generate": partial(self.drafts.generate, streamer=streamer)}
        failures: list[BaseException] = []
        given_up = _GivenUp()

        def generate() -> None:
            try:
                with torch.inference_mode():
                    self.model.generate(
                        **self._inputs([conversation], image_tokens, max_new_tokens),
                        **self._options(max_new_tokens),
                        **drafted,
                        stopping_criteria=StoppingCriteriaList([*self.processor.stopping_criteria(), given_up]),
                        streamer=streamer,
                    )
            except BaseException as error:  # carried to the reader's thread, where it is raised
                failures.append(error)
                streamer.end()

        def said(text: str) -> str:
            if facts is None:
                return text.lstrip()
            return "" if earlier and _AGAIN in text else fill_in(text.lstrip(), facts, language)

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        text, given = "", 0
        try:
            for piece in streamer:
                text += piece
                whole = text.split("###")[0]
                settled = whole.rstrip(_MAYBE_MARK) if whole == text else whole.rstrip()
                settled = said(settled if facts is None or whole != text else _MAYBE_FIELD.sub("", settled))
                if len(settled) > given:
                    yield settled[given:]
                    given = len(settled)
            settled = said(self.processor.strip_answer(text))
            if len(settled) > given:  # what could have become a mark or a field
                yield settled[given:]
        finally:
            given_up.event.set()
            thread.join()
        if failures:
            raise failures[0]
        if facts is not None and earlier and _AGAIN in text:
            yield from self.stream(earlier, image_tokens, max_new_tokens, facts, language)

    def _options(self, max_new_tokens: int) -> dict[str, Any]:
        return {
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "num_beams": 1,
            "pad_token_id": self.processor.tokenizer.pad_token_id,
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


class Drafts:
    """Greedy decoding of one row in fewer passes: earlier answers are tried as drafts, as far as the model agrees.

    Answers with fields instead of numbers come again and again; one that is guessed right takes one pass, not one a
    token. What is said is what greedy decoding says without drafts (speculative decoding, arXiv 2211.17192).
    """

    def __init__(self):
        self.answers: tuple[tuple[int, ...], ...] = ()  # the last one first

    def generate(
        self,
        model: PreTrainedModel,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        streamer: BaseStreamer | None = None,
        **model_kwargs: Any,
    ) -> GenerateDecoderOnlyOutput:
        """For `model.generate(custom_generate=...)`, with an unpadded prompt of shape `(1, length)`.

        Returns:
            `GenerateDecoderOnlyOutput`: `sequences` of shape `(1, length + answer)`, and `logits` of the first token.
        """
        # Caches that forget, or that are sums, cannot give back the tokens of a draft.
        cache: Cache = model_kwargs["past_key_values"]
        can_draft = all(type(layer) is DynamicLayer for layer in cache.layers)
        said, start, past = input_ids, input_ids.shape[1], 0
        first, seen = None, model_kwargs["mm_encoder_outputs"]
        while True:
            answer = tuple(said[0, start:].tolist())
            fitting = (one[len(answer) :] for one in self.answers if one[: len(answer)] == answer)
            room = stopping_criteria.max_length - said.shape[1] - 1  # the model may know no positions beyond
            draft = next(fitting, ())[:room] if can_draft else ()
            ids = torch.cat([said[:, past:], said.new_tensor([draft])], 1) if draft else said[:, past:]
            positions = torch.arange(past, past + ids.shape[1], device=said.device)[None]
            cached = {"past_key_values": cache, "use_cache": True, "logits_to_keep": len(draft) + 1}
            logits = model(input_ids=ids, position_ids=positions, mm_encoder_outputs=seen, **cached).logits.float()
            first, seen = logits[:, 0] if first is None else first, None
            for agreed, expected in enumerate((*draft, None)):
                scores = logits_processor(said, logits[:, agreed])
                token = scores.argmax(-1, keepdim=True)
                said = torch.cat([said, token], 1)
                if streamer is not None:
                    streamer.put(token[0].cpu())
                if stopping_criteria(said, scores).all():
                    answer = tuple(said[0, start:].tolist())
                    others = (one for one in self.answers if one != answer)
                    self.answers = (answer, *others)[:_ANSWERS_REMEMBERED]
                    if streamer is not None:
                        streamer.end()
                    return GenerateDecoderOnlyOutput(sequences=said, logits=(first,))
                if int(token) != expected:
                    break
            past = said.shape[1] - 1
            if agreed < len(draft):
                cache.crop(agreed - len(draft))


class _GivenUp(StoppingCriteria):
    """Ends a generation that nobody reads any more."""

    def __init__(self):
        self.event = threading.Event()

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


__all__ = ["Dialogue", "first_turn", "language_of", "recent", "with_facts", "with_picture"]
