"""Named parts: what was learned from good pictures, kept in one folder of the user, version by version.

A version is one file, `PARTS/bolt/3.safetensors`: references as [`References.save`] writes them, with a few facts and
a checksum among its metadata. So a part can be given wherever references can, and references wherever a part is read.
"""

import contextlib
import datetime
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import describe_error, did_you_mean
from ..files import write_atomically
from ..images import PictureError, load_picture
from ..inspector import AnomalyInspector, InspectionOptions, failed_result
from ..references import ImageTraits, References
from ..results import InspectionResult, Loaded, ResultsFile, inspect_in_batches

AUTO = "auto"
# 2: with a region of interest, 3: aligned, 4: with what must be there; earlier versions would pass over these.
_FORMATS, _SUFFIX = (1, 2, 3, 4), ".safetensors"
_KEPT_VERSIONS = 20
_MAX_BYTES = 2**31
_NAME = re.compile(r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))(?:\w[\w .+-]{0,78}\w|\w)")
EMBEDDED = "the embedded checkpoint"


class PartError(ValueError):
    """A part that cannot be used; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class PartFacts:
    """What is kept of a part beside its references.

    Args:
        model (`str`): The model it was made with, as it was given.
        tile (`int`, *optional*): Side in pixels of the tiles.
        mm_per_pixel (`float`, *optional*): Scale.
        made (`str`): When this version was made, by this machine's clock.
        format (`int`): Of the file.
        learned (`bool`, *optional*): Whether this version was learned from the one before, not made of good pictures
            anew; `None` in files of earlier releases.
    """

    model: str
    tile: int | None = None
    mm_per_pixel: float | None = None
    made: str = ""
    format: int = 1
    learned: bool | None = None


@dataclass(frozen=True)
class Part:
    """One version of a stored part.

    Args:
        name (`str`): What it is called.
        version (`int`): From 1; the newest counts.
        facts ([`PartFacts`]): Model, tiles, scale.
        references ([`References`]): Patches, thresholds, category.
    """

    name: str
    version: int
    facts: PartFacts
    references: References

    def check(self, inspector: AnomalyInspector, model: str | None) -> None:
        """Refuses another model than the part's; `PartError`, which names both."""
        made, given = self.references.bank.fingerprint, inspector.encoder.fingerprint()
        if made != given:
            again = f"make it again: anomalygpt parts add {self.name} GOOD_PICTURES."
            if self.facts.model in (model or EMBEDDED, "another model"):
                hint = f"The model or its settings have changed since; {again}"
            else:
                same = "Leave --model out" if self.facts.model == EMBEDDED else f"Give --model {self.facts.model}"
                hint = f"{same}, or {again}"
            raise PartError(
                f"The part {self.name!r} was made with {self.facts.model} ({made}), not with {model or EMBEDDED} "
                f"({given}). {hint}"
            )

    def use(self, inspector: AnomalyInspector) -> None:
        """Gives the inspector this part's references."""
        inspector.references, inspector.part = self.references.to(inspector.model.device), self.name


class PartStore:
    """The parts of one folder.

    Args:
        folder (`str` or `os.PathLike`, *optional*): Default: what the environment variable `ANOMALYGPT_PARTS` says,
            else `.anomalygpt/parts` in the user's own folder.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        place = folder or os.environ.get("ANOMALYGPT_PARTS") or pathlib.Path.home() / ".anomalygpt" / "parts"
        self.folder = pathlib.Path(place).expanduser()

    def names(self) -> list[str]:
        """All parts, in the order of their names."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if _is_name(path.name) and self.versions(path.name))

    def versions(self, name: str) -> list[int]:
        """Versions of a part, oldest first; empty where there is no such part."""
        check_name(name)
        files = (self.folder / name).glob(f"*{_SUFFIX}")
        return sorted(int(file.stem) for file in files if file.stem.isdecimal())

    def path(self, name: str) -> pathlib.Path:
        """The file of the newest version.

        Raises:
            PartError: If there is no such part.
        """
        versions = self.versions(name)
        if not versions:
            known = self.names()
            hint = did_you_mean(name, known) or (
                f" There are: {', '.join(known)}." if known else " Make one with `anomalygpt parts add`."
            )
            raise PartError(f"There is no part {name!r} in {str(self.folder)!r}.{hint}")
        return self.folder / name / f"{versions[-1]}{_SUFFIX}"

    def read(self, name: str) -> Part:
        """The newest version of a part.

        Raises:
            PartError: If there is no such part, **or** it is damaged or of a newer version of this package.
        """
        path = self.path(name)
        return Part(name, int(path.stem), *read_part(path))

    def write(self, name: str, references: References, facts: PartFacts) -> Part:
        """Adds a version, whole or not at all; earlier ones stay, the last 20 of them.

        Raises:
            PartError: If the name is none, **or** the part is too large to be read again.
        """
        check_name(name)
        with self._locked():
            return self._add(name, references, replace(facts, learned=False))

    def learn(self, name: str, change: Callable[[Part], References]) -> Part:
        """Adds a version that `change` makes of the newest one; nobody else changes the part meanwhile.

        Raises:
            PartError: As of [`PartStore.read`] and [`PartStore.write`].
        """
        with self._locked():
            part = self.read(name)
            return self._add(name, change(part), replace(part.facts, learned=True))

    def knows(self, name: str, version: int, fingerprint: str | None = None) -> bool:
        """Whether the newest version of a part is this one, with these references, or was learned from it."""
        versions, place = self.versions(name), self.folder / name
        later = [one for one in versions if one > version]
        if any(_was_learned(place / f"{one}{_SUFFIX}") is False for one in later):
            return False
        if version not in versions:
            return bool(later)  # only the last ones are kept
        found = None if fingerprint is None else read_part(place / f"{version}{_SUFFIX}")[1].fingerprint()
        return found == fingerprint

    def remove(self, name: str) -> None:
        """Removes a part with all its versions."""
        self.path(name)
        with self._locked():
            gone = self.folder / f".{name}.removed"
            shutil.rmtree(gone, ignore_errors=True)
            os.replace(self.folder / name, gone)  # at once: half a part must not be left by a kill
            shutil.rmtree(gone, ignore_errors=True)

    def take_back(self, name: str, version: int, fingerprint: str | None = None) -> None:
        """Removes the newest version, which must be this one, with these references; the one before counts again.

        Raises:
            PartError: If it is not the newest or has other references, **or** there is none before it.
        """
        with self._locked():
            versions = self.versions(name)
            newest = versions[-1] if versions else "none"
            if newest == version and fingerprint not in (None, self.read(name).references.fingerprint()):
                newest = f"another {version}"  # numbers are used again
            if newest != version or len(versions) < 2:
                raise PartError(
                    f"The newest version of the part {name!r} must be {version}, got {newest}. "
                    "It was changed since; what came later would be lost."
                )
            (self.folder / name / f"{version}{_SUFFIX}").unlink()

    def take_in(self, file: str | os.PathLike, name: str) -> Part:
        """Adds a part from a file that `parts export` or `inspect --save-references` wrote; all of it is checked.

        Raises:
            PartError: If there is such a part already, **or** the file is no part, damaged or too large.
        """
        check_name(name)
        facts, references = read_part(file)
        if self.versions(name):
            raise PartError(f"There is a part {name!r} already. Give another --name, or remove it first.")
        return self.write(name, references, facts)

    def _add(self, name: str, references: References, facts: PartFacts) -> Part:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        number = 3 if references.bank.presence else 2 if references.views is not None else references.roi is not None
        facts = replace(facts, format=_FORMATS[number], made=now)
        InspectionOptions(mm_per_pixel=facts.mm_per_pixel)  # what no inspection takes is refused now
        content = _with_facts(references, facts)
        if len(content) > _MAX_BYTES:
            raise PartError(f"A part must have at most {_MAX_BYTES >> 30} GiB, got more. Use fewer good pictures.")
        version = max(self.versions(name), default=0) + 1
        place = self.folder / name
        place.mkdir(exist_ok=True)
        try:
            write_atomically(place / f"{version}{_SUFFIX}", content)
        except BaseException:
            with contextlib.suppress(OSError):
                place.rmdir()  # of a part that was to be new
            raise
        for old in self.versions(name)[:-_KEPT_VERSIONS]:
            (place / f"{old}{_SUFFIX}").unlink()
        return Part(name, version, facts, references)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock", timeout=30):
            yield


def check_name(name: str) -> None:
    """Refuses what is no name of a part: it becomes the name of a folder."""
    if not _is_name(name):
        raise PartError(
            f"`NAME` must be 1 to 80 letters, digits, spaces, dots, dashes and underscores, not {AUTO!r} nor a "
            f"device of Windows (nul, con), got {name[:100]!r}. Try bolt_m8."
        )


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name != AUTO and len(os.fsencode(name)) <= 200


def read_part(path: str | os.PathLike) -> tuple[PartFacts, References]:
    """Facts and references of a file, all of it checked; plain references become a part as well.

    Raises:
        PartError: If it is no part, damaged, too large or of a newer version of this package.
    """
    if not os.path.isfile(path):
        raise PartError(f"There is no file {os.fspath(path)!r}. Check the path.")
    if os.path.getsize(path) > _MAX_BYTES:
        raise PartError(f"A part must have at most {_MAX_BYTES >> 30} GiB, got a larger file: {os.fspath(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "part" in metadata:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        facts = _checked_facts(metadata.get("part"), metadata.get("fingerprint", ""))
        if "part" in metadata and metadata.pop("checksum", None) != _checksum(tensors, metadata):
            raise ValueError("its checksum is another")
        return facts, References.load(path)
    except PartError as error:
        raise PartError(f"{os.fspath(path)!r}: {error}") from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:150].rstrip(".")
        raise PartError(
            f"{os.fspath(path)!r} is no part, or is damaged: {reason}. Copy or export it again, or make the part anew."
        ) from error


def _checked_facts(text: str | None, fingerprint: str) -> PartFacts:
    if text is None:  # references alone: `--save-references`, or an earlier version
        tile = re.search(r"-tile([1-9]\d{0,5})$", fingerprint)
        return PartFacts("another model", tile=int(tile[1]) if tile else None)
    row = json.loads(text)
    if type(row["format"]) is not int or row["format"] > _FORMATS[-1]:
        raise PartError(f"made by a newer version (format {row['format']!r:.20}). Update: pip install -U anomalygpt.")
    known = {name: row[name] for name in PartFacts.__dataclass_fields__ if name in row}
    facts = PartFacts(**known)
    if not all(
        isinstance(text, str) and text.isprintable() and len(text) < 1000 for text in (facts.model, facts.made)
    ):
        raise ValueError("its words are damaged")
    if facts.tile is not None and (type(facts.tile) is not int or not 32 <= facts.tile < 10**6):
        raise ValueError(f"its tiles are {facts.tile!r:.20}")
    scale = facts.mm_per_pixel
    if scale is not None and (type(scale) not in (int, float) or not 0 < scale < 1e9):
        raise ValueError(f"its scale is {scale!r:.20}")
    return facts


def _was_learned(path: pathlib.Path) -> bool | None:
    """What a file says of itself, without its patches; `None` also where it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["part"])["learned"]
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        return None


def _with_facts(references: References, facts: PartFacts) -> bytes:
    """The file of a part: what [`References.save`] writes, with the facts and a checksum."""
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "references.safetensors"
        references.save(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() | {"part": json.dumps(asdict(facts))}
    return save(tensors, metadata | {"checksum": _checksum(tensors, metadata)})


def _checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class PartFollower:
    """Takes over newer versions of the part that an inspector uses, such as corrections made meanwhile.

    Args:
        store ([`PartStore`]): Where it is stored.
        part ([`Part`]): The version in use.
        inspector ([`AnomalyInspector`]), model (`str`, *optional*): What uses it.
        mm_per_pixel (`float`, *optional*): Scale, if another than the part's was asked for.
    """

    def __init__(
        self,
        store: PartStore,
        part: Part,
        inspector: AnomalyInspector,
        model: str | None,
        mm_per_pixel: float | None = None,
    ):
        self._store, self._part, self._inspector, self._model = store, part, inspector, model
        self._mm_per_pixel = mm_per_pixel
        newest = self._newest()
        self._looked_at = newest if newest is not None and newest[0] == part.version else None

    def renew(self) -> str | None:
        """Takes over the newest version where it is another; a line about it, `None` where nothing changed."""
        newest = self._newest()
        if newest == self._looked_at:
            return None
        self._looked_at = newest
        if newest is None:
            return f"The part {self._part.name!r} is gone; version {self._part.version} stays in use."
        try:
            part = self._store.read(self._part.name)
            part.check(self._inspector, self._model)
        except (ValueError, OSError) as error:
            return f"{error} Version {self._part.version} stays in use."
        self._part = part
        part.use(self._inspector)
        return f"The part {part.name!r} has changed: version {part.version} is used from here on."

    def options(self, options: InspectionOptions) -> InspectionOptions:
        """The options with the scale of the version in use, or the one that was asked for."""
        return replace(options, mm_per_pixel=self._mm_per_pixel or self._part.facts.mm_per_pixel)

    def _newest(self) -> tuple[int, int, int] | None:
        """Names the newest file, whose number may have been used before; `None` where there is no file any more."""
        try:
            path = self._store.path(self._part.name)
            status = path.stat()
        except (PartError, OSError):
            return None
        return int(path.stem), status.st_mtime_ns, status.st_ino


class PartChooser:
    """Inspects each picture as the stored part that it shows, told by the domain gates of all parts.

    Args:
        inspector ([`AnomalyInspector`]): Its references are replaced, picture by picture.
        parts (`Sequence[Part]`): Among which is chosen; those that cannot be told apart are left out.

    Attributes:
        left_out (`dict[str, str]`): Parts among which is not chosen, with the reason.

    Raises:
        PartError: If no part is left.
    """

    def __init__(self, inspector: AnomalyInspector, parts: Sequence[Part]):
        self.inspector = inspector
        self.left_out: dict[str, str] = {}
        self.parts: list[Part] = []
        for part in parts:
            if part.references.bank.fingerprint != inspector.encoder.fingerprint():
                self.left_out[part.name] = "made with another model or other tiles"
            elif part.references.domain_gate is None:
                self.left_out[part.name] = "its pictures were split into tiles"
            else:
                self.parts.append(replace(part, references=part.references.to(inspector.model.device)))
        if not self.parts:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
            raise PartError(f"`--part auto` must have a stored part to choose, got none ({reasons or 'none stored'}).")
        images = inspector.processor.image_processor
        mean, std = (torch.tensor(values) for values in (images.image_mean, images.image_std))
        self._black = (-mean / std).to(inspector.model.device)

    @torch.inference_mode()
    def choose(self, image: Any) -> Part | None:
        """The part whose references a picture is most like, in their depth and light; `None` where it is like none."""
        encode, best = self.inspector.model.model.get_patch_features, (1.0, None)
        opened = functools.cache(lambda bits: _load(image, bits))
        as_it_lies = functools.cache(lambda bits: self._pixels(opened(bits)))
        plain = functools.cache(lambda bits: encode(as_it_lies(bits))[-1])
        for part in self.parts:
            gate, bits = part.references.domain_gate, part.references.bits
            lying, inside = self.inspector.encoder.as_compared(opened(bits), part.references)
            if inside is not None and not inside.any():
                continue
            pixels = as_it_lies(bits) if lying is opened(bits) else self._pixels(lying)
            seen = gate.match_exposure(pixels, self._black, inside)
            layer = plain(bits) if torch.equal(seen, as_it_lies(bits)) else encode(seen)[-1]
            traits = ImageTraits.of(seen, layer, inside=inside)
            distance = 1 - float((traits.features @ gate.features.to(traits.features).T).max())
            if distance <= gate.max_distance and distance / gate.max_distance <= best[0]:
                best = distance / gate.max_distance, part
        return best[1]

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        pixels = self.inspector.processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        return pixels.to(self.inspector.model.device)

    def inspect(self, image: Any, options: InspectionOptions | None = None) -> InspectionResult:
        """As [`AnomalyInspector.inspect`], as the part that the picture shows."""
        return self._inspect(image, _load(image), options or InspectionOptions())

    def inspect_many(
        self,
        images: Sequence[Any],
        options: InspectionOptions | None = None,
        batch_size: int = 1,
        progress: bool = False,
        results_file: str | os.PathLike | None = None,
        resume: bool = False,
    ) -> Iterator[InspectionResult]:
        """As [`AnomalyInspector.inspect_many`], picture by picture; `evidence["part"]` names the part of each.

        A picture that is like no part has the verdict `"unknown"`.
        """
        options = options or InspectionOptions()
        rows = None if results_file is None else ResultsFile(results_file, resume, self.setup(options))
        try:
            yield from self._results(images, options, rows)
        finally:
            if rows is not None:
                rows.close()

    def setup(self, options: InspectionOptions) -> dict[str, str]:
        """As [`AnomalyInspector.setup`], with all parts as references."""
        parts = [(part.name, part.references.fingerprint()) for part in self.parts]
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        self.inspector.part = AUTO
        return self.inspector.setup(None, options.completed(None)) | {"references": digest}

    def _results(
        self, images: Sequence[Any], options: InspectionOptions, rows: ResultsFile | None
    ) -> Iterator[InspectionResult]:
        def failed(image: Any, line: str) -> InspectionResult:
            return failed_result(image, line, options.completed(None))

        def inspect(batch: list[Loaded]) -> list[InspectionResult]:
            try:
                return [self._inspect(*batch[0], options)]
            except (PictureError, OSError) as error:  # a deep picture is opened once more, as its part says
                return [failed(batch[0][0], describe_error(error))]

        finished = None if rows is None else rows.finished
        one_by_one = inspect_in_batches(images, inspect, failed, finished, 1, _load)
        for result in one_by_one:
            if rows is not None and "resumed" not in result.evidence:
                rows.append(result)
            yield result

    def _inspect(self, source: Any, image: Image.Image, options: InspectionOptions) -> InspectionResult:
        begun = time.perf_counter()
        part = self.choose(source if any(part.references.bits for part in self.parts) else image)
        if part is None:
            words = _NO_PART[options.language]
            return InspectionResult(
                image=str(source) if isinstance(source, str | os.PathLike) else None,
                verdict="unknown",
                answer=words,
                evidence={"reasons": [{"kind": "no_part", "text": words}]},
                language=options.language,
                seconds=time.perf_counter() - begun,
                judged_image=image,
            )
        part.use(self.inspector)
        if part.facts.mm_per_pixel and options.mm_per_pixel is None:
            options = replace(options, mm_per_pixel=part.facts.mm_per_pixel)
        result = self.inspector.inspect(source if part.references.bits else image, options)
        result.image = str(source) if isinstance(source, str | os.PathLike) else None
        result.evidence |= {"part": part.name}
        result.seconds = time.perf_counter() - begun
        return result


_NO_PART = {"en": "The picture is like none of the stored parts.", "zh": "图片与已存的任何零件都不相像。"}


def _load(picture: Any, bits: int | None = None) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how deep it is, the part says
        return load_picture(picture, bits)


__all__ = [
    "AUTO",
    "Part",
    "PartChooser",
    "PartError",
    "PartFacts",
    "PartFollower",
    "PartStore",
    "check_name",
    "read_part",
]
