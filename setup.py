"""Installs AnomalyGPT: the model, the data set builders, the metrics and the `anomalygpt` command."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="anomalygpt",
    version="0.1.0",
    description="Industrial anomaly detection with a vision-language model, Hugging Face-native",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["modeling_anomalygpt*", "datasets_scripts*"]),
        "evaluate_modules",
        "spaces_app",
        "spaces_app.examples",
    ],
    package_dir={"spaces_app.examples": "examples"},
    package_data={
        "modeling_anomalygpt": [
            "anomalygpt_small/*",
            "anomalygpt_tiny/*",
            "anomalygpt_tiny/*/*",
            "cli/help/*.txt",
            "conversations/*.json",
            "line/*.html",
            "report/page.*",
            "report/words_*.json",
            "training/recipes/*",
        ],
        "datasets_scripts": ["facts.yaml", "rendering/*.json", "cad_parts_data/*.parquet"],
        "evaluate_modules": ["README.md", "*/*.py", "*/*.md", "*/*.txt"],
        "spaces_app": ["README.md", "README_zh.md", "requirements.txt", "*.json", "*.css", "*.js"],
        "spaces_app.examples": ["*/*/*.jpg"],
    },
    install_requires=[
        "torch>=2.6",
        "transformers>=5.21,<6",
        "datasets>=5,<6",
        "peft>=0.19",
        "accelerate>=1.10",
        "huggingface-hub>=2",
        "evaluate>=0.4.6",
        "safetensors>=0.6",
        "pillow>=11",
        "numpy>=2",
        # The page of the report is a template; transformers and torch need it as well.
        "jinja2>=3.1",
        # Poisson blending (anomaly synthesis), contours of regions, fast resizing: 35 MB that replace much code.
        "opencv-python-headless>=4.10",
    ],
    extras_require={
        "train": ["tensorboard>=2.18", "pyyaml>=6"],
        "heic": ["pillow-heif>=0.20"],  # photographs of telephones
        "demo": ["gradio>=6.20,<7"],
        # `anomalygpt watch`: the system's own news of files (inotify, FSEvents, ...) instead of polling;
        # `anomalygpt serve`: what Gradio brings along as well.
        "line": ["watchdog>=6", "fastapi>=0.115", "uvicorn>=0.30"],
        "quantization": ["bitsandbytes>=0.48"],
        # Only to render the set `cad_parts` again (recipes/cad_parts): path tracer, its denoiser, solids, outlines.
        "cad": ["mitsuba>=3.9,<3.10", "pyoidn>=2.5", "manifold3d>=3.5", "shapely>=2.1", "scipy>=1.13"],
        "crackforest": ["scipy>=1.13"],  # its ground truth lies in MATLAB files
        "export": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"],
        # With "export": the file goes by way of ONNX.
        "openvino": ["openvino>=2025.0"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # the tests on all cores
            "hypothesis>=6",
            "scikit-learn>=1.5",  # metrics to compare ours with; the classifier of words in recipes/tiny
            "scipy>=1.13",
            "ruff>=0.14",
            "build>=1.2",
            "gradio>=6.20,<7",
            "playwright>=1.50",
            "watchdog>=6",
        ],
    },
    entry_points={"console_scripts": ["anomalygpt=modeling_anomalygpt.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Manufacturing",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
