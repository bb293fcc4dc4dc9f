"""Named parts: stored whole or not at all, checked when they are read, refused by name with another model."""

import functools
import io
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_anomalygpt import AnomalyInspector, cli
from modeling_anomalygpt.inspector import InspectionOptions
from modeling_anomalygpt.line import parts
from modeling_anomalygpt.line.parts import EMBEDDED, PartChooser, PartError, PartFacts, PartStore, read_part
from tests.test_faults_kills import dies_before_renaming, killed
from tests.tiny import tiny_pair


def noise(number, low=0, high=256):
    return np.random.default_rng(number).integers(low, high, (40, 40, 3), dtype=np.uint8)


pair = functools.cache(tiny_pair)


def taught(*pictures, category="bolt", tile=None):
    inspector = AnomalyInspector(*pair(), tile=tile)
    inspector.set_references(list(pictures) or [noise(0)], category=category)
    return inspector


@pytest.fixture(scope="module")
def references():
    return taught().references


@pytest.fixture
def store(tmp_path):
    return PartStore(tmp_path / "parts")


@pytest.fixture
def call(tmp_path, tiny_folder, monkeypatch, capsys):
    """The command in a folder with a model and good pictures, `dark` and `bright`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALYGPT_PARTS", str(tmp_path / "parts"))
    shutil.copytree(tiny_folder, "model")
    for name, low, high in (("dark", 0, 90), ("bright", 160, 256)):
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(noise(number, low, high)).save(tmp_path / name / f"{number}.png")

    def call(*words):
        code = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def rewritten(source, target, tensors=None, **metadata):
    """The file of a part with other tensors or metadata; `None` takes a line out."""
    with safe_open(source, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
        facts = file.metadata() | metadata
    save_file(kept, target, {name: text for name, text in facts.items() if text is not None})


def test_a_part_comes_back_as_it_was_stored_and_judges_alike(store):
    inspector = taught()
    store.write("bolt M8", inspector.references, PartFacts(EMBEDDED, mm_per_pixel=0.05))
    part = store.read("bolt M8")
    assert (part.version, part.facts.model, part.facts.mm_per_pixel) == (1, EMBEDDED, 0.05)
    assert part.references.fingerprint() == inspector.references.fingerprint()
    other = AnomalyInspector(*pair())
    part.check(other, None)
    part.use(other)
    assert other.inspect(noise(5), answer=False).pred_score == inspector.inspect(noise(5), answer=False).pred_score
    assert store.names() == ["bolt M8"]


def test_a_new_version_counts_and_can_be_taken_back_but_only_while_it_is_the_newest(store, references):
    store.write("bolt", references, PartFacts(EMBEDDED))
    second = taught(noise(1)).references
    store.write("bolt", second, PartFacts(EMBEDDED))
    store.write("bolt", references, PartFacts(EMBEDDED))
    with pytest.raises(
        PartError, match=r"The newest version of the part 'bolt' must be 2, got 3\. It was changed since"
    ):
        store.take_back("bolt", 2)
    store.take_back("bolt", 3)
    assert store.read("bolt").references.fingerprint() == second.fingerprint()
    store.take_back("bolt", 2)
    with pytest.raises(PartError, match="must be 1, got 1"):
        store.take_back("bolt", 1)


def test_only_the_last_versions_are_kept(store, references, monkeypatch):
    monkeypatch.setattr(parts, "_KEPT_VERSIONS", 2)
    for _ in range(4):
        store.write("bolt", references, PartFacts(EMBEDDED))
    assert store.versions("bolt") == [3, 4]


def test_a_name_that_could_leave_the_folder_or_be_no_file_is_refused(store, references):
    for name in (
        "", "auto", "../bolt", "a/b", "a\\b", ".hidden", "bolt.", "a\nb", "x" * 90, "c:d", "nul", "Com1.8",
    ):  # fmt: skip
        with pytest.raises(PartError, match=r"`NAME` must be 1 to 80 letters.* got .*\. Try bolt_m8\."):
            store.write(name, references, PartFacts(EMBEDDED))
    assert not store.folder.exists()


def test_names_in_chinese_are_names(store, references):
    store.write("螺栓 8.8", references, PartFacts(EMBEDDED))
    assert store.read("螺栓 8.8").references.category == "bolt"
    for name in ("console", "null", "n"):
        parts.check_name(name)


def test_a_kill_while_a_part_is_stored_leaves_the_earlier_version_and_of_a_new_part_nothing(
    store, references, monkeypatch
):
    with monkeypatch.context() as patch:
        dies_before_renaming(patch, "1.safetensors")
        killed(lambda: store.write("bolt", references, PartFacts(EMBEDDED)))
    assert store.names() == []
    store.write("bolt", references, PartFacts(EMBEDDED))
    with monkeypatch.context() as patch:
        dies_before_renaming(patch, "2.safetensors")
        killed(lambda: store.write("bolt", references, PartFacts(EMBEDDED)))
    assert store.read("bolt").version == 1
    with monkeypatch.context() as patch:
        patch.setattr(parts.shutil, "rmtree", lambda path, **_: path.exists() and os.kill(os.getpid(), signal.SIGKILL))
        killed(lambda: store.remove("bolt"))
    assert store.names() == []
    store.write("bolt", references, PartFacts(EMBEDDED))
    store.remove("bolt")
    assert [file.name for file in store.folder.iterdir()] == [".lock"]


def test_a_forged_or_damaged_file_is_refused_in_one_line(store, references, tmp_path):
    store.write("bolt", references, PartFacts(EMBEDDED))
    good, bad = store.path("bolt"), tmp_path / "bad.safetensors"
    flipped = bytearray(good.read_bytes())
    flipped[-100] ^= 1
    facts = {"model": "m", "format": 1, "made": ""}
    with safe_open(good, framework="pt") as file:
        features = file.get_tensor("features.0")
    for number, make in enumerate((
        lambda: bad.write_bytes(flipped),
        lambda: bad.write_bytes(good.read_bytes()[:-50]),
        lambda: bad.write_bytes(b"PK\x03\x04junk"),
        lambda: bad.write_bytes(b""),
        lambda: save_file({"x": torch.ones(1)}, bad),
        lambda: rewritten(good, bad, part=json.dumps(facts), references="[]"),
        lambda: rewritten(good, bad, part="[" * 100_000),
        lambda: rewritten(good, bad, part="{}"),
        lambda: rewritten(good, bad, part=json.dumps(facts | {"tile": 1})),
        lambda: rewritten(good, bad, part=json.dumps(facts | {"mm_per_pixel": "wide"})),
        lambda: rewritten(good, bad, part=json.dumps(facts | {"model": "\x1b[31m"})),
        lambda: rewritten(good, bad, tensors={"features.0": features * 2}),
        lambda: rewritten(good, bad, part=None, tensors={"features.0": features * float("nan")}),
    )):  # fmt: skip
        make()
        with pytest.raises(
            PartError, match=r"bad\.safetensors' is no part, or is damaged: .+ export it again"
        ) as error:
            store.take_in(bad, "evil")
        assert "\n" not in str(error.value), number
        assert store.names() == ["bolt"], number


def test_a_file_that_is_too_large_is_not_even_opened(store, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_MAX_BYTES", 1 << 30)
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.truncate((1 << 30) + 1)
    monkeypatch.setattr(parts, "safe_open", None)
    with pytest.raises(PartError, match=r"A part must have at most 1 GiB, got a larger file: '.*huge\.safetensors'"):
        store.take_in(tmp_path / "huge.safetensors", "huge")


def test_a_part_that_would_be_too_large_to_be_read_again_is_not_written(store, references, monkeypatch):
    store.write("bolt", references, PartFacts(EMBEDDED))
    monkeypatch.setattr(parts, "_MAX_BYTES", 1000)
    for name in ("bolt", "new"):
        with pytest.raises(PartError, match="A part must have at most .* GiB, got more. Use fewer good pictures."):
            store.write(name, references, PartFacts(EMBEDDED))
    assert (store.versions("bolt"), store.versions("new")) == ([1], [])


def test_a_part_of_a_newer_version_says_to_update(store, references, tmp_path):
    store.write("bolt", references, PartFacts(EMBEDDED))
    rewritten(store.path("bolt"), tmp_path / "new.safetensors", part=json.dumps({"model": "m", "format": 99}))
    with pytest.raises(PartError, match=r"made by a newer version \(format 99\)\. Update:"):
        read_part(tmp_path / "new.safetensors")


def test_references_alone_become_a_part_with_their_tiles(store, tmp_path):
    inspector = taught(tile=32)
    inspector.save_references(tmp_path / "saved.safetensors")
    part = store.take_in(tmp_path / "saved.safetensors", "bolt")
    assert (part.facts.tile, store.read("bolt").references.fingerprint()) == (32, inspector.references.fingerprint())
    with pytest.raises(PartError, match="There is a part 'bolt' already. Give another --name, or remove it first"):
        store.take_in(tmp_path / "saved.safetensors", "bolt")


def test_a_picture_is_judged_as_the_part_that_it_shows_and_one_of_no_part_as_none(store):
    for name, low, high in (("dark", 0, 90), ("bright", 160, 256)):
        references = taught(noise(1, low, high), noise(2, low, high), category=name).references
        store.write(name, references, PartFacts(EMBEDDED, mm_per_pixel=0.5))
    inspector = AnomalyInspector(*pair())
    chooser = PartChooser(inspector, [store.read(name) for name in store.names()])
    options = InspectionOptions(answer=False)
    results = list(chooser.inspect_many([noise(7, 0, 90), noise(8, 160, 256)], options))
    assert [(result.category, result.evidence["part"]) for result in results] == [("dark",) * 2, ("bright",) * 2]
    alone = AnomalyInspector(*pair())
    store.read("dark").use(alone)
    assert results[0].pred_score == alone.inspect(noise(7, 0, 90), options).pred_score
    far = [parts.replace(part, references=_narrow(part.references)) for part in chooser.parts]
    (none,) = PartChooser(inspector, far).inspect_many([noise(7, 0, 90)])
    assert (none.verdict, none.answer) == ("unknown", "The picture is like none of the stored parts.")


def test_deep_pictures_are_told_apart_in_the_depth_of_each_part(store, tmp_path):
    """Of a camera of 12 bits, in files of 16: opened as 16 bits all are nearly black."""
    paths = {}
    for name, low, high in (("dark", 0, 90), ("bright", 160, 256)):
        paths[name] = [tmp_path / f"{name}_{number}.png" for number in range(3)]
        for number, path in enumerate(paths[name]):
            Image.fromarray(noise(number, low, high)[..., 0].astype(np.uint16) * 16).save(path)
        store.write(name, taught(*paths[name][:2], category=name).references, PartFacts(EMBEDDED))
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    store.write("plain", taught(ramp, category="plain").references, PartFacts(EMBEDDED))
    chooser = PartChooser(AnomalyInspector(*pair()), [store.read(name) for name in store.names()])
    assert {part.references.bits for part in chooser.parts} == {None, 12}
    for name, (*_, query) in paths.items():
        assert chooser.choose(query).name == name
        (result,) = chooser.inspect_many([query], InspectionOptions(answer=False))
        assert result.evidence["part"] == name
        assert result.seconds > 0


@pytest.mark.parametrize("facts", [PartFacts(EMBEDDED, mm_per_pixel=2e6), PartFacts(EMBEDDED, mm_per_pixel=-1.0)])
def test_a_part_that_no_inspection_would_take_is_not_stored(store, references, facts):
    with pytest.raises(ValueError, match="`mm_per_pixel` must be above 0"):
        store.write("bolt", references, facts)
    assert store.names() == []


def test_a_deep_picture_that_is_gone_before_it_is_opened_again_gives_a_row_with_its_error(
    store, tmp_path, monkeypatch
):
    paths = [tmp_path / "gone.png", tmp_path / "deep.png"]
    for number, path in enumerate(paths):
        Image.fromarray(noise(number)[..., 0].astype(np.uint16) * 16).save(path)
    inspector = AnomalyInspector(*pair())
    inspector.set_references(paths, bits=12)
    store.write("bolt", inspector.references, PartFacts(EMBEDDED))
    chooser = PartChooser(inspector, [store.read("bolt")])
    monkeypatch.setattr(chooser, "choose", lambda _: paths[0].unlink(missing_ok=True) or chooser.parts[0])
    results = list(chooser.inspect_many(paths))
    assert [result.verdict == "error" for result in results] == [True, False]
    assert "gone.png" in results[0].error


def _narrow(references):
    return parts.replace(references, domain_gate=parts.replace(references.domain_gate, max_distance=1e-9))


def test_parts_that_cannot_be_told_apart_are_left_out_by_name(store, references):
    store.write("whole", references, PartFacts(EMBEDDED))
    store.write("other", taught(tile=32).references, PartFacts(EMBEDDED, tile=32))
    every = [store.read(name) for name in store.names()]
    chooser = PartChooser(AnomalyInspector(*pair()), every)
    assert chooser.left_out == {"other": "made with another model or other tiles"}
    with pytest.raises(PartError, match=r"`--part auto` must have a stored part to choose, got none \(whole: made"):
        PartChooser(AnomalyInspector(*pair(), tile=64), every[1:])


# The command


def test_a_part_is_added_listed_shown_exported_imported_used_and_removed(call, tmp_path):
    code, out, err = call("parts", "add", "nut", "dark", "--category", "hex nut", "--model", "model",
                          "--mm-per-pixel", "0.5", "--calibrate", "bright", "--max-false-alarm", "0.5")  # fmt: skip
    assert (code, err) == (0, "")
    assert "nut: version 1, 3 good pictures, in" in out
    assert "Limits: 3 good pictures support" in out
    assert call("parts", "list")[1].splitlines()[2].split()[:4] == ["nut", "1", "3", "63.2%"]
    shown = call("parts", "show", "nut")[1]
    assert "category:       hex nut" in shown
    assert "scale:          0.5 mm a pixel" in shown
    assert call("parts", "export", "nut", "nut_7.safetensors")[0] == 0
    assert call("parts", "import", "nut_7.safetensors")[1].startswith("nut_7: version 1, made with model, in")
    words = ("--part", "nut_7", "--model", "model", "--no-language", "--output", "out")
    assert call("inspect", "dark/0.png", *words)[0] == 0
    (row,) = map(json.loads, (tmp_path / "out/results.jsonl").read_text().splitlines())
    assert (row["setup"]["part"], row["category"], row["setup"]["mm_per_pixel"]) == ("nut_7", "hex nut", "0.5")
    assert call("parts", "remove", "nut")[1] == "removed nut\n"
    assert call("parts", "list")[1].splitlines()[2].split()[0] == "nut_7"


def test_a_part_says_that_what_all_good_pictures_show_must_be_there(call):
    assert call("parts", "add", "tray", "dark", "--presence", "--model", "model")[0] == 0
    assert "presence:       what all good pictures show must be there" in call("parts", "show", "tray")[1]


def test_a_region_of_interest_is_stored_with_a_part_and_taken_along(call, tmp_path):
    roi = np.zeros((40, 40), np.uint8)
    roi[:20] = 255
    Image.fromarray(roi).save("roi.png")
    assert call("parts", "add", "nut", "dark", "--roi", "roi.png", "--model", "model")[0] == 0
    assert "region:         50.0% of the picture" in call("parts", "show", "nut")[1]
    call("parts", "export", "nut", "nut.safetensors")
    assert call("parts", "import", "nut.safetensors", "--name", "copy")[0] == 0
    for part in ("copy", "auto"):
        words = (
            "inspect",
            "dark/0.png",
            "bright/0.png",
            "--part",
            part,
            "--model",
            "model",
            "--no-language",
            "--output",
            part,
        )
        assert call(*words)[0] == 0
        rows = [json.loads(line) for line in (tmp_path / part / "results.jsonl").read_text().splitlines()]
        judged = [row for row in rows if row["verdict"] != "unknown"]
        assert judged
        assert all(row["evidence"]["region_of_interest"] == 0.5 for row in judged)
        assert all(row["evidence"]["peak"]["y"] < 20 for row in judged)
    code, _, err = call("parts", "add", "nut", "bright", "--roi", "dark", "--model", "model")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert call("parts", "show", "nut")[1].splitlines()[1].split()[1:] == ["1", "of", "1"]


def test_auto_inspects_each_picture_as_its_part_and_resumes_and_chats(call, tmp_path, monkeypatch):
    for name in ("dark", "bright"):
        assert call("parts", "add", name, f"{name}/0.png", f"{name}/1.png", "--model", "model")[0] == 0
    words = ("inspect", "dark/2.png", "bright/2.png", "--part", "auto", "--model", "model", "--output", "out")
    words += ("--no-language",)
    for extra in ((), ("--resume",)):
        assert call(*words, *extra)[0] == 0
        rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
        assert [row["evidence"]["part"] for row in rows] == ["dark", "bright"]
    call("parts", "add", "dark", "dark", "--model", "model")
    code, _, err = call(*words, "--resume")
    assert (code, "was made with another references" in err) == (2, True)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for part in ("dark", "auto"):
        code, out, _ = call("chat", "dark/0.png", "--part", part, "--model", "model")
        assert (code, "score" in out) == (0, True)


def test_what_is_wrong_with_a_part_is_one_line(call, tmp_path):
    call("parts", "add", "nut", "dark", "--model", "model", "--tile", "32")
    for half in tiny_pair(map_size=14, out_indices=[1, 3]):
        half.save_pretrained("other")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for words, message in (
        (("inspect", "dark", "--part", "nutt"), "There is no part 'nutt' in"),
        (("inspect", "dark", "--part", "nutt"), "Did you mean 'nut'?"),
        (("inspect", "dark", "--part", "../nut"), "`NAME` must be 1 to 80 letters"),
        (("inspect", "dark", "--part", "nut", "--references", "dark"), "`--part` must stand alone"),
        (("inspect", "dark", "--part", "nut", "--tile", "64"), "`--tile` must be that of the part 'nut' (32), got 64"),
        (("inspect", "dark", "--part", "nut", "--model", "other"), "The part 'nut' was made with model ("),
        (("inspect", "dark", "--part", "nut", "--model", "other"), "Give --model model, or make it again: anomalygpt"),
        (("inspect", "dark", "--part", "auto", "--parts-dir", "empty"), "must have a stored part to choose"),
        (("parts",), "the following arguments are required: ACTION"),
        (("parts", "import", "junk.safetensors"), "'junk.safetensors' is no part, or is damaged:"),
        (("parts", "import", "gone.safetensors"), "There is no file 'gone.safetensors'"),
        (("parts", "export", "nut", "nut.zip"), "`FILE` must end with .safetensors, got 'nut.zip'"),
        (("parts", "export", "nut", "no/nut.safetensors"), "`FILE` must be in a folder that exists"),
        (("parts", "show", "x"), "There is no part 'x'"),
        (("parts", "remove", "x"), "There is no part 'x'"),
        (("parts", "add", "a/b", "dark"), "`NAME` must be"),
        (("parts", "add", "b", "dark", "--max-false-alarm", "0.1"), "must be given with --calibrate"),
    ):  # fmt: skip
        code, out, err = call(
            *words, *(("--model", "model") if words[0] == "inspect" and "other" not in words else ())
        )
        assert (code, out) == (2, ""), words
        assert message in err
        assert len(err.strip().splitlines()) == 1, err


def test_a_model_that_changed_under_the_same_name_says_to_make_the_part_again(call):
    call("parts", "add", "nut", "dark", "--model", "model")
    for half in tiny_pair(out_indices=[1, 3]):
        half.save_pretrained("model")
    code, _, err = call("inspect", "dark", "--part", "nut", "--model", "model")
    assert code == 2
    assert (
        "The model or its settings have changed since; make it again: anomalygpt parts add nut GOOD_PICTURES." in err
    )


def test_a_damaged_part_does_not_hide_the_others(call, tmp_path):
    for name in ("dark", "bright"):
        call("parts", "add", name, name, "--model", "model")
    (tmp_path / "parts/bright/1.safetensors").write_bytes(b"junk")
    code, out, err = call("parts", "list")
    assert (code, out.splitlines()[2].split()[0]) == (0, "dark")
    assert "is no part, or is damaged" in err
