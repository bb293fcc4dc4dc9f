"""A bundle is whole, does what the model does, or is refused in one line."""

import hashlib
import io
import json
import os
import shutil
import zipfile

import pytest
import torch
from PIL import Image

from modeling_anomalygpt import cli
from modeling_anomalygpt.hub.bundle import BundleError, file_facts, read_bundle
from modeling_anomalygpt.hub.export import export_map_path
from modeling_anomalygpt.hub.runtimes import load_exported
from modeling_anomalygpt.hub.validation import validate
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import VISION_CONFIG, tiny_pair
from tests.tiny_processor import picture

CONTENTS = {"bolts.onnx": b"a network", "bolts.safetensors": b"references"}


def write(folder, name="bolts", **changes):
    """A bundle as the export describes it, of files that no runtime can read."""
    files = {}
    for file, content in CONTENTS.items():
        (folder / file).write_bytes(content)
        files[file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    row = {"outputs": {"anomaly_map": ["batch", 28, 28]}, "files": files} | changes
    (folder / f"{name}.json").write_text(json.dumps(row))
    return row


def test_a_whole_bundle_is_found_by_its_folder_or_any_of_its_files(tmp_path):
    write(tmp_path)
    (tmp_path / "results.json").write_text('{"rows": 3}')
    (tmp_path / "broken.json").write_text("[" * 100_000)
    for place in (tmp_path, *(tmp_path / name for name in ("bolts.json", "bolts.onnx", "bolts.safetensors"))):
        bundle = read_bundle(place)
        assert bundle.file == tmp_path / "bolts.onnx"
        assert bundle.references == tmp_path / "bolts.safetensors"
        assert bundle.size == len(b"a networkreferences")


def test_facts_of_a_file_are_its_size_and_its_checksum(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the checksum of FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_facts(tmp_path / "abc") == {"bytes": 3, "sha256": digest}


def damage_nothing(folder):
    pass


@pytest.mark.parametrize(
    ("damage", "changes", "line"),
    [
        (lambda folder: (folder / "bolts.onnx").unlink(), {}, "The bundle lacks '.*bolts.onnx'. Copy it whole"),
        (lambda folder: (folder / "bolts.onnx").write_bytes(b"a net"), {}, "must have 9 bytes, got 5. Copy"),
        (lambda folder: (folder / "bolts.safetensors").write_bytes(b"REFERENCES"), {}, "its checksum differs"),
        (lambda folder: (folder / "bolts.json").write_text("{"), {}, "does not describe an export"),
        (lambda folder: (folder / "bolts.json").unlink(), {}, "There is no bundle '.*bolts.onnx'"),
        (damage_nothing, {"files": None}, "has no checksums: an earlier version wrote it"),
        (damage_nothing, {"files": {"../bolts.onnx": {"bytes": 9, "sha256": ""}}}, "has no checksums"),
        (damage_nothing, {"files": {"bolts.onnx": {"bytes": True, "sha256": ""}}}, "has no checksums"),
        (damage_nothing, {"files": {}}, "must name one file for a runtime, got 0"),
    ],
    ids=[
        "missing", "cut off", "changed", "damaged description", "no description", "earlier version", "another folder",
        "no size", "no file",
    ],
)  # fmt: skip
def test_what_is_missing_cut_off_or_changed_is_named(tmp_path, damage, changes, line):
    write(tmp_path, **changes)
    damage(tmp_path)
    with pytest.raises(BundleError, match=line):
        read_bundle(tmp_path / "bolts.onnx")


def test_a_later_export_of_the_same_name_is_noticed(tmp_path):
    write(tmp_path)
    (tmp_path / "bolts.xml").write_bytes(b"")
    described(tmp_path, files=["bolts.xml"])
    assert read_bundle(tmp_path).file == tmp_path / "bolts.xml"
    with pytest.raises(BundleError, match="describes bolts.xml, not bolts.onnx: a later export had the same name"):
        read_bundle(tmp_path / "bolts.onnx")


def test_a_folder_with_none_or_several_is_refused(tmp_path):
    with pytest.raises(BundleError, match="must be a folder with one export, got 0 in"):
        read_bundle(tmp_path)
    write(tmp_path)
    write(tmp_path, "nuts")
    with pytest.raises(BundleError, match=r"got 2 in .* \(bolts.json, nuts.json\). Name one file"):
        read_bundle(tmp_path)


def described(folder, **changes):
    """The description is changed, and says of the files what they are now."""
    row = json.loads((folder / "bolts.json").read_text()) | changes
    row["files"] = {name: file_facts(folder / name) for name in row["files"]}
    (folder / "bolts.json").write_text(json.dumps(row))


@pytest.fixture(scope="module")
def taught() -> AnomalyInspector:
    small = {"vision_config": VISION_CONFIG | {"num_hidden_layers": 2}, "out_indices": [1, 2]}
    inspector = AnomalyInspector(*tiny_pair(**small, reference_pooling=3, self_similarity=0.3, map_smoothing=1))
    inspector.set_references([picture(seed) for seed in range(2)], category="bolt")
    return inspector


@pytest.fixture(scope="module")
def exported(taught, tmp_path_factory):
    """A folder with a bundle, its model and pictures."""
    folder = tmp_path_factory.mktemp("exported")
    export_map_path(taught, folder / "bundle" / "bolts.pt2", check=False)
    for half in (taught.model, taught.processor):
        half.save_pretrained(folder / "model")
    (folder / "line").mkdir()
    for seed in range(3):
        Image.fromarray(picture(seed + 5)).save(folder / "line" / f"{seed}.png")
    return folder


def test_the_command_says_how_near_and_how_fast_a_good_bundle_is(exported, capsys):
    words = ["validate", exported / "bundle", "--model", exported / "model", "--pictures", exported / "line"]
    assert cli.main(list(map(str, words))) == 0
    out = capsys.readouterr().out
    assert "2 as they were exported" in out
    assert "on 3 pictures (float32)" in out
    assert "3 of 3 as PyTorch's" in out
    assert "ms a picture" in out
    assert "valid" in out.splitlines()[-1]


def test_a_bundle_of_another_model_or_without_one_is_one_line_and_code_2(exported, tmp_path, capsys):
    for half in tiny_pair(reference_pooling=1, self_similarity=0.3, map_smoothing=1):
        half.save_pretrained(tmp_path / "other")
    for words, line in (
        ([exported / "bundle", "--model", tmp_path / "other"], "The bundle was made with another model"),
        ([exported / "bundle", "--model", exported / "nowhere"], "which does not exist"),
        ([exported / "line"], "must be a folder with one export, got 0"),
        ([exported / "bundle", "--pictures", tmp_path / "none"], "none"),
    ):
        assert cli.main(["validate", *map(str, words)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert line in err


def test_a_map_that_is_not_pytorchs_is_refused(taught, exported, tmp_path):
    folder = shutil.copytree(exported / "bundle", tmp_path / "bundle")
    inspector = AnomalyInspector(taught.model, taught.processor)
    inspector.set_references([picture(20)])
    inspector.save_references(folder / "bolts.safetensors")  # the file has other good patches inside
    described(folder)
    with pytest.raises(BundleError, match="The map must be within 0.001 of PyTorch's, got a difference of 0"):
        validate(read_bundle(folder), inspector, [picture(7)])


def test_a_bundle_of_8_bits_must_share_the_verdicts(taught, exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported / "bundle", tmp_path / "bundle")
    described(folder, precision="int8")
    from modeling_anomalygpt.hub import export, validation

    bundle, inspector = read_bundle(folder), AnomalyInspector(taught.model, taught.processor)
    pictures = [picture(seed) for seed in range(5, 8)]

    one_off = export.Agreement(pictures=19, same_verdicts=18, largest_difference=0.4)
    monkeypatch.setattr(validation, "compare", lambda *_: one_off)
    with pytest.raises(BundleError, match="At least 95% of the verdicts must be PyTorch's, got 18 of 19"):
        validate(bundle, inspector, pictures)
    monkeypatch.setattr(validation, "compare", lambda *_: export.Agreement(20, 19, 0.4))
    assert len(validate(bundle, inspector, pictures).seconds) == 20


def test_a_file_that_the_runtime_cannot_read_is_one_line(taught, exported, tmp_path):
    folder = shutil.copytree(exported / "bundle", tmp_path / "bundle")
    (folder / "bolts.pt2").write_bytes(b"junk")
    described(folder)
    with pytest.raises(BundleError, match="bolts.pt2' cannot be run here: ") as refused:
        validate(read_bundle(folder), AnomalyInspector(taught.model, taught.processor))
    assert "\n" not in str(refused.value)


# Code in a bundle


class Touch:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def pickled(trap):
    buffer = io.BytesIO()
    torch.save({"weight": Touch(trap)}, buffer)
    return buffer.getvalue()


def forge_weight(records, trap):
    config = json.loads(records["data/weights/model_weights_config.json"])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    records[f"data/weights/{first['path_name']}"] = pickled(trap)
    records["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def forge_inputs(records, trap):
    records["data/sample_inputs/model.pt"] = pickled(trap)


def forge_constant(records, trap):
    config = json.loads(records["data/constants/model_constants_config.json"])
    config["config"]["more"] = {
        "path_name": "opaque_obj_0",
        "is_param": False,
        "use_pickle": True,
        "tensor_meta": None,
    }
    records["data/constants/opaque_obj_0"] = pickled(trap)
    records["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def forge_library(records, trap):
    records["data/aotinductor/model/model.so"] = b"a library"


def changed_graph(change):
    def forge(records, trap):
        graph = json.loads(records["models/model.json"])
        change(graph, str(trap))
        records["models/model.json"] = json.dumps(graph).encode()

    return forge


def insert_call(graph, trap):
    path = {"name": "", "arg": {"as_string": trap}, "kind": 1}
    call = {
        "target": "torch.os.mkdir",
        "inputs": [path],
        "outputs": [],
        "metadata": {},
        "is_hop_single_tensor_return": None,
    }
    graph["graph_module"]["graph"]["nodes"].insert(0, call)


def insert_expression(graph, trap):
    text = json.dumps(graph)
    symbol = "Symbol('s"
    graph.update(
        json.loads(
            text.replace(
                symbol, f"(__import__('os').path.isdir('{trap}') or __import__('os').mkdir('{trap}')) or {symbol}"
            )
        )
    )


def insert_guard(graph, trap):
    graph["guards_code"] = [f"__import__('os').mkdir('{trap}') is None"]


FORGERIES = {
    "nothing": (lambda records, trap: None, None),
    "weight": (forge_weight, "It holds a pickle that is more than numbers"),
    "inputs": (forge_inputs, "It holds a pickle that is more than numbers"),
    "constant": (forge_constant, r"It holds what no export writes \('data/constants/opaque_obj_0'\)"),
    "library": (forge_library, r"It holds what no export writes \('data/aotinductor/model/model.so'\)"),
    "call": (changed_graph(insert_call), r"It holds what no export writes \('a graph with code'\)"),
    "expression": (changed_graph(insert_expression), r"It holds what no export writes \('a graph with code'\)"),
    "guard": (changed_graph(insert_guard), r"It holds what no export writes \('a graph with code'\)"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_no_code_that_a_bundle_brings_is_run(exported, tmp_path, capsys, monkeypatch, name):
    forge, line = FORGERIES[name]
    trap = tmp_path / "sprung"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # some have it for old checkpoints
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    folder = shutil.copytree(exported / "bundle", tmp_path / "bundle")
    with zipfile.ZipFile(folder / "bolts.pt2") as archive:
        records = {one.partition("/")[2]: archive.read(one) for one in archive.namelist()}
    forge(records, trap)
    with zipfile.ZipFile(folder / "bolts.pt2", "w") as archive:
        for one, content in records.items():
            archive.writestr(f"bolts/{one}", content)
    described(folder)
    if line is None:
        load_exported(folder / "bolts.pt2")
    else:
        with pytest.raises(ValueError, match=line):
            load_exported(folder / "bolts.pt2")
        assert cli.main(["validate", str(folder), "--model", str(exported / "model")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not trap.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
