"""Teaches the small language model to read evidence: first maps drawn by a rule, then maps the model itself makes.

    python -m recipes.tiny.language --checkpoint DIR --output DIR --steps 1000 [--evidence FILE.npz ...] [--resume]

The vision tower does not take part: a picture is its global vector and its map. `--checkpoint` is a folder with
untrained or earlier weights; with `--evidence` (see recipes.tiny.evidence) half of the samples are real maps.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.dialogue import with_picture
from modeling_anomalygpt.instructions import conversation
from modeling_anomalygpt.outputs_anomalygpt import AnomalyGPTImageFeatures
from recipes.tiny.drawn_evidence import draw_evidence
from recipes.tiny.evidence import EvidenceFiles

LANGUAGES = ("en", "zh")


class EvidenceTrainer(Trainer):
    """Trains on global vectors and maps instead of pictures; an answer's first word, which decides, counts more."""

    first_word_weight = 4.0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        tokens = model.model.embed_evidence(inputs.pop("image_embeds"), inputs.pop("anomaly_map"))
        labels = inputs.pop("labels")
        outputs = model(**inputs, mm_encoder_outputs={"image": AnomalyGPTImageFeatures(pooler_output=tokens)})
        targets = labels[:, 1:]
        answered = targets != -100
        first = answered & (labels[:, :-1] == -100)
        weights = answered.float() + (self.first_word_weight - 1) * first.float()
        each = functional.cross_entropy(outputs.logits[:, :-1].transpose(1, 2), targets, reduction="none")
        loss = (each * weights).sum() / weights.sum()
        return (loss, outputs) if return_outputs else loss


class Conversations(torch.utils.data.Dataset):
    """Endless conversations about drawn and seen evidence; sample `index` is the same in every run."""

    def __init__(self, processor, config, length: int, seed: int, evidence: EvidenceFiles | None, seen_share: float):
        self.processor, self.config = processor, config
        self.length, self.seed = length, seed
        self.evidence, self.seen_share = evidence, seen_share if evidence is not None else 0.0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng([self.seed, index])
        if rng.random() < self.seen_share:
            image_embeds, anomaly_map, facts = self.evidence.draw(rng)
        else:
            anomaly_map, facts = draw_evidence(rng, self.config.map_size)
            image_embeds = rng.normal(0, 1, self.config.projection_dim).astype(np.float32)
            image_embeds /= np.linalg.norm(image_embeds)
        turns = conversation(facts, rng, str(rng.choice(LANGUAGES)), max_turns=3)
        encoded = self.processor.encode_conversation(with_picture(turns), max_length=320)
        return encoded | {"image_embeds": image_embeds, "anomaly_map": anomaly_map}

    def collate(self, samples: list[dict]) -> dict[str, torch.Tensor]:
        """Right-padded batch."""
        batch = dict(self.processor.pad_conversations([{k: s[k] for k in ("input_ids", "labels")} for s in samples]))
        for name in ("image_embeds", "anomaly_map"):
            batch[name] = torch.from_numpy(np.stack([sample[name] for sample in samples]))
        return batch


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.language", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="folder with the weights to start from")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for checkpoints and the result")
    parser.add_argument("--evidence", type=pathlib.Path, nargs="+", help="seen maps; none: drawn ones only")
    parser.add_argument("--seen-share", type=float, default=0.75, help="part of the samples taken from --evidence")
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
    length = options.steps * options.batch_size
    data = Conversations(processor, model.config, length, options.seed, evidence, options.seen_share)
    model.requires_grad_(False)
    for part in (model.model.prompt_learner, model.model.multi_modal_projector, model.model.language_model):
        part.requires_grad_(True)
    trainer = EvidenceTrainer(
        model,
        TrainingArguments(
            str(options.output / "trainer"),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            adam_beta2=0.95,
            weight_decay=0.05,
            warmup_steps=0.03,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            logging_steps=50,
            save_steps=500,
            save_total_limit=1,
            dataloader_num_workers=1,
            remove_unused_columns=False,
            use_cpu=True,
            report_to=[],
            seed=options.seed,
        ),
        data_collator=data.collate,
        train_dataset=data,
    )
    begun = any((options.output / "trainer").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=(options.resume and begun) or None)
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)


if __name__ == "__main__":
    main()
