"""The house rules: imports point down, travelling files travel, files stay short, everything public is described."""

import ast
import functools
import pathlib
import statistics
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).parents[1]
PACKAGE = REPOSITORY / "modeling_anomalygpt"
DATASETS = REPOSITORY / "datasets_scripts"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

# Floor of each module: it may import from its own floor and from those below, never in a circle.
FLOOR = {
    # 0: facts, numbers and words that know nothing of models and processors
    "anomaly_synthesis": 0,
    "atomic_write": 0,
    "configuration_anomalygpt": 0,
    "connected_components": 0,
    "descriptions": 0,
    "drawn_anomalies": 0,
    "localization": 0,
    "hub_errors": 0,
    "losses": 0,
    "memory_bank": 0,
    "bank_notes": 1,
    "metric_inputs": 0,
    "metrics": 0,
    "word_metrics": 1,
    "pixel_metrics": 0,
    "score_curves": 0,
    "score_table": 0,
    "nsa": 0,
    "outputs_anomalygpt": 0,
    "pasted_anomalies": 0,
    "picture_files": 0,
    "pictures": 0,
    "prompts": 0,
    "read_ahead": 0,
    "model_card": 0,
    "regions": 0,
    "synthetic_anomaly": 0,
    "tiling": 0,
    # 1: pictures and words into tensors and back
    "answer_tokens": 1,
    "answers": 1,
    "chat_format": 1,
    "decision": 1,
    "defect_kinds": 1,
    "facts": 1,
    "image_processing_anomalygpt": 1,
    "instruction_phrases_en": 1,
    "instruction_phrases_zh": 1,
    "instruction_topics": 1,
    "instructions": 1,
    "processing_anomalygpt": 1,
    "state_prompt_tokens": 1,
    # 2: the model
    "base_anomalygpt": 2,
    "calibration": 2,
    "comparability": 2,
    "data_collator": 2,
    "data_fingerprint": 2,
    "evaluation_examples": 2,
    "example_encoding": 2,
    "modeling_anomalygpt": 2,
    "placeholders": 2,
    "pretrained_parts": 2,
    "prompt_learner": 2,
    "reference_maps": 2,
    "registration": 2,
    "source_rows": 2,
    "streamed_examples": 2,
    "synthetic_dataset": 2,
    "prompt_adapter": 2,
    "text_tower": 2,
    "training_data": 2,
    "training_facts": 2,
    "training_sources": 2,
    "virtual_tokens": 2,
    "vision_features": 2,
    # 3: what is done with a model
    "checkpoint_streams": 3,
    "checkpoints": 3,
    "conversion_checks": 3,
    "conversion_selftest": 3,
    "convert_anomalygpt_to_hf": 3,
    "dialogue": 3,
    "distillation": 3,
    "distillation_arguments": 3,
    "distillation_pictures": 3,
    "export_anomalygpt": 3,
    "feedback": 3,
    "inspection_batches": 3,
    "inspection_result": 3,
    "inspector": 3,
    "judgement": 3,
    "observer": 3,
    "option_likelihood": 3,
    "published_configuration": 3,
    "published_layout": 3,
    "published_sources": 3,
    "published_tokenizers": 3,
    "results_file": 3,
    "adapter_merging": 3,
    "adapters": 3,
    "training": 3,
    "training_arguments": 3,
    "training_callbacks": 3,
    "training_card": 3,
    "training_checkpoints": 3,
    "training_evaluation": 3,
    "training_losses": 3,
    "training_model": 3,
    "tuning": 3,
    # 4: what is shown of it
    "backbones": 4,
    "baselines": 4,
    "contact_sheet": 4,
    "detectors": 4,
    "evaluation": 4,
    "evaluation_facts": 4,
    "evaluation_protocols": 4,
    "evaluation_rows": 4,
    "seen_data": 4,
    "handler": 4,
    "mmad": 4,
    "overlays": 4,
    "pipeline_anomalygpt": 4,
    "publishing": 4,
    "report": 4,
    "report_page": 4,
    "report_script": 4,
    "report_style": 4,
    "report_words": 4,
    "travelling_files": 4,
    "window_text_scores": 4,
    # 5: the command line
    "cli": 5,
    "cli_chat": 5,
    "cli_demo": 5,
    "cli_errors": 5,
    "cli_evaluate": 5,
    "cli_export": 5,
    "cli_inspect": 5,
    "cli_made_pictures": 5,
    "cli_merge": 5,
    "cli_mmad": 5,
    "cli_model_options": 5,
    "cli_push": 5,
    "cli_push_space": 5,
    "cli_synthesize": 5,
    "cli_table": 5,
    "cli_train": 5,
    "cli_training_data": 5,
}
REGISTERED = (
    "configuration_anomalygpt",
    "image_processing_anomalygpt",
    "modeling_anomalygpt",
    "processing_anomalygpt",
)
MAY_TRAVEL = {"torch", "transformers", "numpy", "PIL", "safetensors", "huggingface_hub"}
WITHOUT_TORCH = ("prompts", "instructions", "metrics", "regions", "anomaly_synthesis")
LONGEST = 450


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
def siblings(module: str) -> set[str]:
    """Modules of the package that a module imports, by a dot or by the package's name."""
    found = set()
    for level, name, names in imports(PACKAGE / f"{module}.py"):
        if level == 1:
            found |= {name.split(".")[0]} if name else set(names)
        elif name.split(".")[0] == "modeling_anomalygpt":
            found |= {name.split(".")[1]} if "." in name else set(names)
    return found & set(MODULES)


def closure(modules) -> set[str]:
    reached, waiting = set(), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += siblings(module)
    return reached


def third_party(path: pathlib.Path) -> set[str]:
    names = {name.split(".")[0] for level, name, _ in imports(path) if level == 0}
    return names - set(sys.stdlib_module_names) - {"modeling_anomalygpt", "datasets_scripts"}


TRAVELLING = sorted(closure(REGISTERED))
OWN_CODE = sorted([*PACKAGE.glob("*.py"), *DATASETS.glob("*.py")])
ALL_CODE = sorted(
    path
    for folder in ("modeling_anomalygpt", "datasets_scripts", "evaluate_modules", "benchmarks", "recipes", "tests")
    + ("spaces_app",)
    for path in (REPOSITORY / folder).rglob("*.py")
)


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(REPOSITORY))


# Floors


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    assert module in FLOOR, f"give {module}.py a floor in FLOOR"
    above = {name: FLOOR.get(name) for name in siblings(module) if FLOOR.get(name, 9) > FLOOR[module]}
    assert not above, f"{module} (floor {FLOOR[module]}) imports from above: {above}"


def test_no_module_imports_itself_through_others():
    for module in MODULES:
        assert module not in closure(siblings(module)), f"{module} reaches itself"


def test_models_and_datasets_meet_only_in_the_command_line():
    for path in OWN_CODE:
        if path.parent == PACKAGE and FLOOR.get(path.stem) == 5:
            continue
        other = "datasets_scripts" if path.parent == PACKAGE else "modeling_anomalygpt"
        assert other not in {name.split(".")[0] for level, name, _ in imports(path) if level == 0}, name_of(path)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_words_numbers_and_pictures_need_no_torch(module):
    if not (PACKAGE / f"{module}.py").exists():
        pytest.skip("not written yet")
    for reached in closure([module]):
        assert "torch" not in third_party(PACKAGE / f"{reached}.py"), f"{module} reaches torch through {reached}"


# Travelling files


@pytest.mark.parametrize("module", TRAVELLING)
def test_travelling_files_import_only_what_travels(module):
    path = PACKAGE / f"{module}.py"
    for level, name, _ in imports(path):
        assert level <= 1, f"{module}: no import from a folder above"
        if level == 1:
            assert name, f"{module}: `from . import x` does not travel"
            assert "." not in name, f"{module}: sub-packages do not travel"
        assert name.split(".")[0] != "modeling_anomalygpt" or level == 1, f"{module}: absolute import of the package"
    assert third_party(path) <= MAY_TRAVEL
    # Copying reads the text, not the code: a line of a docstring counts as an import.
    code_lines = {node.lineno for node in ast.walk(tree(path)) if isinstance(node, (ast.Import, ast.ImportFrom))}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip().startswith(("from .", "import .")):
            assert number in code_lines, f"{module}:{number} looks like an import but is none"


def test_the_registered_classes_reach_no_command_inspector_or_report():
    assert max(FLOOR[module] for module in TRAVELLING) <= 2, TRAVELLING


def test_torchvision_is_imported_nowhere():
    for path in ALL_CODE:
        assert "torchvision" not in third_party(path), name_of(path)


# Sizes and names


def test_no_file_is_longer_than_one_can_read():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_CODE}
    too_long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not too_long
    assert statistics.median(length for name, length in lengths.items() if not name.startswith("tests")) <= 180


def test_no_file_is_a_drawer_for_anything():
    for path in ALL_CODE:
        assert path.stem not in {"utils", "helpers", "common", "misc"}, name_of(path)


# Import of the package


def test_importing_the_package_loads_no_framework():
    source = (
        "import sys; import modeling_anomalygpt; dir(modeling_anomalygpt); "
        "print([name for name in ('torch', 'transformers', 'datasets', 'gradio', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_using_a_model_class_loads_no_datasets_and_starts_no_device():
    source = (
        "import sys, torch; from modeling_anomalygpt import AnomalyGPTForConditionalGeneration; "
        "print([name for name in ('datasets', 'gradio', 'torchvision') if name in sys.modules], "
        "torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"


def test_every_public_name_of_the_package_exists():
    import modeling_anomalygpt

    for name in modeling_anomalygpt.__all__:
        assert getattr(modeling_anomalygpt, name) is not None
    with pytest.raises(AttributeError, match="module 'modeling_anomalygpt' has no attribute 'Anomaly'"):
        modeling_anomalygpt.Anomaly  # noqa: B018


# Words about the code

# Their signature is that of the class above, in transformers, `datasets` or the standard library.
INHERITED = {"forward", "from_pretrained", "save_pretrained", "preprocess", "train", "get_image_features"}


def public(path: pathlib.Path):
    """Public functions, classes and methods of a file, with the name under which they are known."""
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


@pytest.mark.parametrize("path", OWN_CODE, ids=name_of)
def test_everything_public_is_described(path):
    assert ast.get_docstring(tree(path)), "the file itself"
    undescribed = [
        name
        for name, node in public(path)
        if not ast.get_docstring(node)
        and name.split(".")[-1] not in INHERITED
        and not any(
            getattr(mark, "id", getattr(mark, "attr", "")) in ("setter", "overload")
            for mark in getattr(node, "decorator_list", ())
        )
    ]
    assert not undescribed


@pytest.mark.parametrize("path", OWN_CODE, ids=name_of)
def test_everything_public_is_typed(path):
    untyped = []
    for name, node in public(path):
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
            untyped.append(f"{name}({', '.join(bare)})")
    assert not untyped
