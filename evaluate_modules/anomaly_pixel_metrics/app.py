"""The page of the metric's Space: a table to fill in, and the metrics of it."""

import pathlib

import evaluate
import gradio
from evaluate.utils import launch_gradio_widget

# evaluate 0.4 looks for the widgets where Gradio 3 had them.
gradio.inputs = gradio.outputs = gradio

# The file by name: in a Space the folder is called otherwise.
METRIC = pathlib.Path(__file__).with_name("anomaly_pixel_metrics.py")

if __name__ == "__main__":
    launch_gradio_widget(evaluate.load(str(METRIC)))
