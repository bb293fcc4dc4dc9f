"""The house rules: flat means that it travels, imports point down, everything public is described."""

import ast
import functools
import gc
import pathlib
import re
import sys

import pytest

from modeling_anomalygpt import import_uncollected
from modeling_anomalygpt.hub.publishing import code_files

REPOSITORY = pathlib.Path(__file__).parents[1]
PACKAGE = REPOSITORY / "modeling_anomalygpt"
DATASETS = REPOSITORY / "datasets_scripts"
FLAT = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
# Each sub-package imports from top-level files and from those before it.
SUB_PACKAGES = (
    "synthesis", "conversations", "data", "evaluation", "report", "line", "hub", "training", "conversion", "cli"
)  # fmt: skip
MAY_TRAVEL = {
    "torch",
    "transformers",
    "numpy",
    "PIL",
    "safetensors",
    "huggingface_hub",
    "cv2",
    "peft",
    "tqdm",
    "filelock",
}
WITHOUT_TORCH = (
    "prompts", "regions", "conversations/instructions", "evaluation/metrics", "synthesis/synthesizer"
)  # fmt: skip


@functools.cache
def tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: pathlib.Path) -> list[tuple[int, str, list[str]]]:
    """Every import of a file, anywhere in it: level of the dots, module, names."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", [alias.name for alias in node.names]))
    return found


@functools.cache
def own_imports(path: pathlib.Path) -> set[pathlib.Path]:
    """Files of the package that a file of it imports."""
    found = set()
    for level, name, names in imports(path):
        if level == 0 and name.split(".")[0] != PACKAGE.name:
            continue
        start = path.parents[level - 1] if level else REPOSITORY
        place = start.joinpath(*name.split(".")) if name else start
        for one in [place, *(place / each for each in names)]:
            found |= {file for file in (one.with_suffix(".py"), one / "__init__.py") if file.is_file()}
    return found - {PACKAGE / "__init__.py", path}


def reached(paths) -> set[pathlib.Path]:
    seen, waiting = set(), list(paths)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += own_imports(path)
    return seen


def third_party(path: pathlib.Path) -> set[str]:
    names = {name.split(".")[0] for level, name, _ in imports(path) if level == 0}
    return names - set(sys.stdlib_module_names) - {"modeling_anomalygpt", "datasets_scripts"}


OWN_CODE = sorted([*PACKAGE.rglob("*.py"), *DATASETS.rglob("*.py")])
ALL_CODE = sorted(
    path
    for folder in ("modeling_anomalygpt", "datasets_scripts", "evaluate_modules", "benchmarks", "recipes", "tests")
    + ("spaces_app",)
    for path in (REPOSITORY / folder).rglob("*.py")
)


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(REPOSITORY))


# Layout


@pytest.mark.parametrize("module", FLAT)
def test_a_top_level_file_travels_and_imports_only_what_travels(module):
    path = PACKAGE / f"{module}.py"
    assert path.name in code_files()
    for level, name, _ in imports(path):
        assert level <= 1, f"{module}: no import from a folder above"
        if level == 1:
            assert name in FLAT, f"{module} imports {name!r}: only siblings travel, sub-packages and `.` do not"
        assert name.split(".")[0] != "modeling_anomalygpt" or level == 1, f"{module}: absolute import of the package"
    assert third_party(path) <= MAY_TRAVEL
    # Copying reads the text, not the code: a line of a docstring counts as an import.
    code_lines = {node.lineno for node in ast.walk(tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip().startswith(("from .", "import .")):
            assert number in code_lines, f"{module}:{number} looks like an import but is none"


def test_sub_packages_import_downwards():
    assert set(SUB_PACKAGES) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    for position, package in enumerate(SUB_PACKAGES):
        allowed = {PACKAGE.name, *SUB_PACKAGES[: position + 1]}
        for path in (PACKAGE / package).glob("*.py"):
            above = [name_of(other) for other in own_imports(path) if other.parent.name not in allowed]
            assert not above, f"{name_of(path)} imports from above: {above}"


def test_no_module_imports_itself_through_others():
    for path in PACKAGE.rglob("*.py"):
        assert path not in reached(own_imports(path)), f"{name_of(path)} reaches itself"


def test_models_and_datasets_meet_only_in_the_command_line():
    for path in OWN_CODE:
        if path.parent == PACKAGE / "cli":
            continue
        other = "datasets_scripts" if PACKAGE in path.parents else "modeling_anomalygpt"
        # Data sets open pictures and masks by the same functions as the model: `images` knows no model.
        names = {name for level, name, _ in imports(path) if level == 0} - {"modeling_anomalygpt.images"}
        assert other not in {name.split(".")[0] for name in names}, name_of(path)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_words_numbers_and_pictures_need_no_torch(module):
    for path in reached([PACKAGE / f"{module}.py"]):
        assert "torch" not in third_party(path), f"{module} reaches torch through {name_of(path)}"


def test_torchvision_is_imported_nowhere():
    for path in ALL_CODE:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) torchvision\b", text, re.MULTILINE), name_of(path)


def test_a_function_is_read_without_scrolling():
    long = [
        f"{name_of(path)}: {node.name} ({length} lines)"
        for path in OWN_CODE
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        # the docstring is not counted
        and (length := node.end_lineno - node.body[bool(ast.get_docstring(node)) and len(node.body) > 1].lineno) > 60
    ]
    assert not long


def test_no_file_is_a_drawer_for_anything():
    for path in ALL_CODE:
        assert path.stem not in {"utils", "helpers", "common", "misc"}, name_of(path)


# Import of the package


def test_where_torch_is_loaded_already_what_the_program_has_made_is_left_to_the_garbage_collection():
    frozen = gc.get_freeze_count()
    assert import_uncollected(".inspector").AnomalyInspector
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, frozen)


def test_every_public_name_of_the_package_exists():
    import modeling_anomalygpt

    for name in modeling_anomalygpt.__all__:
        assert getattr(modeling_anomalygpt, name) is not None
    with pytest.raises(AttributeError, match="module 'modeling_anomalygpt' has no attribute 'Anomaly'"):
        modeling_anomalygpt.Anomaly  # noqa: B018


# Words about the code

# Their signature is that of the class above, in transformers, `datasets` or the standard library.
INHERITED = {"forward", "from_pretrained", "save_pretrained", "preprocess", "train", "get_image_features"}
INHERITED |= {"draw", "find_records", "make_row", "mask_size", "read_mask"}  # of designs and data set builders


def public(path: pathlib.Path):
    """Public functions, classes and methods of a file, with the name under which they are known."""
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


def test_everything_public_is_described():
    undescribed = [name_of(path) for path in OWN_CODE if not ast.get_docstring(tree(path))]
    undescribed += [
        f"{name_of(path)}: {name}"
        for path in OWN_CODE
        for name, node in public(path)
        if not ast.get_docstring(node)
        and name.split(".")[-1] not in INHERITED
        and not any(
            getattr(mark, "id", getattr(mark, "attr", "")) in ("setter", "overload")
            for mark in getattr(node, "decorator_list", ())
        )
    ]
    assert not undescribed


def test_everything_public_is_typed():
    untyped = []
    functions = [(path, *found) for path in OWN_CODE for found in public(path)]
    for file, name, node in functions:
        if not isinstance(node, ast.FunctionDef):
            continue
        static = any(getattr(mark, "id", "") == "staticmethod" for mark in node.decorator_list)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if "." in name and not static:
            arguments = arguments[1:]  # self, cls
        bare = [argument.arg for argument in arguments if argument.annotation is None]
        if node.returns is None:
            bare.append("return")
        if bare and name.split(".")[-1] not in INHERITED:
            untyped.append(f"{name_of(file)}: {name}({', '.join(bare)})")
    assert not untyped
