"""`anomalygpt train` and `anomalygpt merge` as a person calls them."""

import dataclasses
import json
import re
import shutil

import pytest
from PIL import Image

from modeling_anomalygpt.cli.options import only_writer
from modeling_anomalygpt.cli.train import _classes, parse_settings
from modeling_anomalygpt.cli.training_data import good_pictures
from modeling_anomalygpt.hub.card import readdressed
from modeling_anomalygpt.inspector import AnomalyInspector

pytest.importorskip("peft")

QUICK = (
    "--model", "model", "--use_cpu", "True", "--short_side", "40", "--max_steps", "2", "--logging_steps", "1",
    "--per_device_train_batch_size", "2", "--save_steps", "1",
)  # fmt: skip


def test_good_photographs_become_an_adapter_that_inspects_and_merges(place, call):
    code, out, err = call(
        "train", "--recipe", "own_parts", "--good", "parts/nut/train/good", "--category", "plate", "--output", "plate",
        *QUICK, "--eval_dataset", "anomaly_folder=parts/nut", "--report_to", "none",
    )  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("prompt: trains ")
    assert lines[1].startswith("plate (good, synthetic): 5 rows")
    assert any(line.startswith("step 2/2: loss ") for line in lines)
    assert any(line.startswith("measured: loss_lm ") and "image_auroc" in line for line in lines)
    assert lines[-2:] == [
        "saved plate (last checkpoint: plate/checkpoint-2)",
        "try it: anomalygpt inspect PICTURE --model plate --references GOOD",
    ]
    card = (place / "plate" / "README.md").read_text(encoding="utf-8")
    assert "plate (split good, 5 pictures, labels synthetic)" in card
    assert 'AnomalyInspector.from_pretrained("plate")' in card
    assert 'category="plate"' in card
    assert 'category="plate"' in readdressed(card, "me/plate", "me/base")
    assert json.loads((place / "plate" / "training_data.json").read_text())["datasets"][0]["name"] == "plate"

    code, out, err = call("merge", "plate", "--output", "merged")
    assert (code, out) == (0, "saved merged\n"), err
    answers, numbers = [], []
    for folder in ("plate", "merged"):
        inspector = AnomalyInspector.from_pretrained(folder, device="cpu")
        inspector.set_references(["parts/nut/train/good/0.png"], category="plate")
        result = inspector.inspect("parts/nut/test/scratch/0.png")
        answers.append((result.verdict, result.answer))
        numbers.append((result.pred_score, result.log_odds))
    assert answers[0] == answers[1]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_the_same_command_with_resume_goes_on_and_without_it_is_refused(place, call):
    common = ("train", "--good", "parts/nut/train/good", "--output_dir", "again", *QUICK)
    assert call(*common)[0] == 0
    shutil.rmtree(place / "again" / "checkpoint-2")
    code, _, err = call(*common)
    assert code == 2
    refused = "`--output` must be a new folder, got 'again', which holds checkpoint-1. Add --resume to go on from it"
    assert refused in err.splitlines()[-1]
    code, out, err = call(*common, "--resume")
    assert code == 0, err
    assert "going on from again/checkpoint-1" in out
    assert not any(line.startswith("step 1/2") for line in out.splitlines())
    before = {path: path.read_bytes() for path in (place / "again").rglob("*") if path.is_file()}
    code, out, err = call(*common, "--resume")
    assert (code, out.splitlines()[-1]) == (
        0, "finished: again/checkpoint-2 holds the last of 2 steps; nothing was changed",
    ), err  # fmt: skip
    assert before == {path: path.read_bytes() for path in (place / "again").rglob("*") if path.is_file()}
    code, _, err = call(*common, "--resume", "--mixture", "nsa")
    assert (code, "`mixture` must be mixed, got nsa" in err) == (2, True), err


def test_data_sets_are_named_with_options_and_several_at_once(call):
    code, out, err = call(
        "train", "--dataset", "rendered_parts?families=screw&num_train=2&num_test=2&size=64",
        "--dataset", "anomaly_folder=parts/nut?labels=real&weight=2", "--tuning", "paper", "--output", "mixed", *QUICK,
        "--max_steps", "1",
    )  # fmt: skip
    assert code == 0, err
    assert "rendered_parts (train, synthetic): 2 rows" in out
    assert "anomaly_folder (test, supervised): 8 rows" in out


def test_references_of_labelled_pictures_come_from_the_training_split(place):
    from modeling_anomalygpt.cli.training_data import training_sources
    from modeling_anomalygpt.training.arguments import DataArguments

    folder = place / "parts" / "nut"
    [source] = training_sources(DataArguments(dataset=[f"anomaly_folder={folder}?labels=real"]))
    assert source.reference_rows.dataset[0]["split"] == "train"
    shutil.copytree(folder / "test", place / "bare" / "test")
    shutil.copytree(folder / "ground_truth", place / "bare" / "ground_truth")
    [source] = training_sources(DataArguments(dataset=[f"anomaly_folder={place}/bare?labels=real"]))
    assert source.reference_rows.dataset[0]["split"] == "test"


def test_every_page_of_a_good_photograph_can_be_read(tmp_path):
    pages = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (10, 90)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    rows = good_pictures(str(tmp_path), "plate")
    assert {row["image"].size for row in rows} == {(40, 40)}
    assert (set(rows["category"]), set(rows["label"])) == ({"plate"}, {0})


def test_a_warning_is_one_line(place, call):
    (place / "single").mkdir()
    shutil.copy(place / "parts/nut/train/good/0.png", place / "single")
    words = ("train", "--good", "single", "--output_dir", "one", "--reference_share", "1", *QUICK, "--max_steps", "1")
    code, _, err = call(*words)
    assert code == 0, err
    lines = [line for line in err.splitlines() if "arning" in line]
    assert len(lines) == 1, err
    assert lines[0].startswith("anomalygpt train: warning: Only one normal picture of object in 'single': where it")


def test_a_folder_that_holds_a_model_is_not_written_into(call):
    code, _, err = call("train", "--good", "parts/nut/train/good", "--output_dir", "model", *QUICK)
    assert (code, "`--output` must be a new folder, got 'model', which holds a model" in err) == (2, True), err


def test_a_folder_that_another_run_writes_is_refused(place, call):
    with only_writer(place, ".train.lock"):
        code, _, err = call("train", "--good", "parts/nut/train/good", "--output", place, *QUICK)
    assert code == 2
    assert "is being written by another run. Wait for it, or choose another" in err


def test_a_recipe_is_read_and_overridden(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 1e-4\ntuning: lora\ngood: [somewhere]\nmax_steps: 7\n")
    model, tuning, data, training = parse_settings(str(recipe), {"max_steps": 9, "output_dir": str(tmp_path)})
    assert (training.learning_rate, training.max_steps, tuning.tuning, data.good) == (1e-4, 9, "lora", ["somewhere"])
    recipe.write_text("languages: [en, zh]\n")
    assert parse_settings(str(recipe), {"output_dir": str(tmp_path)})[2].languages == "en,zh"
    (tmp_path / "mine.json").write_text(json.dumps({"learning_rate": 0.25}))
    assert parse_settings(str(tmp_path / "mine.json"), {"output_dir": str(tmp_path)})[3].learning_rate == 0.25


def wrong(tmp_path):
    (tmp_path / "typo.yaml").write_text("learning_rat: 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "word.yaml").write_text("max_steps: many\n")
    (tmp_path / "defects/test/scratch").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "defects/test/scratch/0.png")
    (tmp_path / "empty").mkdir()
    good = ("--good", "parts/nut/train/good")
    return [
        (("--recipe", tmp_path / "typo.yaml"), "got 'learning_rat'. Did you mean 'learning_rate'?"),
        (("--recipe", tmp_path / "broken.yaml"), "is not readable YAML"),
        (("--recipe", tmp_path / "list.yaml"), "must hold `name: value` lines, got list"),
        (("--recipe", tmp_path / "word.yaml"), "The recipe's `max_steps` cannot be 'many'"),
        (("--recipe", "own_part"), "got 'own_part'. Did you mean 'own_parts'?"),
        ((), "Nothing to train on. Give --good FOLDER"),
        (("--good", "gone"), "`--good` must be a folder of good photographs, got 'gone', which does not exist"),
        (("--good", tmp_path / "empty"), "empty'"),
        (("--dataset", "mvtec=x"), "`--dataset` must begin with one of mvtec_ad,"),
        (
            ("--dataset", "mvtec_ad=/gone"),
            "mvtec_ad must name a folder, got '/gone', which does not exist",
        ),
        (("--dataset", f"anomaly_folder={tmp_path}/defects?split=test"), "must hold normal pictures (label 0)"),
        (("--dataset", "anomaly_folder=parts/nut?labels=true"), "must be synthetic or real, got 'true'"),
        (("--dataset", "anomaly_folder=parts?category=0815"), "`category` must be one of bolt, nut, got '0815'"),
        (("--dataset", "anomaly_folder=parts/nut?weight"), "must read key=value&key=value"),
        (("--dataset", "anomaly_folder=parts/nut", "--description", "A nut."), "`--description` must come with --cat"),
        (("--conversations", "gone.json"), "`--conversations` must be a JSON file, got 'gone.json'"),
        ((*good, "--tuning", "lorra"), "`tuning` must be one of paper, prompt, lora, full, got 'lorra'"),
        ((*good, "--train_parts", "eyes"), "`train_parts` must be among the model's own parts"),
        ((*good, "--mixture", "perlin"), "`mixture` must be nsa or mixed, got 'perlin'"),
        ((*good, "--model", "nowhere/at/all"), "`model` must be a folder or a Hub id, got 'nowhere/at/all'"),
        ((*good, "--metric_for_best_model", "image_auroc"), "needs labelled pictures, got none. Add --eval-dataset"),
        ((*good, "--resume_from_checkpoint", "gone"), "`resume_from_checkpoint` must be a whole checkpoint, got gone"),
        ((*good, "--learning_rat", "1"), "unrecognized arguments: --learning_rat 1. Did you mean '--learning_rate'?"),
    ]


def test_what_cannot_be_is_one_line_and_exit_code_2(place, call, tmp_path):
    for number, (words, message) in enumerate(wrong(tmp_path)):
        output = () if "--model" in words else ("--model", "model")
        code, _, err = call("train", *words, *output, "--use_cpu", "True", "--output_dir", f"wrong{number}")
        last = err.strip().splitlines()[-1]
        assert code == 2, (words, err)
        assert last.startswith("anomalygpt train: error: "), (words, err)
        assert message in last, (words, last)
        assert "Traceback" not in err


def test_an_adapter_cannot_be_trained_again_and_a_checkpoint_cannot_be_merged(place, call):
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter_config.json").write_text("{}")
    code, _, err = call("train", "--model", "adapter", "--good", "parts/nut/train/good", "--output_dir", "twice")
    assert (code, "must be a whole checkpoint, got the adapter 'adapter'. Merge it first" in err) == (2, True), err
    code, _, err = call("merge", "model", "--output", "other")
    assert (code, "`adapter` must be an adapter, got 'model'" in err) == (2, True), err


def test_the_help_names_the_options_that_matter(call):
    shown = call("train", "--help")[1]
    options = set(re.findall(r"--[a-z][\w-]*", shown))
    own = {
        field.name
        for cls in _classes()
        for field in dataclasses.fields(cls)
        if field.init
        and (cls.__module__.startswith("modeling_anomalygpt") and field.name in vars(cls).get("__annotations__", ()))
    }
    assert {f"--{name.replace('_', '-')}" for name in own} - {"--output-dir"} <= options
    assert {"--recipe", "--output", "--seed", "--num-train-epochs", "--help-all"} <= options
    assert "own_parts, paper_mvtec" in shown
    lines = [line.split() for line in shown.splitlines() if "photos/good" in line]
    assert lines[1] == [*lines[0], "--resume"], "the example of going on names the data of the one before"
    everything = call("train", "--help-all")[1]
    others = {"--help", "--recipe", "--help-all", "--references", "--nproc_per_node"}
    for option in options - others:
        assert option in everything, option
