"""Makes transformers' auto classes and pipelines know AnomalyGPT, in this process and in saved folders."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .configuration_anomalygpt import AnomalyGPTConfig
from .image_processing_anomalygpt import AnomalyGPTImageProcessor
from .modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTModel
from .processing_anomalygpt import AnomalyGPTProcessor


def register() -> None:
    """Lets `AutoModelForImageTextToText` and the others load AnomalyGPT folders without custom code."""
    AutoConfig.register("anomalygpt", AnomalyGPTConfig, exist_ok=True)
    AutoModel.register(AnomalyGPTConfig, AnomalyGPTModel, exist_ok=True)
    AutoModelForImageTextToText.register(AnomalyGPTConfig, AnomalyGPTForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(
        AnomalyGPTConfig, image_processor_classes={"pil": AnomalyGPTImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(AnomalyGPTConfig, AnomalyGPTProcessor, exist_ok=True)


def register_for_auto_class() -> None:
    """Lets `save_pretrained` and `push_to_hub` write the code beside the weights, for use without this package."""
    AnomalyGPTConfig.register_for_auto_class()
    AnomalyGPTModel.register_for_auto_class("AutoModel")
    AnomalyGPTForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
    AnomalyGPTImageProcessor.register_for_auto_class("AutoImageProcessor")
    AnomalyGPTProcessor.register_for_auto_class("AutoProcessor")


__all__ = ["register", "register_for_auto_class"]
