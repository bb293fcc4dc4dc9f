"""The exported map path gives PyTorch's maps, for any number of pictures, in another runtime."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt import cli
from modeling_anomalygpt.hub.export import MapPath, compare, export_map_path, map_path
from modeling_anomalygpt.hub.runtimes import load_exported
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.processing_anomalygpt import AnomalyGPTProcessor
from tests.tiny import TEXT_TOWER_CONFIG, VISION_CONFIG, tiny_pair
from tests.tiny_processor import byte_tokenizer, picture

RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "image_size": 28,
}  # fmt: skip
TWO_NETWORKS = {
    "model_type": "anomalygpt_vision",
    "image_size": 28,
    "stem_width": 4,
    "stages": [[3, 1, 1, 4, 1], [5, 2, 2, 6, 2]],
    "read_blocks": [0, 2],
    "transformer_config": {
        "model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 42,
        "patch_size": 14,
    },
}  # fmt: skip
GOOD = [picture(seed) for seed in range(2)]
ONNX = ("onnx", "onnxscript", "onnxruntime")


def needs(*names: str) -> None:
    for name in names:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'anomalygpt[export,openvino]'")


def inspector_of(**changes) -> AnomalyInspector:
    return AnomalyInspector(*tiny_pair(**changes))


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(count))


@pytest.fixture
def taught() -> AnomalyInspector:
    small = {"vision_config": VISION_CONFIG | {"num_hidden_layers": 2}, "out_indices": [1, 2]}
    inspector = inspector_of(**small, reference_dims=[5, 6], reference_pooling=3, self_similarity=0.3, map_smoothing=1)
    inspector.set_references(GOOD, category="bolt")
    return inspector


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reference_dims": [5, 6]},
        {"reference_pooling": [1, 3]},
        {"vision_config": RESNET, "out_indices": [1, 2]},
        {"vision_config": TWO_NETWORKS, "out_indices": [0, 1, 2], "self_similarity": 0.3, "map_smoothing": 2},
    ],
    ids=["tokens", "projected", "windows", "feature maps", "embedded"],
)
def test_the_map_path_computes_what_the_model_computes(changes):
    inspector = inspector_of(**changes)
    inspector.set_references(GOOD)
    bank = inspector.memory_bank
    inspector.model.config.decision = {"region_threshold": 0.5}
    with torch.no_grad():
        expected = inspector.model.get_image_features(pixels(3), memory_bank=bank, return_dict=True)
        by_text = inspector.model.get_image_features(pixels(3), return_dict=True)
        inside = MapPath(inspector.model, bank)(pixels(3))
        given = MapPath(inspector.model, bank_as_input=True)(pixels(3), *bank.features)
        worded = MapPath(inspector.model)(pixels(3))
    for maps, scores in (inside, given):
        torch.testing.assert_close(maps, expected.anomaly_map)
        torch.testing.assert_close(scores, expected.pred_score)
    torch.testing.assert_close(worded[0], by_text.anomaly_map)
    assert expected.anomaly_map.std() > 0


def test_relative_maps_are_exported_as_such(taught):
    taught.model.config.decision = {"normalised_maps": True, "map_contrast": 3.0}
    bank = replace(taught.memory_bank, threshold=0.2)
    with torch.no_grad():
        expected = taught.model.get_image_features(pixels(2), memory_bank=bank, return_dict=True)
        maps, _ = MapPath(taught.model, bank)(pixels(2))
    torch.testing.assert_close(maps, expected.anomaly_map)


def test_a_region_of_interest_is_a_part_of_the_export(taught, tmp_path):
    everywhere = map_path(taught)[0](pixels(1))[0]
    roi = np.zeros(GOOD[0].shape[:2], bool)
    roi[: len(roi) // 2] = True
    taught.set_references(GOOD, roi=roi)
    maps, scores = load_exported(export_map_path(taught, tmp_path / "half.pt2", check=False).path)(pixels(1).numpy())
    assert everywhere[:, 14:].min() > 0
    assert maps[:, 14:].max() == 0
    assert scores == pytest.approx(maps[:, :14].max())


def test_references_whose_pose_is_followed_are_not_exported(taught, tmp_path):
    taught.references = replace(taught.references, views=np.zeros((1, 160, 160), np.uint8))
    with pytest.raises(ValueError, match="`references` must be learned without `align` for an export"):
        export_map_path(taught, tmp_path / "all.pt2")
    assert not list(tmp_path.iterdir())


def test_other_runtimes_are_held_to_exact_products_and_the_inspector_keeps_its_own():
    inspector = inspector_of(vision_config=TWO_NETWORKS, out_indices=[0, 2])
    inspector.model.model.vision_tower.bfloat16_products = True
    inspector.set_references(GOOD, category="bolt")
    path, _ = map_path(inspector)
    assert not path.vision_tower.bfloat16_products
    assert inspector.model.model.vision_tower.bfloat16_products


@pytest.mark.parametrize(
    ("ending", "bank_as_input"),
    [
        ("onnx", False),
        ("xml", False),
        pytest.param("xml", True, marks=pytest.mark.slow),
        pytest.param("onnx", True, marks=pytest.mark.slow),
        pytest.param("pt2", False, marks=pytest.mark.slow),
        pytest.param("pt2", True, marks=pytest.mark.slow),
    ],
    ids=["onnx, inside", "xml, inside", "xml, as input", "onnx, as input", "pt2, inside", "pt2, as input"],
)
def test_another_runtime_gives_pytorchs_maps(taught, tmp_path, ending, bank_as_input):
    needs(*{"onnx": ONNX, "xml": (*ONNX, "openvino"), "pt2": ()}[ending])
    made = export_map_path(taught, tmp_path / f"map.{ending}", bank_as_input)
    assert made.largest_difference <= 1e-4
    bank = [layer.numpy() for layer in taught.memory_bank.features]
    for count in (1, 5):
        with torch.no_grad():
            expected = taught.model.get_image_features(pixels(count), memory_bank=taught.memory_bank, return_dict=True)
        maps, scores = load_exported(made.path)(pixels(count).numpy(), *(bank if bank_as_input else []))
        np.testing.assert_allclose(maps, expected.anomaly_map.numpy(), atol=1e-4)
        np.testing.assert_allclose(scores, expected.pred_score.numpy(), atol=1e-4)
    how = json.loads((tmp_path / "map.json").read_text())
    assert how["inputs"]["pixel_values"] == ["batch", 3, 28, 28]
    assert how["memory_bank"] == ("input" if bank_as_input else "inside")
    files = {f"map.{ending}", "map.safetensors"} | ({"map.bin"} if ending == "xml" else set())
    assert {path.name for path in tmp_path.iterdir()} == files | {"map.json"}
    assert how["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in ((name, (tmp_path / name).read_bytes()) for name in files)
    }
    assert taught.model.dtype == torch.float32


def test_agreement_is_counted_picture_by_picture(taught):
    path, bank = map_path(taught)
    pictures = [picture(seed, (40, 40)) for seed in range(5)]
    maps = [taught.inspect(one, answer=False).anomaly_map for one in pictures]
    second, third = sorted(one.max() for one in maps)[1:3]
    threshold = float(second + third) / 2
    taught.references = replace(taught.references, bank=replace(bank, threshold=threshold))
    taught.model.config.decision = {"undecided_margin": 0.0}

    def constant(value):
        return lambda pixel_values: [np.full((1, 28, 28), value, np.float32), np.full(1, value, np.float32)]

    def own(pixel_values):
        return [one.detach().numpy() for one in path(torch.from_numpy(pixel_values))]

    same = compare(taught, path, own, pictures)
    high, low = (compare(taught, path, constant(value), pictures) for value in (1.0, 0.0))
    assert (same.pictures, same.same_verdicts, same.largest_difference) == (5, 5, 0)
    assert (high.same_verdicts, low.same_verdicts) == (3, 2)
    assert low.largest_difference == pytest.approx(max(one.max() for one in maps), rel=0.2)  # resized maps are flatter


@pytest.mark.parametrize(
    "ending", ["onnx", pytest.param("xml", marks=pytest.mark.slow)], ids=["onnxruntime", "openvino"]
)
def test_eight_bits_are_in_transformer_layers_alone_and_are_compared_on_pictures_that_set_no_step(
    taught, tmp_path, ending
):
    needs(*ONNX, *(["openvino"] if ending == "xml" else []))
    pictures = [picture(seed) for seed in range(2, 8)]
    made = export_map_path(taught, tmp_path / f"map.{ending}", int8_pictures=pictures)
    path, bank = map_path(taught)
    differences = []
    for one in pictures[1::2]:
        values = taught.processor(images=[one], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            differences.append(np.abs(load_exported(made.path)(values.numpy())[0] - path(values)[0].numpy()).max())
    assert made.agreement.pictures == 3
    assert made.largest_difference == made.agreement.largest_difference == pytest.approx(max(differences), abs=1e-6)
    assert 1e-5 < made.largest_difference < 0.2
    assert json.loads((tmp_path / "map.json").read_text())["precision"] == "int8"
    if ending == "onnx":
        import onnx

        tensors = onnx.load(made.path).graph.initializer
        assert sum(one.data_type == onnx.TensorProto.INT8 for one in tensors) >= 2 * 2, "weights of two blocks"
        kept = [onnx.numpy_helper.to_array(one) for one in tensors if one.data_type == onnx.TensorProto.FLOAT]
        for layer in bank.features:
            assert any(np.array_equal(one, layer.T) for one in kept), "the good patches stay as they are"


def test_products_with_the_good_patches_are_known_and_convolutions_alone_are_refused(tmp_path):
    needs(*ONNX)
    from onnx import TensorProto, helper, numpy_helper

    from modeling_anomalygpt.hub.int8 import products_with, quantize

    bank, other = (np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32) for seed in range(2))
    constants = [numpy_helper.from_array(one, name) for name, one in (("a", bank.T), ("b", other.T))]
    nodes = [helper.make_node("MatMul", ["x", name], [f"y_{name}"], name=f"by_{name}") for name in "ab"]
    assert products_with([bank], helper.make_graph(nodes, "two", [], [], constants)) == ["by_a"]
    assert products_with([other, bank], helper.make_graph(nodes, "two", [], [], constants)) == ["by_a", "by_b"]
    weights = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "weights")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", c, 4, 4]) for name, c in (("x", 3), ("y", 1))]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weights"], ["y"])], "one", ends[:1], ends[1:], [weights]
    )
    (tmp_path / "one.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )
    with pytest.raises(ValueError, match="must have transformer layers for 8 bits, got convolutions alone"):
        quantize(tmp_path / "one.onnx", tmp_path / "small.onnx", [], [bank])
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.slow
def test_without_references_the_words_of_the_category_are_inside(tmp_path):
    tokenizer = byte_tokenizer()
    tower = TEXT_TOWER_CONFIG | {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    inspector = inspector_of(text_tower_config=tower)
    processor = inspector.processor
    tokenizer.model_max_length = 77
    counts = {name: getattr(processor, name) for name in ("num_image_tokens", "num_prompt_tokens")}
    processor = AnomalyGPTProcessor(processor.image_processor, processor.tokenizer, tokenizer, **counts)
    inspector = AnomalyInspector(inspector.model, processor)
    made = export_map_path(inspector, tmp_path / "words.pt2")
    inputs = processor(images=GOOD, category="object", return_tensors="pt")
    with torch.no_grad():
        expected = inspector.model.get_image_features(**inputs, return_dict=True).anomaly_map
    maps, _ = load_exported(made.path)(inputs["pixel_values"].numpy())
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-4)
    assert json.loads((tmp_path / "words.json").read_text())["localization"] == "text"


def test_what_cannot_be_exported_is_refused(taught, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`output` must end in .onnx, .xml or .pt2, got "):
        export_map_path(taught, tmp_path / "map.tflite")
    tiled = AnomalyInspector(taught.model, taught.processor, tile=64)
    with pytest.raises(ValueError, match="`tile` must be None for an export, got 64"):
        export_map_path(tiled, tmp_path / "map.pt2")
    with pytest.raises(ValueError, match="`output` must end in .onnx or .xml for 8 bits, got .pt2"):
        export_map_path(taught, tmp_path / "map.pt2", int8_pictures=GOOD)
    with pytest.raises(ValueError, match="`references` must be given and part of the file for 8 bits"):
        export_map_path(taught, tmp_path / "map.onnx", bank_as_input=True, int8_pictures=GOOD)
    with pytest.raises(ValueError, match="`int8_pictures` must be at least 2 pictures, got 1"):
        export_map_path(taught, tmp_path / "map.onnx", int8_pictures=GOOD[:1])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs onnx, onnxscript, openvino. Run: pip install onnx"):
        export_map_path(taught, tmp_path / "map.xml")
    with pytest.raises(ImportError, match="needs onnx, onnxscript, onnxruntime. Run: pip install onnx"):
        export_map_path(taught, tmp_path / "map.onnx")


@pytest.mark.slow
def test_a_file_that_differs_is_not_kept(taught, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_anomalygpt.hub.export._difference", lambda *_: 0.5)
    with pytest.raises(RuntimeError, match="must be within 0.0001 of PyTorch's, got a difference of 0.5"):
        export_map_path(taught, tmp_path / "map.pt2")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_file_and_says_how_near_it_is(taught, tmp_path, capsys, monkeypatch):
    for part in (taught.model, taught.processor):
        part.save_pretrained(tmp_path / "model")
    Image.fromarray(GOOD[0]).save(tmp_path / "good.png")
    output = tmp_path / "out" / "map.pt2"
    arguments = ["--model", tmp_path / "model", "--references", tmp_path / "good.png", "--device", "cpu"]
    assert cli.main(["export", *map(str, [output, *arguments])]) == 0
    assert "differs from PyTorch by at most" in capsys.readouterr().out
    assert output.is_file()
    words = ["parts", "add", "bolt", "good.png", "--model", "model", "--mm-per-pixel", "0.1"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALYGPT_PARTS", str(tmp_path / "parts"))
    assert cli.main(words) == 0
    assert cli.main(["export", "bolt.pt2", "--part", "bolt", "--model", "model", "--no-check"]) == 0
    assert re.search(r"bolt\.pt2 \(.*not checked", capsys.readouterr().out)
    for words, line in (
        (["map.tflite"], "`--output` must end in .onnx, .xml or .pt2, got 'map.tflite'."),
        (
            ["map.onnx", "--runtime", "openvino"],
            "`--output` must end in .xml with --runtime openvino, got 'map.onnx'.",
        ),
        (["map.onnx", "--part", "auto"], "`--part` must name one part for an export, got 'auto'."),
        (["map", "--runtime", "onnx", "--int8"], "`--int8` must be given with --pictures"),
        (["map.onnx", "--pictures", "."], "`--pictures` must be given with --int8"),
        (["map.onnx", "--int8", "--pictures", ".", "--no-check"], "`--no-check` must be left out with --int8"),
        (["map.onnx", "--int8", "--pictures", ".", "--bank-input"], "`--bank-input` must be left out with --int8"),
    ):
        assert cli.main(["export", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert line in err
