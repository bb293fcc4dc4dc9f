"""Converted weights behave as the original's do: every golden tensor within 1e-4 of its largest value.

`pytest tests/conversion/test_parity_original.py --golden DIR` runs it with golden folders of other seeds and sizes.
"""

import functools
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modeling_anomalygpt import (
    AnomalyGPTForConditionalGeneration,
    AnomalyGPTImageProcessor,
    AnomalyGPTProcessor,
    MemoryBank,
)
from modeling_anomalygpt.conversion.convert import convert
from modeling_anomalygpt.localization import patch_scores
from modeling_anomalygpt.modeling_anomalygpt import dice_loss, focal_loss
from modeling_anomalygpt.prompts import state_prompts
from tests.clip_merges import write_merges
from tests.golden_checkpoints import write_checkpoints

TOLERANCE = 1e-4
ONE_GREY_LEVEL = 1.01 / 255 / 0.26130258  # of the channel with the smallest deviation
QUESTION = "This is a photo of a bottle. Is there any anomaly in the image?"
TRAINING_QUESTION = "This is a photo of a bottle for anomaly detection. Is there any anomaly in the image?"
CONVERSATIONS = [
    [("user", TRAINING_QUESTION), ("assistant", "No, there is no anomaly in the image.")],
    [
        ("user", TRAINING_QUESTION),
        ("assistant", "Yes, there is an anomaly in the image, at the top right of the image."),
        ("user", "Where is it?"),
        ("assistant", "It is at the top right."),
    ],
]
CATEGORIES = ("bottle", "metal nut", "object", "pcb1")


def assert_relative(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    """No difference above `tolerance` times the largest expected value."""
    assert tuple(actual.shape) == tuple(expected.shape)
    error = (actual.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-12)
    assert error <= tolerance, f"relative error {error:.3g}"


class Golden:
    """A golden folder, converted and loaded once."""

    def __init__(self, folder: Path, work: Path):
        self.folder = folder
        self.expected = load_file(folder / "expected.safetensors")
        self.spec = write_checkpoints(folder, work)
        vocabulary = folder / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
        self.report = convert(
            imagebind=work / "imagebind_huge.pth",
            vicuna=work / "vicuna",
            pandagpt=work / "pandagpt" / "pytorch_model.pt",
            anomalygpt=work / "anomalygpt" / "pytorch_model.pt",
            clip_bpe=vocabulary if vocabulary.is_file() else write_merges(work / "merges.txt"),
            dtype="float32",
            out_indices=[layer + 1 for layer in self.spec["out_layers"]],
            max_shard_size="5MB",
            output=work / "converted",
            progress=False,
        )
        self.model = AnomalyGPTForConditionalGeneration.from_pretrained(work / "converted").eval()
        self.processor = AnomalyGPTProcessor.from_pretrained(work / "converted")

    def pictures(self, *names: str) -> list[Image.Image]:
        return [Image.open(self.folder / "images" / f"{name}.png") for name in names]

    @functools.cached_property
    def inputs(self):
        """The four pictures with the question, as the original's web demo prepares them."""
        pictures = self.pictures("plain", "spot", "grey", "alpha")
        return self.processor(images=pictures, text=[QUESTION] * 4, category="bottle", return_tensors="pt")

    @functools.cached_property
    def references(self) -> torch.Tensor:
        """Plain and grey, prepared as the original prepares references."""
        prepare = AnomalyGPTImageProcessor(geometry="center_crop")
        return prepare(self.pictures("plain", "grey"), return_tensors="pt")["pixel_values"]

    @functools.cached_property
    def rotated(self) -> torch.Tensor:
        """Plain in four directions, turned as the inspector turns references."""
        turned = [self.pictures("plain")[0].rotate(angle, expand=True) for angle in (0, 90, 180, 270)]
        return AnomalyGPTImageProcessor(geometry="center_crop")(turned, return_tensors="pt")["pixel_values"]

    def features(self, category: str = "bottle", **arguments):
        """What the model sees in the four pictures."""
        inputs = {name: self.inputs[name] for name in ("pixel_values", "state_prompt_ids", "state_prompt_labels")}
        if category != "bottle":
            pictures = self.pictures("plain", "spot", "grey", "alpha")
            inputs = self.processor(images=pictures, category=category, return_tensors="pt")
        with torch.no_grad():
            return self.model.get_image_features(**inputs, **arguments)

    def bank(self, pixel_values: torch.Tensor) -> MemoryBank:
        with torch.no_grad():
            return MemoryBank.build(
                self.model.model.get_patch_features(pixel_values), self.model.model.encoder_fingerprint()
            )

    def entering_language_model(self, index: int, **arguments) -> torch.Tensor:
        """`inputs_embeds` of one picture, caught at the language model's door."""
        caught = []
        hook = self.model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: caught.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        try:
            with torch.no_grad():
                self.model(**{name: value[index : index + 1] for name, value in self.inputs.items()}, **arguments)
        finally:
            hook.remove()
        return caught[0]

    @functools.cached_property
    def training_batch(self):
        conversations = [
            self.processor.encode_conversation([{"role": role, "content": text} for role, text in turns])
            for turns in CONVERSATIONS
        ]
        return self.processor.pad_conversations(conversations)

    def training_step(self, category: str = "bottle", masks: bool = True, few_shot: bool = False):
        """Forward and backward through the public training path; the model's outputs and gradients by name."""
        pictures = self.pictures("plain", "spot")
        batch = {**self.training_batch, **self.processor(images=pictures, category=category, return_tensors="pt")}
        if masks:
            batch["mask_labels"] = golden_masks()
        if few_shot:
            turned = torch.stack([self.references[1].rot90(turns, (1, 2)) for turns in range(4)])
            batch["reference_pixel_values"] = turned.expand(2, -1, -1, -1, -1)
        self.model.zero_grad()
        outputs = self.model(**batch)
        outputs.loss.backward()
        named = dict(self.model.named_parameters())
        gradients = {
            "base_prompts": named["model.prompt_learner.base_prompts"].grad,
            "image_decoder.fc.0.weight": named["model.localizer.layers.0.weight"].grad,
        }
        return outputs, gradients


def golden_masks() -> torch.Tensor:
    masks = torch.zeros(2, 224, 224)
    masks[1, 45:101, 123:168] = 1
    return masks


@pytest.fixture(scope="module")
def golden(golden_dir, tmp_path_factory) -> Golden:
    return Golden(golden_dir, tmp_path_factory.mktemp("golden"))


# Vocabulary


def test_every_prompt_piece_has_the_originals_ids(golden):
    pieces = json.loads((golden.folder / "segments.json").read_text())
    assert any(ord(character) > 0x4E00 for piece in pieces for character in piece)
    for piece, ids in pieces.items():
        assert golden.processor.tokenizer(piece, add_special_tokens=False).input_ids == ids, piece


@pytest.mark.parametrize(
    ("index", "text"), [(0, "a photo of a flawless metal nut."), (2, "It's a 500mm pipe-fryum, damaged!")]
)
def test_sentences_have_the_originals_clip_ids(golden, index, text):
    expected = golden.expected["clip_tokens"][index].tolist()
    ids = golden.processor.class_tokenizer(text).input_ids
    assert ids == expected[: len(ids)]
    assert not any(expected[len(ids) :])


def test_state_prompts_have_the_originals_clip_ids(golden):
    for row, category in enumerate(CATEGORIES):
        inputs = golden.processor(images=golden.pictures("plain"), category=category, return_tensors="pt")
        ids, labels = inputs["state_prompt_ids"][0], inputs["state_prompt_labels"][0]
        for label, name in enumerate(("normal", "abnormal")):
            expected = golden.expected[f"clip_prompt_tokens.{name}"][row]
            lengths = expected.argmax(1) + 1  # the end token has the highest id
            ours = ids[labels == label]
            assert len(ours) == len(expected) == len(state_prompts(category)[label])
            for one, other, length in zip(ours, expected, lengths, strict=True):
                assert one[:length].tolist() == other[:length].tolist()


def test_training_conversations_have_the_originals_ids_and_targets(golden):
    batch = golden.training_batch
    expected_ids, expected_labels = golden.expected["train.input_ids"], golden.expected["train.labels"]
    head = batch["input_ids"].shape[1] - expected_ids.shape[1]
    assert torch.equal(batch["input_ids"][:, head:], expected_ids)
    assert torch.equal(batch["labels"][:, head:], expected_labels)
    assert torch.equal(batch["attention_mask"][:, head:], golden.expected["train.attention_mask"])
    assert (batch["labels"][:, :head] == -100).all()


# Pictures


@pytest.mark.parametrize("geometry", ["center_crop", "square"])
def test_preprocessing_agrees_within_one_grey_level(golden, geometry):
    pictures = golden.pictures("landscape", "defect", "portrait_gray", "rgba")
    ours = AnomalyGPTImageProcessor(geometry=geometry)(pictures, return_tensors="pt")["pixel_values"]
    difference = (ours[..., ::7, ::5] - golden.expected[f"preprocess.{geometry}"]).abs().max()
    assert difference <= ONE_GREY_LEVEL


def test_rotated_references_agree(golden):
    assert_relative(golden.rotated[..., ::7, ::5], golden.expected["rotated_pixels"])


# Towers


def test_blocks_and_image_embeds_agree(golden):
    features = golden.features()
    assert_relative(features.image_embeds, golden.expected["imagebind.image_embeds"])
    with torch.no_grad():
        hidden = golden.model.model.vision_tower(
            golden.inputs["pixel_values"], output_hidden_states=True
        ).hidden_states
    for i, index in enumerate(golden.model.config.out_indices):
        assert_relative(hidden[index][:, ::9], golden.expected[f"imagebind.patch_features.{i}"])
        torch.testing.assert_close(features.patch_features[i].vectors, hidden[index][:, 1:])


def test_text_features_agree(golden):
    for row, category in enumerate(CATEGORIES):
        inputs = golden.processor(images=golden.pictures("plain"), category=category, return_tensors="pt")
        with torch.no_grad():
            ours = golden.model.model.get_text_embeds(inputs["state_prompt_ids"], inputs["state_prompt_labels"])
        assert_relative(ours[0], golden.expected["text_features"][row])


# Maps


def test_text_guided_maps_agree(golden):
    ours = golden.features().anomaly_map[:, None, ::4, ::4]
    assert_relative(ours, golden.expected["anomaly_map.zero_shot.bottle"])


def test_few_shot_maps_agree_with_a_bank_and_with_pictures(golden):
    expected = golden.expected["anomaly_map.few_shot"]
    by_bank = golden.features(memory_bank=golden.bank(golden.references)).anomaly_map
    by_pictures = golden.features(reference_pixel_values=golden.references.expand(4, -1, -1, -1, -1)).anomaly_map
    assert_relative(by_bank[:, None, ::4, ::4], expected)
    assert_relative(by_pictures[:, None, ::4, ::4], expected)


def test_rotated_bank_and_its_scores_agree(golden):
    with torch.no_grad():
        layers = golden.model.model.get_patch_features(golden.rotated)
        queries = golden.model.model.get_patch_features(golden.inputs["pixel_values"][1:2])
    for i, layer in enumerate(layers):
        assert_relative(layer.vectors.flatten(0, 1)[None, ::9], golden.expected[f"memory_bank.rotated.{i}"])
    bank = golden.bank(golden.rotated)
    scores = torch.stack([patch_scores(query, rows) for query, rows in zip(queries, bank.features, strict=True)])
    assert_relative(scores.mean(0).flatten(), golden.expected["patch_scores.rotated"])


# Language model


def test_prompt_embeds_agree(golden):
    assert_relative(golden.features().pooler_output[:, 1:], golden.expected["prompt_embeds.zero_shot"])


def test_what_enters_the_language_model_agrees(golden):
    assert_relative(golden.entering_language_model(0), golden.expected["inputs_embeds.zero_shot.0"])
    few_shot = golden.entering_language_model(3, memory_bank=golden.bank(golden.references))
    assert_relative(few_shot, golden.expected["inputs_embeds.few_shot.3"])


def test_logits_and_greedy_tokens_agree(golden):
    inputs = {name: value[:1] for name, value in golden.inputs.items()}
    with torch.no_grad():
        logits = golden.model(**inputs).logits
        expected = golden.expected["greedy_ids.zero_shot.0"]
        # The original was run for exactly these tokens, without its stop rule.
        ids = golden.model.generate(**inputs, max_new_tokens=expected.shape[1], eos_token_id=-1, do_sample=False)
    assert_relative(logits, golden.expected["logits.zero_shot.0"])
    assert torch.equal(ids[:, inputs["input_ids"].shape[1] :], expected)


# Training


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("zero_shot", {}),
        ("few_shot", {"few_shot": True}),
        ("plain_dialogue", {"masks": False, "category": "object"}),
    ],
)
def test_training_losses_accuracies_and_gradients_agree(golden, name, arguments):
    outputs, gradients = golden.training_step(**arguments)
    assert_relative(outputs.loss.view(1), golden.expected[f"train.{name}.loss"])
    targets = golden.training_batch["labels"][:, 1:]
    answered = targets != -100
    correct = (outputs.logits[:, :-1].argmax(-1) == targets) & answered
    accuracy = correct.sum() / answered.sum()
    torch.testing.assert_close(accuracy.view(1), golden.expected[f"train.{name}.token_accuracy"])
    for parameter, gradient in gradients.items():
        if f"train.{name}.grad.{parameter}" in golden.expected:
            assert_relative(gradient, golden.expected[f"train.{name}.grad.{parameter}"])


def test_pixel_losses_agree(golden):
    draw = np.random.RandomState(3).standard_normal((2, 2, 224, 224))
    probability = torch.from_numpy(draw).softmax(1).float()
    masks = golden_masks()
    assert_relative(focal_loss(probability, masks).mean().view(1), golden.expected["loss.focal"])
    assert_relative(dice_loss(probability[:, 1], masks).mean().view(1), golden.expected["loss.dice"])


# The fixture itself


def test_the_merges_that_stand_in_for_clips_file_are_lines_of_it(golden, tmp_path):
    original = golden.folder / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
    if not original.is_file():
        pytest.skip("the golden folder holds no clip_bpe/")
    lines = gzip.decompress(original.read_bytes()).decode().split("\n")[1:]
    used = (Path(__file__).parents[1] / "fixtures" / "clip_merges_used.txt").read_text().splitlines()
    for line in used:
        rank, merge = line.split("\t")
        assert lines[int(rank)] == merge
