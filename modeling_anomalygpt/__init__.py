"""AnomalyGPT for transformers: inspect parts with a vision-language model, from one good photograph.

Public names are imported when they are first used: `import modeling_anomalygpt` itself loads no torch, starts no
device and registers nothing; the first use of a model class registers all of them with transformers' auto classes.
"""

import gc
import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "AnomalyDetectionPipeline": "pipeline_anomalygpt",
    "AnomalyGPTConfig": "configuration_anomalygpt",
    "AnomalyGPTForConditionalGeneration": "modeling_anomalygpt",
    "AnomalyGPTImageProcessor": "image_processing_anomalygpt",
    "AnomalyGPTModel": "modeling_anomalygpt",
    "AnomalyGPTProcessor": "processing_anomalygpt",
    "AnomalyInspector": "inspector",
    "AnomalyTrainer": "training.trainer",
    "ImageMetrics": "evaluation.metrics",
    "InspectionResult": "results",
    "MemoryBank": "memory_bank",
    "PictureError": "images",
    "PixelMetrics": "evaluation.metrics",
    "Region": "regions",
    "TuningArguments": "training.tuning",
    "UNQUANTIZED_MODULES": "checkpoints",
    "WordMetrics": "conversations.word_metrics",
    "find_regions": "regions",
    "load_picture": "images",
    "merge_adapter": "hub.merging",
    "prepare_for_tuning": "training.tuning",
    "register": "checkpoints",
    "register_for_auto_class": "checkpoints",
}

__all__ = sorted([*_HOMES, "__version__"])


def import_uncollected(name: str) -> ModuleType:
    """Imports a module of the package, quickly where torch comes with it.

    Loading torch and transformers makes a million lasting objects; looking through them again and again for garbage
    takes a quarter of the time. So nothing is looked through meanwhile, and nothing that exists then ever again. Where
    torch is loaded already, the program has objects of its own and all stays as it is.

    Args:
        name (`str`): Relative to the package: `".inspector"`.

    Returns:
        The module.
    """
    if "torch" in sys.modules or not gc.isenabled():
        return importlib.import_module(name, __name__)
    gc.disable()
    try:
        return importlib.import_module(name, __name__)
    finally:
        if "torch" in sys.modules:
            gc.freeze()
        gc.enable()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_uncollected(f".{_HOMES[name]}"), name)
    if name.startswith("AnomalyGPT") or name in ("AnomalyInspector", "AnomalyDetectionPipeline"):
        importlib.import_module(".checkpoints", __name__).register()
    if name == "AnomalyDetectionPipeline":
        importlib.import_module(".pipeline_anomalygpt", __name__).register_pipeline()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
