"""Pictures and texts to model inputs, and generated tokens to answers: the processor and the published chat format."""

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from .image_processing_anomalygpt import refuse_changes
from .images import flatten_pictures
from .prompts import NO_WORDS, YES_WORDS, check_language, describe, state_prompts

# Ends every answer.
STOP_MARK = "###"
# Categories whose state prompts are kept encoded.
_MAX_CACHED = 64
# Options of transformers that can have no other value here. Whatever a text says, it holds no control token.
_ALWAYS = {
    "videos": None,
    "audio": None,
    "text_pair": None,
    "text_target": None,
    "text_pair_target": None,
    "truncation": False,
    "stride": None,
    "is_split_into_words": False,
    "return_attention_mask": True,
    "return_token_type_ids": False,
    "return_mm_token_type_ids": False,
    "return_overflowing_tokens": False,
    "return_special_tokens_mask": False,
    "return_offsets_mapping": False,
    "return_text_replacement_offsets": False,
    "return_length": False,
    "sanitize_control_tokens": False,
}
_ADVICE = (
    "Leave it out: beside pictures and texts there are `return_tensors`, `padding`, `padding_side`, `max_length` (a "
    "prompt is never cut), `pad_to_multiple_of`, `add_special_tokens` and the options of the image processor."
)
# U+001E stands before every piece of a rendered conversation; is split at and never tokenized.
SEPARATOR = "\x1e"
# The piece that stands for a run of placeholder tokens, whatever the tokenizer calls them.
IMAGE_PLACEHOLDER = "<image>"
# What a user writes can neither end a piece nor begin a message. The last question always asks for an answer, so
# `add_generation_prompt` changes nothing.
CHAT_TEMPLATE = r"""{%- set mark = '\x1e' -%}
{%- set chat = namespace(image=false, system='', first=true) -%}
{%- for message in messages -%}
{%- set words = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set words.text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{%- set chat.image = true -%}
{%- elif part['type'] == 'text' -%}
{%- set words.text = words.text ~ (' ' if words.text else '') ~ part['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set text = words.text | replace(mark, '') | replace('###', '') | trim -%}
{%- if message['role'] == 'system' -%}
{%- set chat.system = text ~ ' ' -%}
{%- elif message['role'] == 'assistant' -%}
{{- mark ~ text ~ '\n###' -}}
{%- elif not chat.first -%}
{{- mark ~ 'Human: ' ~ text ~ '\n### Assistant:' -}}
{%- else -%}
{%- set chat.first = false -%}
{%- if chat.image -%}
{{- mark ~ '### Human: <Img>' ~ mark ~ '<image>' ~ mark ~ '</Img> ' ~ mark ~ '<image>' ~ mark -}}
{%- else -%}
{{- mark ~ '### Human: ' -}}
{%- endif -%}
{{- chat.system ~ text ~ '\n### Assistant:' -}}
{%- endif -%}
{%- endfor -%}"""


def _pieces_of(rendered: str) -> list[str]:
    """The pieces of what `CHAT_TEMPLATE` wrote."""
    return rendered.split(SEPARATOR)[1:]


def _is_rendered(text: str) -> bool:
    """Whether a text has the pieces of a rendered conversation, rather than being a plain question."""
    pieces = _pieces_of(text)
    asked = any(piece.endswith("### Assistant:") for piece in pieces)
    return text.startswith(f"{SEPARATOR}### Human: ") and asked and pieces.count(IMAGE_PLACEHOLDER) in (0, 2)


def _before_question(rendered: str, sentence: str) -> str:
    """The same rendered conversation with a sentence before its first question."""
    pieces = _pieces_of(rendered)
    index = next(i for i, piece in enumerate(pieces) if "### Assistant:" in piece)
    start = "### Human: " if pieces[index].startswith("### Human: ") else ""
    sentence = sentence.replace(SEPARATOR, "").replace("###", "")
    pieces[index] = start + sentence + pieces[index][len(start) :]
    return "".join(SEPARATOR + piece for piece in pieces)


def _with_image(messages: Sequence[dict[str, Any]], image: bool) -> list[dict[str, Any]]:
    """The same messages, their first question with a picture or without."""
    changed, first = [], True
    for message in messages:
        if message["role"] == "user":
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
            parts = [part for part in parts if part["type"] != "image"]
            message = {"role": "user", "content": [{"type": "image"}, *parts] if image and first else parts}
            first = False
        changed.append(dict(message))
    return changed


def _check_messages(messages: Any) -> None:
    """Refuses what the format cannot express: no message, roles that do not alternate, a picture out of its place."""
    if not messages or any(not {"role", "content"} <= set(message) for message in messages):
        raise ValueError(
            f"`conversation` must hold messages with 'role' and 'content', got {str(messages)[:60]}. Begin with a "
            "user's question."
        )
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    for i, message in enumerate(messages[leading:]):
        if message["role"] != ("assistant" if i % 2 else "user"):
            raise ValueError(
                "`conversation` must begin with 'user' (after 'system', if any) and alternate with 'assistant', got "
                f"{message['role']!r} at message {i + 1}. Merge or reorder the messages."
            )
        parts = [] if isinstance(message["content"], str) else message["content"] or []
        pictures = sum(part["type"] in ("image", "image_url") for part in parts)
        if pictures > (i == 0):
            raise ValueError(
                f"`conversation` must have its only picture in the first user message, got {pictures} at message "
                f"{i + 1}. Start a new conversation for another picture; good examples go into `references`."
            )
        unknown = {str(part["type"]) for part in parts} - {"text", "image", "image_url"}
        if unknown:
            raise ValueError(
                f"`conversation` must hold parts of type 'text' or 'image', got {', '.join(sorted(unknown))}. "
                "Leave the others out."
            )
    if leading == len(messages):
        raise ValueError("`conversation` must hold a user's message, got only 'system'. Ask a question.")


def _without_mark(text: str) -> str:
    """The text before a closing `##` or `###`: generation may stop inside the mark."""
    return re.sub(r"\s*##+\s*$", "", text)


class StopAtMark(StoppingCriteria):
    """Stops each row of a batch as soon as its last eight tokens end with `###`, however the tokenizer writes it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Which rows of `input_ids` `(B, T)` are finished, `(B,)`."""
        texts = self.tokenizer.batch_decode(input_ids[:, -8:], skip_special_tokens=True)
        done = [text.rstrip().endswith(STOP_MARK) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _encode_state_prompts(
    tokenizer: Any, normal: Sequence[str], anomalous: Sequence[str], length: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `(P, length)` and labels `(P,)` (0 normal, 1 anomalous) of the prompt ensemble of one category.

    Without a length: the tokenizer's longest input where that is at most 128 (77 of CLIP, 64 of SigLIP), else the
    longest prompt.
    """
    longest = tokenizer.model_max_length
    length = length or (longest if longest <= 128 else None)
    ids = tokenizer(
        [*normal, *anomalous],
        padding="max_length" if length else "longest",
        max_length=length or min(longest, 512),
        truncation=True,
        padding_side="right",
        split_special_tokens=True,
    )["input_ids"]
    return np.array(ids, dtype=np.int64), np.array([0] * len(normal) + [1] * len(anomalous), dtype=np.int64)


def stack_state_prompts(
    encoded: Sequence[tuple[np.ndarray, np.ndarray]], pad_token_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Batches the state prompts of several pictures.

    Args:
        encoded (`list[tuple[np.ndarray, np.ndarray]]`): Ids and labels of each picture's category.
        pad_token_id (`int`): Fills shorter prompts.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: `(N, P, L)` token ids and `(N, P)` labels.
    """
    length = max(ids.shape[1] for ids, _ in encoded)
    stacked = [np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=pad_token_id) for ids, _ in encoded]
    return np.stack(stacked), np.stack([labels for _, labels in encoded])


class AnomalyGPTProcessor(ProcessorMixin):
    """The image processor and the tokenizers of an AnomalyGPT in one.

    Args:
        image_processor (`AnomalyGPTImageProcessor`): Turns pictures into `pixel_values`.
        tokenizer (`PreTrainedTokenizerBase`): Of the language model; must know `image_token` as one token. Without
            a padding token it pads with its end token, as the original does.
        class_tokenizer (`PreTrainedTokenizerBase`, *optional*): Of the text tower that encodes the state prompts;
            saved in the sub-folder `class_tokenizer`. Without it no state prompts are made.
        chat_template (`str`, *optional*): The published format, `CHAT_TEMPLATE`: the only one whose pieces this class
            can read, and no program of a stranger's checkpoint.
        image_token (`str`, *optional*, defaults to `"<image>"`): The tokenizer's token that holds the place of image
            and prompt vectors.
        num_image_tokens (`int`, *optional*, defaults to 1): Placeholders of the picture.
        num_prompt_tokens (`int`, *optional*, defaults to 18): Placeholders of the prompt learner's vectors.
        state_prompt_length (`int`, *optional*): Length state prompts are padded to. By default the class tokenizer's
            longest input where that is at most 128 (CLIP, SigLIP), else the longest prompt.

    Raises:
        ValueError: If the tokenizer does not know the image token, **or** a number of placeholders is out of range,
            **or** the chat template is another.
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        class_tokenizer: Any = None,
        chat_template: str | None = None,
        image_token: str = IMAGE_PLACEHOLDER,
        num_image_tokens: int = 1,
        num_prompt_tokens: int = 18,
        state_prompt_length: int | None = None,
    ) -> None:
        counts = (num_image_tokens, num_prompt_tokens, state_prompt_length or 0)
        if num_image_tokens < 1 or min(counts) < 0 or max(counts) > 8192:
            raise ValueError(
                "`num_image_tokens` must be positive, `num_prompt_tokens` and `state_prompt_length` at least 0, and "
                f"none above 8192, got {counts}. Take those of the model's configuration."
            )
        if chat_template is not None and chat_template.strip() != CHAT_TEMPLATE:
            raise ValueError(
                f"`chat_template` must be the published format, got {chat_template[:40]!r}. Leave it out; another one "
                "may be given to `apply_chat_template`."
            )
        token_id = tokenizer.convert_tokens_to_ids(image_token) if tokenizer is not None else None
        if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != image_token:
            raise ValueError(
                f"`tokenizer` must know the image token {image_token!r} as one token, got one without it. Add it with "
                f"`tokenizer.add_special_tokens({{'image_token': {image_token!r}}})` and resize the model's "
                "embeddings."
            )
        self.image_token = image_token
        self.image_token_id = token_id
        self.num_image_tokens = num_image_tokens
        self.num_prompt_tokens = num_prompt_tokens
        self.state_prompt_length = state_prompt_length
        for part in (tokenizer, class_tokenizer):
            if part is not None and part.pad_token is None:
                part.pad_token = part.eos_token or part.unk_token
        if class_tokenizer is None:
            self.class_tokenizer = None
            # The base class saves and checks what this lists; a missing tokenizer is neither.
            self.get_attributes = functools.partial(list, ("image_processor", "tokenizer"))
            super().__init__(image_processor, tokenizer, chat_template=CHAT_TEMPLATE)
        else:
            super().__init__(image_processor, tokenizer, class_tokenizer, chat_template=CHAT_TEMPLATE)
        self._state_prompt_cache: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        category: str | Sequence[str] = "object",
        description: str | Sequence[str | None] | None = None,
        language: str = "en",
        masks: Any = None,
        references: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare pictures and questions.

        A text is either what `apply_chat_template` rendered (every piece begins with U+001E) or a plain question. That
        becomes the first turn of a conversation; an `<image>` in a plain question says that it has a picture, as does
        one picture for each text. Texts of people you do not trust belong into chat messages.

        Args:
            images (picture or list of pictures, *optional*): See `AnomalyGPTImageProcessor`; at most one a text.
            text (`str` or `list[str]`, *optional*): Questions or rendered conversations; without it only pictures are
                prepared.
            category (`str` or `list[str]`, *optional*, defaults to `"object"`): What each picture shows; any name. It
                enters the state prompts of the text tower.
            description (`str` or `list[str]`, *optional*): A sentence that says how a good object looks; put before
                the first question. Without it the question stays as it is.
            language (`str`, *optional*, defaults to `"en"`): Language of the description: `"en"` or `"zh"`.
            masks (mask or list, *optional*): One mask for each picture, `None` where there is none.
            references (list of pictures, *optional*): Good pictures, the same for every query; or one list for each
                query, all of the same length.
            **kwargs: `return_tensors`, `padding` (by default where there are several texts), `max_length`,
                `padding_side` (left by default), `pad_to_multiple_of`, `add_special_tokens` (whether the start token
                comes first, as by default), and any argument of the image processor.

        Returns:
            `BatchFeature`: `input_ids`, `attention_mask` `(B, T)`; `pixel_values` `(N, 3, H, W)`; with a class
            tokenizer `state_prompt_ids` `(N, P, L)` and `state_prompt_labels` `(N, P)` (0 normal, 1 anomalous);
            `mask_labels` and `reference_pixel_values` `(N, K, 3, H, W)` where asked for.

        Raises:
            ValueError: If pictures, texts and categories do not fit each other, a picture is unusable, or an option of
                transformers has no effect here.
        """
        check_language(language)
        refuse_changes(kwargs | (kwargs.get("text_kwargs") or {}), _ALWAYS, _ADVICE)
        if images is None and text is None:
            raise ValueError("`images` or `text` must be given, got neither. Pass a picture, a question or both.")
        side = kwargs.get("padding_side") or kwargs.get("text_kwargs", {}).get("padding_side") or "left"
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        image_kwargs, text_kwargs = merged["images_kwargs"], merged["text_kwargs"]
        return_tensors = text_kwargs.get("return_tensors")
        image_kwargs = {**image_kwargs, "return_tensors": None}
        data: dict[str, Any] = {}
        pictures = flatten_pictures(images)
        if pictures:
            data.update(self.image_processor(pictures, masks=masks, **image_kwargs))
            data.update(self._state_prompts(category, len(pictures)))
        if references is not None:
            data["reference_pixel_values"] = self._references(references, len(pictures), image_kwargs)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            texts = self._conversations(texts, len(pictures), description, language)
            begun = self.tokenizer.bos_token_id is not None and text_kwargs.get("add_special_tokens") is not False
            start = [self.tokenizer.bos_token_id] if begun else []
            ids = [sum(self._encode_pieces(_pieces_of(one)), start) for one in texts]
            data.update(self._pad(ids, side, text_kwargs))
        return BatchFeature(data, tensor_type=return_tensors)

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """Turn chat messages into a rendered conversation or, with `tokenize=True`, into model inputs.

        The picture belongs to the first user message. `category`, `description`, `language` and `references` may be
        given here or in `processor_kwargs`.

        Args:
            conversation (`list[dict]` or `list[list[dict]]`): Messages of `role` `"user"`, `"assistant"` or, first,
                `"system"`; `content` is a text or a list of `{"type": "text" | "image", ...}` parts.
            chat_template (`str`, *optional*): Another template.
            **kwargs: As for transformers' processors: `tokenize`, `return_dict`, `return_tensors`,
                `continue_final_message`, `processor_kwargs` ...

        Returns:
            `str`, `list[str]`, `BatchFeature` or token ids: As for transformers' processors.

        Raises:
            ValueError: If a conversation is empty, has several pictures or one after the first user message.
        """
        if not conversation:
            raise ValueError("`conversation` must hold at least one message, got none. Ask a question.")
        if kwargs.get("return_assistant_tokens_mask"):
            raise ValueError(
                "`return_assistant_tokens_mask` must be False, got True. `encode_conversation` gives the targets."
            )
        batched = isinstance(conversation[0], (list, tuple))
        for messages in conversation if batched else [conversation]:
            _check_messages(messages)
        own = ("category", "description", "language", "references", "masks")
        own = {name: kwargs.pop(name) for name in own if name in kwargs}
        if own:
            kwargs["processor_kwargs"] = {**(kwargs.get("processor_kwargs") or {}), **own}
        return super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)

    def encode_conversation(
        self, messages: Sequence[dict[str, Any]], image: bool = True, max_length: int | None = None
    ) -> dict[str, list[int]]:
        r"""Token ids and targets of a conversation with answers, for training.

        Args:
            messages (`list[dict]`): Messages that end with an answer; parts of type image are not needed.
            image (`bool`, *optional*, defaults to `True`): Whether the first turn has a picture.
            max_length (`int`, *optional*): Cut after this many tokens (1024 as published).

        Returns:
            `dict[str, list[int]]`: `input_ids` and `labels` of the same length; labels are the answers with their
            `"\n###"`, everything else is -100.

        Raises:
            ValueError: If there is no answer, or `max_length` does not even hold the placeholders.
        """
        _check_messages(messages)
        if not any(message["role"] == "assistant" for message in messages):
            raise ValueError("`messages` must hold an answer (role 'assistant'), got none. There is nothing to learn.")
        pieces = _pieces_of(self.apply_chat_template(_with_image(messages, image)))
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        input_ids, labels = list(start), [-100] * len(start)
        for piece, ids in zip(pieces, self._encode_pieces(pieces), strict=True):
            input_ids += ids
            labels += ids if piece.endswith("\n" + STOP_MARK) else [-100] * len(ids)
        if max_length is not None and self.image_token_id in input_ids[max_length:]:
            raise ValueError(f"`max_length` must hold the picture's placeholders, got {max_length}. Try 1024.")
        return {"input_ids": input_ids[:max_length], "labels": labels[:max_length]}

    def encode_prompt(self, rendered: str) -> list[int]:
        """Token ids of a conversation that `apply_chat_template` rendered, placeholders included, start token first.

        Args:
            rendered (`str`): The rendered conversation; no picture is needed.

        Returns:
            `list[int]`: Token ids.
        """
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return sum(self._encode_pieces(_pieces_of(rendered)), start)

    def pad_conversations(
        self, conversations: Sequence[dict[str, list[int]]], return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Batch what `encode_conversation` returns, padded on the right.

        Args:
            conversations (`list[dict[str, list[int]]]`): `input_ids` and `labels` of each conversation.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"`, `"np"` or `None` for lists.

        Returns:
            `BatchFeature`: `input_ids`, `attention_mask` and `labels` (padding -100) `(B, T)`.
        """
        data = self._pad([one["input_ids"] for one in conversations], "right", {"padding": True})
        length = len(data["input_ids"][0])
        data["labels"] = [one["labels"] + [-100] * (length - len(one["labels"])) for one in conversations]
        return BatchFeature(data, tensor_type=return_tensors)

    def yes_no_token_ids(self, language: str = "en") -> tuple[list[int], list[int], list[int]]:
        """Where the answer decides between Yes and No.

        Tokenizers that write a letter as several bytes, or a space as a token of its own, give both words the same
        first tokens; these come first. The words are tokenized alone and before a comma, since some tokenizers join a
        word with what follows.

        Args:
            language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

        Returns:
            `tuple[list[int], list[int], list[int]]`: Token ids to append to the prompt before the logits are read
            (mostly none); ids that mean Yes at the position after them; ids that mean No. Where there are several they
            are ways to write the same word: add their probabilities.

        Raises:
            ValueError: If the tokenizer writes both words alike.
        """
        check_language(language)
        yes, no, comma = YES_WORDS[language], NO_WORDS[language], "," if language == "en" else "，"
        ids = self._encode([yes, yes + comma, no, no + comma])
        prefix = os.path.commonprefix(ids)
        starts = [one[len(prefix)] if len(one) > len(prefix) else None for one in ids]
        if None in starts or set(starts[:2]) & set(starts[2:]):
            raise ValueError(
                f"`tokenizer` must write {yes!r} and {no!r} differently, got {ids[0]} and {ids[2]}. Choose another "
                "`language` or a tokenizer that knows these words."
            )
        return prefix, sorted(set(starts[:2])), sorted(set(starts[2:]))

    def strip_answer(self, answer: str | Sequence[int] | torch.Tensor | np.ndarray) -> str:
        """The plain answer: cut at the first `###` (however it is tokenized) or end token, without outer white space.

        Args:
            answer (`str` or token ids of shape `(T,)`): What was generated, without the prompt.

        Returns:
            `str`: The answer.
        """
        if not isinstance(answer, str):
            ids = [int(token) for token in (answer.tolist() if hasattr(answer, "tolist") else answer)]
            end = self.tokenizer.eos_token_id
            ids = ids[: ids.index(end)] if end in ids else ids
            answer = self.tokenizer.decode([i for i in ids if i != self.image_token_id], skip_special_tokens=True)
        answer = answer.split(STOP_MARK)[0]
        if self.tokenizer.eos_token:
            answer = answer.split(self.tokenizer.eos_token)[0]
        return _without_mark(answer).strip()

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Decode a batch of sequences; the mark at the end of the last answer is dropped.

        Args:
            generated_outputs (`torch.Tensor` or `np.ndarray` of shape `(B, T)`): Sequences, with or without prompt.
            skip_special_tokens (`bool`, *optional*, defaults to `True`): Leave special tokens out of the text.
            **kwargs: Passed to the tokenizer's `batch_decode`.

        Returns:
            `list[str]`: One text for each sequence.
        """
        texts = self.tokenizer.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)
        return [_without_mark(text) for text in texts]

    @property
    def stop_strings(self) -> list[str]:
        """Texts that end an answer, for `generate(stop_strings=..., tokenizer=...)`."""
        return [STOP_MARK]

    @property
    def stop_token_ids(self) -> list[int]:
        """Ids for `generation_config.eos_token_id`: the end token and the first token of each way to write the mark.

        A lone `#` is left out, since an answer may hold one; [`StopAtMark`] sees it where it belongs to a mark.
        """
        found = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        for ids in self._encode([STOP_MARK, "\n" + STOP_MARK, "a.\n" + STOP_MARK, "。\n" + STOP_MARK]):
            texts = [self.tokenizer.decode([token]) for token in ids]
            first = next((i for i, text in enumerate(texts) if "#" in text), None)
            if first is not None and "##" in texts[first] and ids[first] not in found:
                found.append(ids[first])
        return found

    def stopping_criteria(self) -> StoppingCriteriaList:
        """For `generate(stopping_criteria=...)`: stops at `###` in any encoding."""
        return StoppingCriteriaList([StopAtMark(self.tokenizer)])

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything a call may return."""
        state_prompts = [] if self.class_tokenizer is None else ["state_prompt_ids", "state_prompt_labels"]
        return ["input_ids", "attention_mask", "pixel_values", *state_prompts]

    @classmethod
    def _load_tokenizer_from_pretrained(
        cls, sub_processor_type: str, pretrained_model_name_or_path: Any, subfolder: str = "", **kwargs: Any
    ) -> Any:
        if sub_processor_type == "class_tokenizer":
            names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
            found = cached_file(
                pretrained_model_name_or_path,
                "tokenizer_config.json",
                subfolder=os.path.join(subfolder, sub_processor_type),
                _raise_exceptions_for_missing_entries=False,
                **{name: kwargs[name] for name in names if name in kwargs},
            )
            if found is None:
                return None
        return super()._load_tokenizer_from_pretrained(
            sub_processor_type, pretrained_model_name_or_path, subfolder=subfolder, **kwargs
        )

    def _encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        """Token ids of each piece, tokenized alone; placeholders become runs of the image token."""
        encoded = iter(self._encode([piece for piece in pieces if piece != IMAGE_PLACEHOLDER]))
        runs = iter([self.num_image_tokens, self.num_prompt_tokens])
        return [
            [self.image_token_id] * next(runs) if piece == IMAGE_PLACEHOLDER else next(encoded) for piece in pieces
        ]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts, each tokenized alone; whatever a text says, no special token comes out."""
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        special = {self.image_token_id, *self.tokenizer.all_special_ids}
        if self.tokenizer.unk_token_id != self.image_token_id:
            special.discard(self.tokenizer.unk_token_id)
        return [[token for token in ids if token not in special] for ids in encoded]

    def _conversations(self, texts: list[str], num_pictures: int, description: Any, language: str) -> list[str]:
        """Rendered conversations from questions or rendered conversations, checked against the pictures."""
        rendered = [_is_rendered(text) for text in texts]
        marked = [
            IMAGE_PLACEHOLDER in _pieces_of(text) if done else IMAGE_PLACEHOLDER in text or self.image_token in text
            for text, done in zip(texts, rendered, strict=True)
        ]
        if num_pictures == len(texts):
            marked = [mark or not done for mark, done in zip(marked, rendered, strict=True)]
        if sum(marked) != num_pictures:
            raise ValueError(
                f"`images` must hold one picture for each of the {sum(marked)} texts with a picture, got "
                f"{num_pictures}. Give one picture for each text, or mark the texts that have one with '<image>'."
            )
        descriptions = _one_each("description", description, len(texts))
        result = []
        for text, done, image, sentence in zip(texts, rendered, marked, descriptions, strict=True):
            if not done:
                text = text.replace(self.image_token, " ").replace(IMAGE_PLACEHOLDER, " ").strip()
                text = self.apply_chat_template(_with_image([{"role": "user", "content": text}], image))
            if sentence is not None and sentence.strip():
                sentence = describe("object", language, sentence)
                text = _before_question(text, sentence + (" " if language == "en" else ""))
            result.append(text)
        return result

    def _references(self, references: Any, num_pictures: int, image_kwargs: dict[str, Any]) -> np.ndarray:
        own = isinstance(references, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in references)
        groups = [flatten_pictures(one) for one in references] if own else [flatten_pictures(references)]
        if not groups or not groups[0] or len({len(group) for group in groups}) != 1:
            raise ValueError(
                "`references` must hold the same positive number of pictures for each query, got "
                f"{[len(group) for group in groups]}. Give each as many."
            )
        if own and len(groups) != num_pictures:
            raise ValueError(
                f"`references` must hold one list for each of the {num_pictures} pictures, got {len(groups)}. "
                "Give one list of pictures to use it for all."
            )
        groups = [np.stack(self.image_processor(group, **image_kwargs)["pixel_values"]) for group in groups]
        return np.stack(groups if own else groups * max(num_pictures, 1))

    def _state_prompts(self, category: str | Sequence[str], num_pictures: int) -> dict[str, Any]:
        categories = _one_each("category", category, num_pictures)
        if self.class_tokenizer is None:
            return {}
        cache = dict(self._state_prompt_cache)
        for one in categories:
            if one not in cache:
                cache[one] = _encode_state_prompts(self.class_tokenizer, *state_prompts(one), self.state_prompt_length)
        self._state_prompt_cache = dict(list(cache.items())[-_MAX_CACHED:])
        ids, labels = stack_state_prompts([cache[one] for one in categories], self.class_tokenizer.pad_token_id)
        return {"state_prompt_ids": ids, "state_prompt_labels": labels}

    def _pad(self, ids: list[list[int]], side: str, text_kwargs: dict[str, Any]) -> dict[str, Any]:
        max_length = text_kwargs.get("max_length")
        if max_length is not None and max(map(len, ids)) > max_length:
            raise ValueError(
                f"`max_length` must hold the whole prompt of {max(map(len, ids))} tokens, got {max_length}. "
                "Shorten the question or raise it; a prompt is never cut."
            )
        padding = text_kwargs.get("padding")
        padded = self.tokenizer.pad(
            {"input_ids": ids},
            padding=len(ids) > 1 if padding is None else padding,
            max_length=max_length,
            padding_side=side,
            pad_to_multiple_of=text_kwargs.get("pad_to_multiple_of"),
            return_attention_mask=True,
        )
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}


def _one_each(name: str, value: Any, count: int) -> list[Any]:
    """A list of `count` values from one value or a list of them."""
    values = [value] * count if value is None or isinstance(value, str) else list(value)
    if len(values) != count:
        raise ValueError(
            f"`{name}` must be one text or one for each of the {count} inputs, got {len(values)}. Give one for all."
        )
    if not all(one is None or isinstance(one, str) for one in values):
        raise ValueError(f"`{name}` must hold texts, got {values!r}. Give strings.")
    return values


__all__ = ["CHAT_TEMPLATE", "IMAGE_PLACEHOLDER", "AnomalyGPTProcessor", "StopAtMark", "stack_state_prompts"]
