"""How well maps find the anomalous pixels, as a metric of the `evaluate` library."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from modeling_anomalygpt.evaluation.metrics import PixelMetrics

DESCRIPTION = """\
Metrics of anomaly maps, pooled over all pixels of all pictures: AUROC, average precision, the largest F1, and the
overlap of regions up to a false-positive rate (AUPRO).
"""

INPUTS = """
Args:
    predictions (list of 2-D arrays of `float`): A map per picture, finite, on any scale, higher meaning more
        anomalous; pictures may differ in size.
    references (list of 2-D arrays): A mask per picture, of its map's size: anomalous where not zero; good pictures
        have masks of zeros.
    limits (sequence of `float`, *optional*, defaults to `(0.3, 0.05)`): False-positive rates in (0, 1] up to which
        the overlap of regions is averaged; an argument of `compute`.

Returns:
    `dict[str, float]`: `pixel_auroc`, `pixel_average_precision`, `pixel_f1_max`, `pixel_f1_threshold` and, for each
    limit, `aupro_<limit>`.

Raises:
    ValueError: If no pixel is normal or none is anomalous, sizes differ, or a score is not finite.

Example:
    >>> metric = evaluate.load("evaluate_modules/anomaly_pixel_metrics")
    >>> found = metric.compute(predictions=[[[0.1, 0.6], [0.5, 0.9]]], references=[[[0, 0], [1, 1]]])
    >>> found["pixel_auroc"]
    0.75
"""


class AnomalyPixelMetrics(evaluate.Metric):
    """Metrics of anomaly maps; see [`~modeling_anomalygpt.evaluation.metrics.PixelMetrics`]."""

    def _info(self) -> evaluate.MetricInfo:
        # Rows of any length: `Array2D` would want one width. Masks with a fraction, for 0.5 is anomalous as well.
        picture = datasets.Sequence(datasets.Sequence(datasets.Value("float32")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": picture, "references": picture}),
            license="Apache-2.0",
        )

    def _compute(
        self,
        predictions: list[list[list[float]]],
        references: list[list[list[float]]],
        limits: Sequence[float] = (0.3, 0.05),
    ) -> dict[str, float]:
        metrics = PixelMetrics(limits)
        for mask, anomaly_map in zip(references, predictions, strict=True):
            metrics.update(np.array(mask, dtype=np.float32), np.array(anomaly_map, dtype=np.float32))
        return metrics.compute()
