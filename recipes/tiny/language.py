"""Teaches a small language model to answer from measured facts.

    python -m recipes.tiny.language --checkpoint DIR --output DIR --steps 2400 [--resume]

The vision tower does not take part: a picture is its global vector and its map, both drawn. A sample is one picture's
facts and several questions; these see the picture and the facts but not one another, so that what they have in common
is computed once. Answers name fields (`@size`) instead of numbers, see [`modeling_anomalygpt.wording.fill_in`].

Nearly all mistakes are misunderstood questions. So most questions are practised without an answer: a linear layer that
is thrown away afterwards reads their topic from the first layers, which takes less than half of the time. And many are
mixed of others, with the topic that a classifier of words finds in them.
"""

import argparse
import copy
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.conversations.grounded import draw_facts, draw_question, load_questions, marked_answer
from modeling_anomalygpt.dialogue import with_facts, with_picture
from modeling_anomalygpt.modeling_anomalygpt import fill_placeholders
from modeling_anomalygpt.wording import MeasuredFacts
from recipes.tiny.drawn_evidence import draw_evidence
from recipes.tiny.mixed_questions import mixed_questions
from recipes.tiny.rough_questions import alike, roughened

LANGUAGES = ("en", "zh")
OTHER = {"en": "zh", "zh": "en"}
BEFORE = 0.7  # part of the questions that follow another one, of which one in ten is in the other language
BEFORE_UNANSWERED = 0.1
MIXED = 0.4  # part of the questions that are mixed of two others
BATCHES_AT_ONCE = 8  # sorted by length, so that little is computed for padding
MORE_OFTEN = (  # what people ask most, then what is hardest to learn
    "presence", "good", "where", "where", "count", "size", "kind", "object", "object", "advice", "advice",
    "place_check", "place_check", "place_check", "number_check", "sure", "again", "again", "again",
    "unknowable", "absent", "method", "smalltalk", "cause", "agree", "kind_check",
)  # fmt: skip
# Whose answers turn on one fact beside verdict and places, easily passed over for the usual one.
FACT_TOPICS = (
    "object", "description", "millimetres", "sure", "kind", "kind_check", "quality", "retake", "same_part", "rotated",
)  # fmt: skip
# So many of an answer tell what was understood; three in four samples stop there, in two thirds of the time.
FIRST_TOKENS = 8
TOPIC_QUESTIONS = 16  # about one picture
FIRST_LAYERS = 2 / 3  # the part of the layers that tells a question's topic; the others put it into words
TOPIC_WEIGHT = 0.5
PLAIN_TEXTS, PLAIN_WEIGHT = 6, 3.0  # a step
NOISE = 0.3  # added to the word vectors, in their standard deviations: words of the same sense lie that near
TRAINED_PARTS = ("language_model", "prompt_learner", "multi_modal_projector")
# Without instructions for it bfloat16 is computed number by number: thirty times slower than float32.
HALF_PRECISION = torch.cpu.get_capabilities().get("avx512_bf16", False)


class FactsTrainer(Trainer):
    """Trains on questions that share their beginning."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.topic_losses = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Gradients of one loss after another, so that the activations of one alone are kept."""
        model.train()
        total = torch.zeros(())
        for loss in self.losses(model, self._prepare_inputs(inputs)):
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def losses(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
        """Of the answers' tokens, of the topics of the questions that have no answer, of the drift of plain texts."""
        whole = getattr(model, "get_base_model", lambda: model)()
        yield cross_entropy(whole, whole.model.language_model, whole.lm_head, inputs)
        if "topics" in inputs:
            first = first_layers(whole.model.language_model)
            of_topics = cross_entropy(whole, first, whole.topic_head, inputs["topics"])
            self.topic_losses.append(of_topics.item())
            yield TOPIC_WEIGHT * of_topics
        if "plain_ids" in inputs:
            yield PLAIN_WEIGHT * drift_from_base(model, inputs["plain_ids"])

    def log(self, logs, *args, **kwargs):
        """With the mean loss of topics since the last time."""
        if self.topic_losses:
            logs["topic_loss"] = round(float(np.mean(self.topic_losses)), 4)
            self.topic_losses.clear()
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def cross_entropy(
    whole: AnomalyGPTForConditionalGeneration,
    layers: torch.nn.Module,
    head: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Mean cross-entropy of a batch's labels, read by `head` from `layers` of the model."""
    base = whole.model
    seen = base.embed_evidence(batch["image_embeds"], batch["anomaly_map"])
    embeddings = base.get_input_embeddings()
    vectors = embeddings(batch["input_ids"])
    if whole.training:
        vectors = vectors + NOISE * vectors.detach().std() * torch.randn_like(vectors)
    vectors = fill_placeholders(seen, batch["input_ids"], vectors, base.config.image_token_id, embeddings)
    answered = batch["labels"] != -100
    with torch.autocast("cpu", torch.bfloat16, enabled=HALF_PRECISION):
        hidden = layers(
            attention_mask=batch["attention_mask"].to(vectors.dtype),
            position_ids=batch["position_ids"],
            inputs_embeds=vectors,
            use_cache=False,
        ).last_hidden_state
        logits = head(hidden[answered])
    return functional.cross_entropy(logits.float(), batch["labels"][answered])


def first_layers(language_model: torch.nn.Module) -> torch.nn.Module:
    """The first layers of a language model as one of their own, with the same weights."""
    first = copy.copy(language_model)
    first.config = copy.copy(language_model.config)
    first.config.num_hidden_layers = round(FIRST_LAYERS * language_model.config.num_hidden_layers)
    return first


def drift_from_base(adapted: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """How far an adapter moves a language model's next words of plain text: mean Kullback-Leibler divergence.

    Args:
        adapted (`peft.PeftModel`): Around the whole model.
        ids (`torch.LongTensor` of shape `(batch_size, length)`): Plain text.
    """
    whole = adapted.get_base_model()

    def log_probabilities() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF_PRECISION):
            hidden = whole.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
            return whole.lm_head(hidden).float().log_softmax(-1).flatten(0, 1)

    with torch.no_grad(), adapted.disable_adapter():
        before = log_probabilities()
    return functional.kl_div(log_probabilities(), before, reduction="batchmean", log_target=True)


class Questions(torch.utils.data.Dataset):
    """Batches of questions about drawn facts; batch `index` is the same in every run."""

    def __init__(
        self,
        processor: AnomalyGPTProcessor,
        config: object,
        batches: int,
        batch_size: int,
        seed: int,
        questions: int,
        english: float = 0.5,
        others: Mapping[str, Sequence[str]] | None = None,
        plain: torch.Tensor | None = None,
        unanswered: int = 0,
        mixed: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        topic_questions: int = TOPIC_QUESTIONS,
        by_facts: float = 0.0,
    ):
        self.processor, self.config, self.seed = processor, config, seed
        self.batches, self.batch_size, self.questions, self.english = batches, batch_size, questions, english
        self.others, self.plain, self.unanswered, self.mixed = others or {}, plain, unanswered, mixed
        self.topic_questions, self.by_facts = topic_questions, by_facts
        self.all_topics = list(load_questions("en"))
        self.topics = [*self.all_topics, *MORE_OFTEN]
        self.made: tuple[int, list] = -1, []

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        group = index // BATCHES_AT_ONCE
        if self.made[0] != group:
            rng = np.random.default_rng([self.seed, group])
            answered = self.drawn(rng, self.batch_size, self.sample)
            self.made = group, list(zip(answered, self.drawn(rng, self.unanswered, self.topics_sample), strict=True))
        answered, unanswered = self.made[1][index % BATCHES_AT_ONCE]
        batch = collate(answered, self.processor.tokenizer.pad_token_id)
        if unanswered:
            batch["topics"] = collate(unanswered, self.processor.tokenizer.pad_token_id)
        if self.plain is not None:
            rng = np.random.default_rng([self.seed, index, 1])
            batch["plain_ids"] = self.plain[rng.permutation(len(self.plain))[:PLAIN_TEXTS]]
        return batch

    @staticmethod
    def drawn(rng: np.random.Generator, batch_size: int, sample: Callable[[np.random.Generator], dict]) -> list[list]:
        """Some batches, each of samples of about one length."""
        samples = sorted(
            (sample(rng) for _ in range(BATCHES_AT_ONCE * batch_size)), key=lambda one: len(one["input_ids"])
        )
        return [samples[i * batch_size : (i + 1) * batch_size] for i in rng.permutation(BATCHES_AT_ONCE)]

    def sample(self, rng: np.random.Generator) -> dict:
        """One picture's facts and questions about them."""
        return self.about_a_picture(rng, self.questions, self.conversation)

    def topics_sample(self, rng: np.random.Generator) -> dict:
        """One picture's facts and questions about them whose labels are the numbers of their topics."""
        return self.about_a_picture(rng, self.topic_questions, self.unanswered_question)

    def about_a_picture(self, rng: np.random.Generator, questions: int, ask: Callable[..., dict]) -> dict:
        """One picture's facts and questions about them."""
        anomaly_map, drawn = draw_evidence(rng, self.config.map_size)
        image_embeds = rng.normal(0, 1, self.config.projection_dim).astype(np.float32)
        facts = draw_facts(rng, tuple(drawn.regions), drawn.image_size, drawn.category)
        unusual = self.by_facts > 0 and rng.random() < self.by_facts
        while unusual and facts.condition == "fine":
            facts = draw_facts(rng, tuple(drawn.regions), drawn.image_size, drawn.category)
        language = "en" if rng.random() < self.english else "zh"
        conversations = [ask(rng, facts, language) for _ in range(questions)]
        return packed(conversations) | {
            "image_embeds": image_embeds / np.linalg.norm(image_embeds),
            "anomaly_map": anomaly_map,
        }

    def conversation(self, rng: np.random.Generator, facts: MeasuredFacts, language: str) -> dict[str, list[int]]:
        """One question, in words roughened as people type them, and its answer, as token ids and targets."""
        topics = FACT_TOPICS if self.by_facts > 0 and rng.random() < self.by_facts else self.topics
        encoded, answered = self.encoded(rng, topics[int(rng.integers(len(topics)))], facts, language, BEFORE)
        length = None if rng.random() < 0.25 else answered + FIRST_TOKENS
        return {name: encoded[name][:length] for name in ("input_ids", "labels")}

    def unanswered_question(
        self, rng: np.random.Generator, facts: MeasuredFacts, language: str
    ) -> dict[str, list[int]]:
        """One question, in words roughened as people type them, and the number of its topic as the target."""
        number = int(rng.integers(len(self.all_topics)))
        encoded, answered = self.encoded(rng, self.all_topics[number], facts, language, BEFORE_UNANSWERED)
        return {"input_ids": encoded["input_ids"][: answered + 1], "labels": [-100] * answered + [number]}

    def encoded(
        self, rng: np.random.Generator, topic: str, facts: MeasuredFacts, language: str, before: float
    ) -> tuple[dict[str, list[int]], int]:
        """A question of a topic and its whole answer, and where the answer begins."""
        mixed = self.mixed[language] if self.mixed and rng.random() < MIXED else None
        question = draw_question(rng, topic, facts, language, questions=mixed)
        if topic != "again" and rng.random() < before:
            other = self.topics[int(rng.integers(len(self.topics)))]
            earlier = draw_question(rng, other, facts, language if rng.random() < 0.9 else OTHER[language])
            question = replace(question, before=earlier)
        exact = question.place is not None or question.number is not None
        texts = [message["content"] for message in question.messages]
        texts[-1] = roughened(texts[-1], rng, language, self.others, whole=exact)
        asked = [{"role": "user", "content": text} for text in texts]
        answer = {"role": "assistant", "content": marked_answer(question, facts, language)}
        encoded = self.processor.encode_conversation([*with_picture(with_facts(asked, facts, language)), answer])
        return encoded, next(i for i, label in enumerate(encoded["labels"]) if label != -100)


def packed(conversations: Sequence[dict[str, list[int]]]) -> dict[str, list]:
    """Conversations with one beginning as one sequence, the beginning once.

    Args:
        conversations (`list[dict[str, list[int]]]`): `input_ids` and `labels` of each.

    Returns:
        `dict`: `input_ids`; `labels`, shifted: that of a token is the next one where an answer goes on;
        `position_ids`; `owners`, the number of each token's conversation from 1, 0 for the beginning.
    """
    shared = len(os.path.commonprefix([one["input_ids"] for one in conversations]))
    for one in conversations:  # at least one token of each prompt is its own
        shared = min(shared, next(i for i, label in enumerate(one["labels"]) if label != -100) - 1)
    ids, positions = list(conversations[0]["input_ids"][:shared]), list(range(shared))
    labels, owners = [-100] * shared, [0] * shared
    for number, one in enumerate(conversations, 1):
        ids += one["input_ids"][shared:]
        labels += [*one["labels"][shared + 1 :], -100]
        positions += range(shared, len(one["input_ids"]))
        owners += [number] * (len(one["input_ids"]) - shared)
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "owners": owners}


def collate(samples: Sequence[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch; the mask `(B, 1, T, T)` is 0 where a token sees another, else very low.

    `T` is a multiple of 32: of few sizes, memory that one batch has left fits the next.
    """
    length = 32 * math.ceil(max(len(sample["input_ids"]) for sample in samples) / 32)
    batch = {
        name: torch.tensor([sample[name] + [padding] * (length - len(sample[name])) for sample in samples])
        for name, padding in (("input_ids", pad_token_id), ("labels", -100), ("position_ids", 0), ("owners", -1))
    }
    owners = batch.pop("owners")
    same = (owners[:, :, None] == owners[:, None, :]) | (owners[:, None, :] == 0)
    sees = same & torch.ones(length, length, dtype=torch.bool).tril()
    batch["attention_mask"] = torch.where(sees, 0.0, torch.finfo(torch.bfloat16).min)[:, None]
    for name in ("image_embeds", "anomaly_map"):
        batch[name] = torch.from_numpy(np.stack([sample[name] for sample in samples]))
    return batch


def words_alike(tokenizer: object, embeddings: torch.nn.Embedding) -> dict[str, tuple[str, ...]]:
    """English words that are one token each, with those whose vectors lie beside theirs."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    chosen = [number for number, token in enumerate(tokens) if re.fullmatch("Ġ[a-z]{4,}", token)]
    vectors = embeddings.weight.detach().float().numpy()[chosen]
    return alike([tokens[number][1:] for number in chosen], vectors)


def mixed_by_language(count: int, seed: int) -> dict[str, dict[str, tuple[str, ...]]] | None:
    """So many mixed questions of each language, by topic; `None` for 0."""
    if count == 0:
        return None
    return {language: mixed_questions(load_questions(language), language, count, seed) for language in LANGUAGES}


def train(model: torch.nn.Module, data: Questions, options: argparse.Namespace) -> None:
    """Trains what needs gradients; goes on from the last checkpoint with `--resume`."""
    folder = options.output / "trainer"
    vectors = [p for name, p in model.named_parameters() if p.requires_grad and "embed_tokens" in name]
    others = [p for name, p in model.named_parameters() if p.requires_grad and "embed_tokens" not in name]
    groups = [{"params": others}]
    if vectors:  # words that no question holds keep their place beside those of the same sense
        groups.append({"params": vectors, "lr": options.learning_rate * options.vector_rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    arguments = TrainingArguments(
        str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=1,  # an item of the data is a batch
        logging_steps=20,
        save_steps=50,
        save_total_limit=1,
        dataloader_num_workers=1,
        dataloader_prefetch_factor=4,
        remove_unused_columns=False,
        use_cpu=True,
        report_to=[],
        seed=options.seed,
    )
    steps, warmup = options.steps, max(1, round(0.03 * options.steps))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, step / warmup) * 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))
    )
    trainer = FactsTrainer(
        model, arguments, data_collator=lambda items: items[0], train_dataset=data, optimizers=(optimizer, rate)
    )
    begun = any(folder.glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=(options.resume and begun) or None)


def parser() -> argparse.ArgumentParser:
    """Options that all trainings from facts have."""
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.language", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for checkpoints and the result")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=12, help="pictures a step")
    parser.add_argument("--questions", type=int, default=10, help="questions about each picture")
    parser.add_argument(
        "--unanswered", type=int, default=24, help="pictures a step of whose questions only the topic is asked"
    )
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--vector-rate", type=float, default=0.2, help="word vectors learn at this part of the rate")
    parser.add_argument("--english", type=float, default=0.5, help="share of English")
    parser.add_argument(
        "--by-facts",
        type=float,
        default=0.0,
        help="share of the pictures that are made unlike the good ones, rotated, blurred or badly lit, and of the "
        "questions whose answer turns on such a fact (default: 0, as they come)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--mixed",
        type=int,
        default=150_000,
        help=f"mixed questions in each language; {MIXED:.0%} of the questions are such; 0: none".replace("%", "%%"),
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output, if any")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    words = parser()
    words.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder with the weights to start from")
    options = words.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32)
    processor = AnomalyGPTProcessor.from_pretrained(options.checkpoint)
    sizes = (options.steps, options.batch_size, options.seed, options.questions, options.english)
    model.requires_grad_(False)
    for name in TRAINED_PARTS:
        getattr(model.model, name).requires_grad_(True)
    others = words_alike(processor.tokenizer, model.get_input_embeddings())
    mixed = mixed_by_language(options.mixed, options.seed)
    data = Questions(
        processor, model.config, *sizes, others, unanswered=options.unanswered, mixed=mixed, by_facts=options.by_facts
    )
    model.topic_head = torch.nn.Linear(model.config.text_config.hidden_size, len(data.all_topics))
    train(model, data, options)
    del model.topic_head
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
