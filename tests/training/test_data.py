"""The training mix: what a sample is, where it comes from, and that seed, epoch and index alone decide it."""

import functools
import itertools
import pickle
import warnings
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from datasets_scripts.anomaly_files import read_mask
from modeling_anomalygpt.data.examples import Wording, seen_part
from modeling_anomalygpt.data.sources import LabelledPictures, PlainConversations, SyntheticPairs, labelled_example
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.images import MASK_THRESHOLD, PictureError
from modeling_anomalygpt.synthesis.synthesizer import Mixture, nsa
from modeling_anomalygpt.training.collator import InspectionCollator
from modeling_anomalygpt.training.data import StreamedExamples, TrainingExamples
from tests.inspection_rows import (
    answers,
    conversation_rows,
    decoded,
    defect_mask,
    grey_picture,
    inspection_rows,
    marking,
)
from tests.tiny_processor import make_processor

FIXED = Wording(varied=False)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


BOTH_OF_SIX = [name for index in range(6) for name in (f"nut/{index}", f"nut/{index} (synthetic)")]


def pairs(count=6, **options):
    return SyntheticPairs(inspection_rows(count), "nuts", mixture=marking, **options)


def mixed(processor, **options):
    sources = [
        pairs(),
        LabelledPictures(inspection_rows(2, 3, "bolt", 100), "bolts", weight=0.5),
        PlainConversations(conversation_rows(), weight=1.5),
    ]
    return TrainingExamples(sources, processor, **({"seed": 3} | options))


def labelled(rows, processor, **options):
    options = {"reference_share": 0, "wording": FIXED} | options
    return TrainingExamples([LabelledPictures(rows, "nuts")], processor, **options)


def with_mask(mask, anomalous=True):
    """One row with this mask, a picture or a file that is read as it is."""
    rows = inspection_rows(0, 1) if anomalous else inspection_rows(1)
    rows = rows.remove_columns("mask").add_column("mask", [None]).cast_column("mask", datasets.Image())
    return rows.map(lambda row: {"mask": mask}, features=rows.features)


def described(sample):
    """Everything of a sample, comparable."""
    return {name: np.asarray(value).tobytes() if value is not None else None for name, value in sample.items()}


def grey_level(pixel_values, processor):
    """Which grey picture it was: the bottom right corner, or the darkest of the other three when it is turned."""
    picture = decoded(pixel_values, processor.image_processor)[0]
    return int(min(picture[1, -2], picture[-2, 1], picture[-2, -2], picture[1, 1]))


def test_samples_depend_on_seed_epoch_and_index_alone(processor):
    examples = mixed(processor)
    first = [described(examples[index]) for index in range(len(examples))]
    again = mixed(processor)
    assert [described(again[index]) for index in reversed(range(len(again)))][::-1] == first
    again.set_epoch(1)
    assert [described(again[index]) for index in range(len(again))] != first
    again.set_epoch(0)
    assert described(pickle.loads(pickle.dumps(again))[-2]) == first[-2]
    other = mixed(processor, seed=4)
    assert [described(other[index]) for index in range(len(other))] != first


def test_sources_share_the_samples_by_weight_in_every_stretch(processor):
    examples = mixed(processor, length=60)
    names = [examples[index]["source"] for index in range(60)]
    assert Counter(names) == {"nuts": 20, "bolts": 10, "conversations": 30}
    for start in range(0, 60, 12):
        assert Counter(names[start : start + 12]) == {"nuts": 4, "bolts": 2, "conversations": 6}


def test_an_epoch_shows_every_picture_once_by_default_in_a_new_order_and_conversations_in_turn(processor):
    examples = TrainingExamples([pairs(), PlainConversations(conversation_rows(7))], processor)
    assert len(examples) == 24
    orders, chats = [], Counter()
    for epoch in range(7):
        examples.set_epoch(epoch)
        names = [examples[index]["image_id"] for index in range(24)]
        orders.append(tuple(name for name in names if name.startswith("nut")))
        chats.update(name for name in names if name.startswith("chat"))
    assert all(sorted(order) == sorted(BOTH_OF_SIX) for order in orders)
    assert len(set(orders)) == 7
    assert set(chats.values()) == {12}


def test_both_pictures_of_a_pair_are_neighbours_and_differ_where_the_target_says(processor):
    examples = TrainingExamples(
        [pairs(), PlainConversations(conversation_rows())], processor, reference_share=0.0, wording=FIXED
    )
    for start in range(0, len(examples), 4):
        good, bad = (
            sample for sample in (examples[index] for index in range(start, start + 4)) if sample["source"] == "nuts"
        )
        assert bad["image_id"] == f"{good['image_id']} (synthetic)"
        assert answers(good, processor).startswith("No, there is no anomaly")
        assert answers(bad, processor).startswith("Yes")
        changed = np.abs(good["pixel_values"] - bad["pixel_values"]).max(0) > 0.5
        assert not good["mask_labels"].any()
        # Bicubic resizing spreads a change by two pixels.
        grown = torch.nn.functional.max_pool2d(torch.tensor(bad["mask_labels"])[None].float(), 5, 1, 2)[0].numpy() > 0
        assert not (changed & ~grown).any()
        assert (changed & (bad["mask_labels"] > 0)).sum() > 0.7 * bad["mask_labels"].sum()


def test_defects_are_new_in_every_epoch_while_the_good_picture_stays(processor):
    examples = TrainingExamples([pairs(1)], processor, reference_share=0.0)
    good, bad = set(), set()
    for epoch in range(3):
        examples.set_epoch(epoch)
        good.add(examples[0]["pixel_values"].tobytes())
        bad.add(examples[1]["pixel_values"].tobytes())
    assert (len(good), len(bad)) == (1, 3)


def test_half_of_the_samples_have_a_reference_and_it_is_never_the_picture_itself(processor):
    examples = TrainingExamples([pairs(8, short_side=None)], processor)
    turns, referenced = Counter(), 0
    for epoch in range(12):
        examples.set_epoch(epoch)
        for index in range(len(examples)):
            sample = examples[index]
            assert sample["use_reference"] == (sample["reference_pixel_values"] is not None)
            if not sample["use_reference"]:
                continue
            referenced += 1
            reference = decoded(sample["reference_pixel_values"][0], processor.image_processor)[0]
            query = int(sample["image_id"].split("/")[1].removesuffix(" (synthetic)"))
            assert grey_level(sample["reference_pixel_values"][0], processor) - 10 != query
            corners = [reference[2, 2], reference[-3, 2], reference[-3, -3], reference[2, -3]]
            turns[int(np.argmax(corners))] += 1
    assert referenced == pytest.approx(96, abs=25)
    assert all(turns[turn] == pytest.approx(referenced / 4, abs=18) for turn in range(4))


def test_references_show_the_same_category(processor):
    two = datasets.concatenate_datasets([inspection_rows(3, 0, "nut", 10), inspection_rows(3, 0, "bolt", 100)])
    examples = TrainingExamples([SyntheticPairs(two, "both", mixture=marking)], processor, reference_share=1.0)
    for index in range(12):
        sample = examples[index]
        level = grey_level(sample["reference_pixel_values"][0], processor)
        assert (level >= 100) == sample["image_id"].startswith("bolt")


def test_plain_conversations_are_said_as_written_and_have_no_target(processor):
    examples = TrainingExamples([PlainConversations(conversation_rows(1))], processor, reference_share=1.0)
    sample = examples[0]
    assert answers(sample, processor) == "It is number 0.\n###"
    assert "What is number 0?" in processor.tokenizer.decode(sample["input_ids"])
    assert sample["mask_labels"] is None
    assert sample["use_reference"] is False


def test_labelled_pictures_keep_their_masks_and_name_their_defects(processor):
    examples = labelled(inspection_rows(2, 2), processor, wording=Wording(max_turns=3), length=80)
    texts = []
    for index in range(80):
        sample = examples[index]
        anomalous = int(sample["image_id"][-1]) >= 2
        assert bool(sample["mask_labels"].any()) == anomalous
        if anomalous:
            naive = np.zeros((28, 28), int)
            naive[round(24 * 28 / 40) : round(36 * 28 / 40), round(30 * 28 / 48) : round(44 * 28 / 48)] = 1
            assert np.abs(sample["mask_labels"] - naive).sum() <= 18  # a border of one pixel at most
            texts.append(answers(sample, processor))
    assert any("scratch" in text for text in texts)
    assert any("right" in text for text in texts)


def test_sets_of_defects_alone_take_references_from_elsewhere(processor):
    source = LabelledPictures(inspection_rows(0, 3), "nuts", references=inspection_rows(4, 0, "nut", 60))
    assert source.labels == "defects"
    sample = TrainingExamples([source], processor, reference_share=1.0)[0]
    assert 60 <= grey_level(sample["reference_pixel_values"][0], processor) < 64


def test_pictures_without_masks_have_no_target_and_an_answer_without_a_place(processor):
    source = LabelledPictures(inspection_rows(0, 3, masks=False), "nuts", require_masks=False)
    sample = TrainingExamples([source], processor, reference_share=0.0, wording=FIXED)[0]
    assert sample["mask_labels"] is None
    text = answers(sample, processor)
    assert text.startswith("Yes")
    assert "right" not in text
    with pytest.raises(
        ValueError,
        match="`mask` must be given for every anomalous row of 'nuts', .* 2 of .* or leave these pictures out",
    ):
        LabelledPictures(inspection_rows(2, 2, masks=False), "nuts")


def partly_labelled():
    """Two good and two anomalous pictures, between them one without a label."""
    return inspection_rows(3, 2).map(lambda row: {"label": None if row["image_id"] == "nut/1" else row["label"]})


def test_pictures_without_a_label_are_not_trained_as_good_ones(processor):
    with pytest.warns(UserWarning, match="1 of the 5 rows of 'nuts' have no label, 0 .*, and are left out") as caught:
        examples = labelled(partly_labelled(), processor, reference_share=1.0)
    assert len(caught) == 1
    assert sorted(sample["image_id"] for sample in examples) == ["nut/0", "nut/2", "nut/3", "nut/4"]
    assert examples.training_data()["datasets"][0]["num_rows"] == 4
    with pytest.raises(ValueError, match=r"`dataset` 'nuts' must hold rows with a label, 0 \(normal\) or 1"):
        LabelledPictures(inspection_rows(2).map(lambda row: {"label": None}), "nuts")


def test_the_pixel_target_has_the_size_of_the_map(processor):
    small = labelled(inspection_rows(0, 1), processor, map_size=7)[0]["mask_labels"]
    covered = labelled(inspection_rows(0, 1), processor)[0]["mask_labels"].reshape(7, 4, 7, 4).mean((1, 3))
    np.testing.assert_array_equal(small, (covered > 0.3).astype(int))


def test_a_soft_mask_means_the_same_to_every_part_of_the_project(processor, tmp_path):
    soft = np.zeros((40, 48), np.uint8)
    soft[:, 4:44] = np.linspace(0, 255, 40).round()
    Image.fromarray(soft).save(tmp_path / "soft.png")
    expected = soft / 255 > MASK_THRESHOLD
    rows = with_mask(Image.fromarray(soft))
    np.testing.assert_array_equal(labelled_example(rows[0], "nut/0", "nuts").mask, expected)
    np.testing.assert_array_equal(read_mask([tmp_path / "soft.png"]), expected)
    image_processor = AnomalyGPTImageProcessor(size={"height": 40, "width": 48})
    target = image_processor(grey_picture(9), masks=soft)["mask_labels"][0]
    np.testing.assert_array_equal(target, expected)


def test_a_defect_smaller_than_a_pixel_of_the_map_is_still_a_target(processor):
    rows = inspection_rows(0, 1).map(lambda row: {"mask": defect_mask((30, 30, 33, 33))})
    assert labelled(rows, processor, map_size=3)[0]["mask_labels"].sum() == 1


def test_a_defect_that_the_geometry_cuts_away_is_not_spoken_of():
    processor = make_processor()
    processor.image_processor = AnomalyGPTImageProcessor(size={"height": 28, "width": 28}, geometry="center_crop")
    rows = inspection_rows(0, 1).map(
        lambda row: {"image": grey_picture(9, (96, 40)), "mask": defect_mask((88, 4, 95, 30), (96, 40))}
    )
    sample = labelled(rows, processor)[0]
    assert answers(sample, processor).startswith("No")
    assert sample["mask_labels"].sum() == 0


@pytest.mark.parametrize("size", [(40, 96), (96, 40), (57, 91)])
def test_the_seen_part_is_what_the_image_processor_shows(size):
    rng = np.random.default_rng(0)
    image_processor = AnomalyGPTImageProcessor(size={"height": 28, "width": 28}, geometry="center_crop")
    for _ in range(20):
        mask = np.zeros(size, bool)
        top, left = (int(rng.integers(0, side - 8)) for side in size)
        mask[top : top + 8, left : left + 8] = True
        target = image_processor(np.zeros((*size, 3), np.uint8), masks=mask)["mask_labels"][0]
        seen = seen_part(mask, (28, 28), "center_crop")
        assert seen.any() == target.any() or seen.sum() <= 16  # a rim of two pixels may round either way
    assert seen_part(np.ones(size, bool), (28, 28), "square").all()


def test_languages_follow_their_shares(processor):
    examples = TrainingExamples(
        [pairs()], processor, wording=Wording({"en": 1, "zh": 3}, varied=False), reference_share=0, length=200
    )
    chinese = sum("异常" in answers(examples[index], processor) for index in range(200))
    assert chinese == pytest.approx(150, abs=25)


def test_a_given_description_opens_the_question_and_long_conversations_are_cut(processor):
    wording = Wording(varied=False, descriptions={"nut": "This is a nut; a good one is grey."})
    ids = TrainingExamples([pairs()], processor, wording=wording)[0]["input_ids"]
    text = processor.tokenizer.decode(ids)
    assert "This is a nut; a good one is grey. Is there any anomaly in the image?" in text
    assert TrainingExamples([pairs()], processor, wording=wording, max_length=60)[0]["input_ids"] == ids[:60]


def test_what_the_checkpoint_says_of_its_data(processor):
    examples = mixed(processor)
    sets = examples.training_data()["datasets"]
    assert [(one["name"], one["split"], one["num_rows"], one["labels"]) for one in sets] == [
        ("nuts", "train", 6, "synthetic"),
        ("bolts", "test", 5, "supervised"),
        ("conversations", "train", 5, "conversations"),
    ]
    assert examples.summary().splitlines()[0] == ("nuts (train, synthetic): 6 rows, 12 of 35 samples an epoch (34%)")
    assert examples.categories == ["bolt", "nut"]


def test_the_fingerprint_names_data_options_settings_of_the_sources_words_and_the_processor(processor):
    fingerprint = mixed(processor).fingerprint
    assert mixed(processor).fingerprint == fingerprint
    assert len({fingerprint, *(mixed(processor, **options).fingerprint for options in (
        {"seed": 4}, {"reference_share": 0.4}, {"map_size": 14}, {"wording": FIXED}, {"length": 30},
    ))}) == 6  # fmt: skip
    rows, good = inspection_rows(2, 2), inspection_rows(3)
    light, heavy = Mixture([marking, nsa], [2, 1]), Mixture([marking, nsa], [1, 2])

    def name(source, with_processor=processor, **wording):
        return TrainingExamples([source], with_processor, wording=Wording(**wording)).fingerprint

    def made(**options):
        return SyntheticPairs(good, "nuts", **options)

    letterbox = make_processor()
    letterbox.image_processor = AnomalyGPTImageProcessor(size={"height": 28, "width": 28}, geometry="letterbox")
    names = [
        name(made(mixture=marking)),
        name(made(mixture=marking), grounded=True),
        name(made(mixture=marking), languages={"en": 1, "zh": 1}),
        name(made(mixture=marking), languages={"zh": 1, "en": 1}),
        name(made(mixture=marking), letterbox),
        name(made(mixture=marking, short_side=32)),
        name(made()),
        name(made(mixture=functools.partial(nsa, blending="mixed"))),
        name(made(mixture=light)),
        name(made(mixture=heavy)),
        name(LabelledPictures(rows, "nuts")),
        name(LabelledPictures(rows, "nuts", references=good)),
        name(LabelledPictures(rows, "nuts", references=good.select([0, 1]))),
    ]
    assert len(set(names)) == len(names)
    assert name(made(mixture=Mixture([marking, nsa], [4, 2])), make_processor()) == names[8]
    assert name(LabelledPictures(rows, "nuts", references=inspection_rows(3))) == names[11]


def test_a_picture_without_company_is_its_own_reference_turned_and_said_so(processor):
    examples = None
    with pytest.warns(UserWarning, match="Only one normal picture of nut in 'nuts': .* turned copy") as caught:
        examples = TrainingExamples([pairs(1)], processor, reference_share=1.0, length=40)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index in range(40):
            reference = decoded(examples[index]["reference_pixel_values"][0], processor.image_processor)[0]
            assert reference[2, 2] < 200  # the white quarter is elsewhere


def test_data_without_normal_pictures_have_neither_defects_nor_references(processor):
    with pytest.raises(ValueError, match=r"`dataset` 'nuts' must hold normal pictures \(label 0\) to make defects on"):
        SyntheticPairs(inspection_rows(0, 3), "nuts")
    source = LabelledPictures(inspection_rows(0, 3), "nuts")
    with pytest.raises(ValueError, match=r"must hold normal pictures \(label 0\) of nut as references, got none"):
        TrainingExamples([source], processor)
    assert TrainingExamples([source], processor, reference_share=0)[0]["use_reference"] is False


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="'nuts' must have the columns image, label, mask, got .* Add mask, or load"):
        LabelledPictures(inspection_rows(1, 1).remove_columns("mask"), "nuts")
    with pytest.raises(ValueError, match="'chat' must have the columns image, messages, got .* Add messages"):
        PlainConversations(inspection_rows(), "chat")
    with pytest.raises(ValueError, match="`dataset` 'nuts' must hold rows, got none"):
        SyntheticPairs(inspection_rows(2).select([]), "nuts")
    with pytest.raises(TypeError, match="`dataset` 'references of nuts' must be a `datasets.Dataset`, got list"):
        LabelledPictures(inspection_rows(1, 1), "nuts", references=[])


@pytest.mark.parametrize(
    ("mask", "anomalous", "text"),
    [
        (defect_mask(), False, "must be empty where the label is normal, got 168 anomalous pixels. Correct"),
        (
            Image.new("L", (48, 40)),
            True,
            "must mark a pixel where the label is anomalous, got 0 anomalous pixels. Cor",
        ),
        (defect_mask((1, 1, 4, 4), (20, 20)), True, "must have the size of its picture, 40 x 48, got 20 x 20. Give"),
    ],
    ids=["on a normal picture", "empty on an anomalous one", "of another size"],
)
def test_a_mask_that_is_not_of_its_picture_is_refused(processor, mask, anomalous, text):
    with pytest.raises(ValueError, match=f"`mask` of 'nut/0' in 'nuts' {text}"):
        labelled(with_mask(mask, anomalous), processor)[0]


def test_a_picture_that_cannot_be_read_is_named(processor, tmp_path):
    path = tmp_path / "broken.png"
    grey_picture(10).save(path)
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": [str(path)], "image_id": ["train/broken.png"]}, features=features)
    examples = TrainingExamples([SyntheticPairs(rows, "own", mixture=marking)], processor, reference_share=0)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(PictureError, match="`image` of 'train/broken.png' in 'own' must be readable, got: .* Replace"):
        examples[0]
    path.unlink()
    with pytest.raises(PictureError, match="`image` of 'train/broken.png' in 'own' must be readable, got: .*No such"):
        examples[0]


def test_malformed_conversations_are_named(processor):
    rows = conversation_rows(1).map(lambda row: {"messages": row["messages"][:1]})
    with pytest.raises(
        ValueError, match="`messages` of 'chat 0' in 'conversations' must be questions .* in turn, got"
    ):
        TrainingExamples([PlainConversations(rows)], processor)[0]


def test_wrong_weights_words_and_indices_are_refused(processor):
    examples = TrainingExamples([pairs()], processor)
    for call, text in (
        (lambda: TrainingExamples([], processor), "`sources` must hold at least one source"),
        (lambda: mixed(processor, seed=-1), "`seed` must not be negative, got -1"),
        (lambda: mixed(processor, reference_share=1.5), r"`reference_share` must be in \[0, 1\], got 1.5"),
        (lambda: mixed(processor, length=0), "`length` must be at least 1, got 0"),
        (lambda: mixed(processor, map_size=0), "`map_size` must be positive, got 0"),
        (lambda: mixed(processor, max_length=0), "`max_length` must be positive, got 0"),
        (lambda: pairs(weight=0), "`weight` must be positive, got 0"),
        (lambda: pairs(short_side=8), "`short_side` must be at least 32 pixels, got 8"),
        (lambda: Wording({"en": 0}), "`languages` must have a positive share"),
        (lambda: Wording({"en": -1}), "`languages` must have shares of at least 0, got -1 for 'en'"),
        (lambda: Wording(max_turns=0), "`max_turns` must be at least 1, got 0"),
        (lambda: examples.set_epoch(-1), "`epoch` must not be negative, got -1"),
        (lambda: examples[12], r"`index` must be in \[0, 12\), got 12"),
    ):
        with pytest.raises((ValueError, IndexError), match=text):
            call()


# Streams


def nuts(count=8, shards=4, **options):
    stream = inspection_rows(count).to_iterable_dataset(num_shards=shards)
    return SyntheticPairs(stream, "nuts", mixture=marking, **options)


def chat(**options):
    return PlainConversations(conversation_rows().to_iterable_dataset(), "chat", **options)


BOTH = Counter({name: 1 for index in range(8) for name in (f"nut/{index}", f"nut/{index} (synthetic)")})


def test_streamed_good_rows_become_pairs_and_conversations_come_between_by_weight(processor):
    stream = StreamedExamples([nuts(), chat(weight=0.5)], processor, wording=FIXED)
    samples = list(itertools.islice(stream, 24))
    assert Counter(sample["source"] for sample in samples) == {"nuts": 16, "chat": 8}
    pictures = [sample for sample in samples if sample["source"] == "nuts"]
    for good, bad in zip(pictures[::2], pictures[1::2], strict=True):
        assert bad["image_id"] == f"{good['image_id']} (synthetic)"
        assert not good["mask_labels"].any()
        assert answers(bad, processor).startswith("Yes") == bool(bad["mask_labels"].any())
    assert InspectionCollator(processor)(samples)["pixel_values"].shape[0] == 24


def test_a_stream_without_repetition_ends_with_its_rows_and_leaves_out_anomalous_ones(processor):
    rows = inspection_rows(8, 3).to_iterable_dataset()
    samples = list(StreamedExamples([SyntheticPairs(rows, "nuts", mixture=marking)], processor, repeat=False))
    assert Counter(sample["image_id"] for sample in samples) == BOTH


def test_the_same_stream_is_the_same_again_and_another_epoch_or_pass_is_not(processor):
    stream = StreamedExamples([nuts(), chat()], processor, seed=2)
    first, again = ([described(sample) for sample in itertools.islice(stream, 12)] for _ in range(2))
    assert first == again
    stream.set_epoch(1)
    assert [described(sample) for sample in itertools.islice(stream, 12)] != first
    twice = list(itertools.islice(StreamedExamples([nuts(2, 1)], processor), 8))
    assert [sample["image_id"][:5] for sample in twice] == ["nut/0", "nut/0", "nut/1", "nut/1"] * 2
    assert (twice[1]["mask_labels"] != twice[5]["mask_labels"]).any()


def test_references_of_a_stream_are_pictures_seen_before_and_at_first_the_picture_itself_turned(processor):
    samples = list(StreamedExamples([nuts(8, 1)], processor, reference_share=1.0, repeat=False))
    levels = [grey_level(sample["reference_pixel_values"][0], processor) - 10 for sample in samples]
    assert levels[:2] == [0, 0]
    assert all(level < place // 2 for place, level in enumerate(levels[2:], start=2))
    first = decoded(samples[0]["reference_pixel_values"][0], processor.image_processor)[0]
    assert first[2, 2] < 200  # the white quarter is elsewhere


def test_processes_and_workers_share_the_rows_without_repetition(processor):
    seen = Counter()
    for rank in range(2):
        stream = StreamedExamples([nuts()], processor, num_processes=2, process_index=rank, repeat=False)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
        seen.update(sample["image_id"] for sample in loader)
    assert seen == BOTH


def test_rows_without_an_id_are_other_rows_to_each_reader(processor):
    rows = inspection_rows(8, 2).remove_columns("image_id").to_iterable_dataset(num_shards=4)
    names = []
    for rank in range(2):
        source = LabelledPictures(rows, "nuts", require_masks=False)
        stream = StreamedExamples([source], processor, num_processes=2, process_index=rank, repeat=False)
        names += [sample["image_id"] for sample in torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)]
    assert len(set(names)) == len(names) == 10


def test_references_of_a_stream_are_refused():
    with pytest.raises(ValueError, match="`references` must be None with a stream, got some for 'nuts'"):
        LabelledPictures(inspection_rows(4).to_iterable_dataset(), "nuts", references=inspection_rows(2))


@pytest.mark.parametrize(("shards", "num_workers"), [(1, 2), (2, 3), (4, 2)])
def test_workers_without_a_shard_of_a_source_read_rows_of_it_and_mix_as_the_others(processor, shards, num_workers):
    rows = inspection_rows(12).to_iterable_dataset(num_shards=12)
    sources = [LabelledPictures(rows, "many shards"), nuts(12, shards)]
    stream = StreamedExamples(sources, processor, repeat=False, reference_share=0)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=num_workers)
    seen = {(sample["source"], sample["image_id"]) for sample in loader}
    assert Counter(source for source, _ in seen) == {"many shards": 12, "nuts": 12}
    alone = StreamedExamples([nuts(8, shards)], processor, repeat=False)
    loader = torch.utils.data.DataLoader(alone, batch_size=None, num_workers=num_workers)
    assert Counter(sample["image_id"] for sample in loader) == BOTH


def test_labelled_streams_keep_their_masks_and_leave_out_rows_without_a_label(processor):
    source = LabelledPictures(partly_labelled().to_iterable_dataset(), "nuts")
    samples = list(StreamedExamples([source], processor, reference_share=1.0, repeat=False))
    assert [sample["image_id"] for sample in samples] == ["nut/0", "nut/2", "nut/3", "nut/4"]
    assert [bool(np.any(sample["mask_labels"])) for sample in samples] == [False] * 2 + [True] * 2
    assert all(sample["use_reference"] for sample in samples)


def test_streams_and_tables_are_not_taken_for_each_other(processor):
    with pytest.raises(TypeError, match="`sources` must have a length, got the stream 'nuts'. Use StreamedExamples"):
        TrainingExamples([nuts()], processor)
    with pytest.raises(TypeError, match="`sources` must be streams, got 'nuts'. Use `.to_iterable_dataset"):
        StreamedExamples([pairs()], processor)
    with pytest.raises(ValueError, match=r"`process_index` must be in \[0, 1\), got 1. Give rank and world size"):
        StreamedExamples([nuts()], processor, process_index=1)


def test_several_kinds_of_one_defect_are_all_told():
    row = {"image": Image.new("RGB", (40, 40)), "label": 1, "defect_type": "burnt, scratch,"}
    assert labelled_example(row, "nut/0", "nuts").defect_types == ("burnt", "scratch")
    assert labelled_example(row | {"defect_type": None}, "nut/0", "nuts").defect_types == ()
