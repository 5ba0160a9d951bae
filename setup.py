"""Packaging of reszoo (the zoo) and ablations (the laboratory)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (HERE / "reszoo/__init__.py").read_text(encoding="utf-8"), re.M
)
assert VERSION is not None

setup(
    name="reszoo",
    version=VERSION[1],
    description="Every residual network from one spec, and an ablation laboratory, for Keras 3",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "ablations/data/fashion/LICENSE", "reszoo/data/README.md"],
    keywords="resnet keras tensorflow ablation reproducibility deep-residual-learning",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["reszoo*", "ablations*"]),
    package_data={
        "reszoo": ["py.typed", "data/*"],
        "reszoo.weights": ["index.csv"],
        "ablations": ["py.typed", "grids/*.yaml"],
        "ablations.report.page": ["*.css", "*.js"],
        "ablations.data.fashion": ["slice.npz", "LICENSE", "README.md"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.4",
        # Earlier ones have open security holes; 3.16 is not tested.
        "keras>=3.15.1,<3.16",
        "keras-cv>=0.9,<0.10",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "pillow>=10",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4",
        "scipy>=1.11",
        # 2.20 fails to start beside setuptools >= 82.
        "tensorboard>=2.21",
        "tensorflow>=2.21,<2.22",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        # Weights that only the Hugging Face hub has come from its cache where this is installed.
        "hub": ["huggingface-hub>=0.23"],
        # tf2onnx before 1.17 cannot be installed beside TensorFlow's protobuf.
        "onnx": ["onnxruntime>=1.18", "tf2onnx>=1.17"],
        # This release has a CPU build; others bring CUDA, several GB.
        "parity": ["torch==2.13.0"],
        # To prepare ImageNet; reading a prepared set needs nothing more.
        "tfds": ["tensorflow-datasets>=4.9"],
        "test": [
            "h5py>=3.11",
            "jax>=0.10",
            "hypothesis>=6.100",
            "mypy==2.4.1",
            "onnxruntime>=1.18",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff==0.17.6",
            "statsmodels>=0.14",
            "tf2onnx>=1.17",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": [
            "ablations-run=ablations.run:console",
            "ablations-evaluate=ablations.evaluate:console",
            "ablations-analyze=ablations.analyze:console",
            "ablations-report=ablations.report.__main__:console",
        ]
    },
)
