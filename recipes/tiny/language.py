"""Teaches the small language model to read evidence: first maps drawn by a rule, then maps the model itself makes.

    python -m recipes.tiny.language --checkpoint DIR --output DIR --steps 1000 [--evidence FILE.npz ...] [--resume]

The vision tower does not take part: a picture is its global vector and its map. `--checkpoint` is a folder with
untrained or earlier weights; with `--evidence` (see recipes.tiny.evidence) a part of the samples are real maps.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.conversations.facts import Facts
from modeling_anomalygpt.conversations.instructions import TOPICS, Speaker, conversation
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.dialogue import with_picture
from modeling_anomalygpt.modeling_anomalygpt import fill_placeholders
from modeling_anomalygpt.prompts import POSITION_NAMES, category_name
from recipes.tiny.drawn_evidence import draw_category, draw_evidence
from recipes.tiny.evidence import EvidenceFiles
from recipes.tiny.prompts import MapHeads, targets
from recipes.tiny.unknowable_questions import unknowable_question

LANGUAGES = ("en", "zh")
FIRST_WORD_WEIGHT, FACT_WORD_WEIGHT, HEADS_WEIGHT = 4.0, 2.0, 0.3
NAMED_SHARE, CHECKED_SHARE = 0.25, 0.35
NAMING = ("object", "object", "describe", "absent_thing")
CHECKING = (
    "place_check", "place_check", "kind_check", "kind_check", "kind", "kind", "size", "size", "unknowable",
    "unknowable",
)  # fmt: skip
BATCHES_AT_ONCE = 8  # sorted by length, so that little is computed for padding


class EvidenceTrainer(Trainer):
    """Trains on global vectors and maps instead of pictures, with weights for the words that decide.

    With the heads of `recipes.tiny.prompts`, the prompt learner goes on learning places and number from every map,
    whatever is asked about it.
    """

    heads: MapHeads | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        base, labels, weights = model.model, inputs["labels"], inputs["weights"]
        seen = base.embed_evidence(inputs["image_embeds"], inputs["anomaly_map"])
        embeddings = base.get_input_embeddings()
        vectors = embeddings(inputs["input_ids"])
        token = base.config.image_token_id
        vectors = fill_placeholders(seen, inputs["input_ids"], vectors, token, embeddings)
        answered = labels[:, 1:] != -100
        with torch.autocast("cpu", torch.bfloat16):
            hidden = base.language_model(
                attention_mask=inputs["attention_mask"], inputs_embeds=vectors, use_cache=False
            ).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][answered])
        each = functional.cross_entropy(logits.float(), labels[:, 1:][answered], reduction="none")
        weights = weights[:, 1:][answered]
        loss = (each * weights).sum() / weights.sum()
        if self.heads is not None:
            prompts = seen[:, -base.config.num_map_prompts :]
            loss = loss + HEADS_WEIGHT * self.heads.loss(prompts, inputs["held"], inputs["count"])[0]
        return (loss, {"logits": logits}) if return_outputs else loss

    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Conversations(torch.utils.data.Dataset):
    """Batches of conversations about drawn and seen evidence; batch `index` is the same in every run."""

    def __init__(self, processor, config, batches: int, batch_size: int, seed: int, evidence, seen_share: float):
        self.processor, self.config, self.seed = processor, config, seed
        self.batches, self.batch_size = batches, batch_size
        self.evidence, self.seen_share = evidence, seen_share if evidence is not None else 0.0
        self.fact_words = fact_words(processor)
        self.made = -1, []

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        group = index // BATCHES_AT_ONCE
        if self.made[0] != group:
            rng = np.random.default_rng([self.seed, group])
            samples = [self.sample(rng) for _ in range(BATCHES_AT_ONCE * self.batch_size)]
            samples.sort(key=lambda sample: len(sample["input_ids"]))
            order = rng.permutation(BATCHES_AT_ONCE)
            self.made = group, [samples[i * self.batch_size : (i + 1) * self.batch_size] for i in order]
        return self.collate(self.made[1][index % BATCHES_AT_ONCE])

    def sample(self, rng: np.random.Generator) -> dict:
        """One conversation and what it is about."""
        if rng.random() < self.seen_share:
            image_embeds, anomaly_map, facts = self.evidence.draw(rng)
            if rng.random() < 0.5:  # a name may be any
                facts = dataclasses.replace(facts, category=draw_category(rng), description=None)
            elif rng.random() < 0.5:
                facts = dataclasses.replace(facts, description=None)
        else:
            anomaly_map, facts = draw_evidence(rng, self.config.map_size)
            image_embeds = rng.normal(0, 1, self.config.projection_dim).astype(np.float32)
            image_embeds /= np.linalg.norm(image_embeds)
        language = "zh" if not facts.category.isascii() else str(rng.choice(LANGUAGES))
        encoded = self.processor.encode_conversation(
            with_picture(told_conversation(facts, rng, language)), max_length=400
        )
        name = self.processor.tokenizer(f" {category_name(facts.category, language)}")["input_ids"]
        held, count = targets(facts)
        return encoded | {
            "image_embeds": image_embeds, "anomaly_map": anomaly_map, "held": held, "count": count,
            "weights": self.weights(encoded["labels"], name),
        }  # fmt: skip

    def weights(self, labels: list[int], name: list[int]) -> list[float]:
        """The weight of each answer token: most for first words, more for words that carry facts."""
        heavy = self.fact_words.union(name)
        weights = [FACT_WORD_WEIGHT if label in heavy else 1.0 for label in labels]
        for index in range(1, len(labels)):
            if labels[index] != -100 and labels[index - 1] == -100:
                weights[index] = FIRST_WORD_WEIGHT
        return weights

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """Right-padded batch, each answer token with its weight."""
        batch = dict(self.processor.pad_conversations([{k: s[k] for k in ("input_ids", "labels")} for s in samples]))
        for name in ("image_embeds", "anomaly_map", "held", "count"):
            batch[name] = torch.from_numpy(np.stack([sample[name] for sample in samples]))
        length = batch["labels"].shape[1]
        padded = [sample["weights"] + [0.0] * (length - len(sample["weights"])) for sample in samples]
        batch["weights"] = torch.tensor(padded)
        return batch


def told_conversation(facts: Facts, rng: np.random.Generator, language: str) -> list[dict[str, str]]:
    """A conversation that names the object in an answer only where the user has named it."""
    practice = rng.random()
    if practice < NAMED_SHARE:  # copying a name takes practice
        turns = practised(facts, rng, language, [NAMING])
    elif practice < NAMED_SHARE + CHECKED_SHARE:  # and so does comparing what is asked with what is seen
        turns = practised(facts, rng, language, [CHECKING] * int(rng.integers(1, 4)))
    else:
        turns = conversation(facts, rng, language, max_turns=4)
    name = category_name(facts.category, language).casefold()
    for index, turn in enumerate(turns):
        earlier = "".join(earlier["content"] for earlier in turns[:index] if earlier["role"] == "user")
        if turn["role"] == "assistant" and name in turn["content"].casefold() and name not in earlier.casefold():
            return conversation(dataclasses.replace(facts, category="object"), rng, language, max_turns=4)
    return turns


def practised(facts: Facts, rng: np.random.Generator, language: str, topics: list[tuple]) -> list[dict[str, str]]:
    """A first question and its answer, then one turn of each of the groups of topics."""
    turns = conversation(facts, rng, language, max_turns=1)
    for group in topics:
        topic = str(rng.choice(group))
        asked = TOPICS[topic](Speaker(facts, language, rng))
        if asked is not None:
            question = unknowable_question(rng, language) if topic == "unknowable" and rng.random() < 0.6 else asked[0]
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": asked[1]}]
    return turns


def fact_words(processor) -> set[int]:
    """Tokens of the words that carry facts: places, numbers, kinds."""
    words = [f" {word}" for row in POSITION_NAMES["en"] for name in row for word in name.split()]
    english, chinese = load_phrases("en"), load_phrases("zh")
    words += [f" {word}" for word in english["numbers"]] + [f" {digit}" for digit in range(10)] + list("0123456789")
    words += [f" {word}" for _, _, kind in english["kinds"].values() for word in kind.split()]
    words += [name for row in POSITION_NAMES["zh"] for name in row] + chinese["numbers"]
    words += [kind for _, _, kind in chinese["kinds"].values()]
    return {token for word in words for token in processor.tokenizer(word)["input_ids"]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.language", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder with the weights to start from")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for checkpoints and the result")
    parser.add_argument("--evidence", type=pathlib.Path, nargs="+", help="seen maps; none: drawn ones only")
    parser.add_argument("--seen-share", type=float, default=0.75, help="part of the samples taken from --evidence")
    parser.add_argument("--heads", type=pathlib.Path, help="folder of recipes.tiny.prompts: its heads go on teaching")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output, if any")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32)
    processor = AnomalyGPTProcessor.from_pretrained(options.checkpoint)
    evidence = EvidenceFiles(options.evidence) if options.evidence else None
    sizes = (options.steps, options.batch_size)
    data = Conversations(processor, model.config, *sizes, options.seed, evidence, options.seen_share)
    model.requires_grad_(False)
    for part in (model.model.prompt_learner, model.model.multi_modal_projector, model.model.language_model):
        part.requires_grad_(True)
    trainer = EvidenceTrainer(
        model,
        TrainingArguments(
            str(options.output / "trainer"),
            max_steps=options.steps,
            per_device_train_batch_size=1,  # an item of the data is a batch
            learning_rate=options.learning_rate,
            adam_beta2=0.95,
            weight_decay=0.05,
            warmup_steps=0.03,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            logging_steps=50,
            save_steps=250,
            save_total_limit=1,
            dataloader_num_workers=1,
            remove_unused_columns=False,
            use_cpu=True,
            report_to=[],
            seed=options.seed,
        ),
        data_collator=lambda items: items[0],
        train_dataset=data,
    )
    trainer.heads = MapHeads.load(options.heads, model.config.text_config.hidden_size) if options.heads else None
    begun = any((options.output / "trainer").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=(options.resume and begun) or None)
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
