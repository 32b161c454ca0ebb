"""Two import packages from one repository: `lightning_unlearn`, and `unlearn_kernels`, which lives in kernels/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "lightning_unlearn/__init__.py").read_text()).group(1)

EXTRAS = {
    "triton": ["triton>=3.4; platform_system == 'Linux'"],  # PyTorch's CUDA wheels bring the Triton that suits them
    "flash": ["flash-attn>=2.8; platform_system == 'Linux'"],
    "eval": ["lm_eval>=0.4.9"],
    "quantization": ["bitsandbytes>=0.48; platform_system == 'Linux'"],
    "bench": [  # what the kernels are compared with
        "liger-kernel>=0.8.5; platform_system == 'Linux'",
        "cut-cross-entropy>=25.1.1; platform_system == 'Linux'",
        "quack-kernels>=0.6.5; platform_system == 'Linux'",
    ],
    "docs": ["pdoc>=15"],
}
EXTRAS["dev"] = [
    *EXTRAS["docs"],
    *EXTRAS["quantization"],
    *EXTRAS["eval"],
    *EXTRAS["triton"],  # its interpreter and compiler test the kernels where there is no GPU
    "build>=1.2",
    "codespell>=2.4",
    "hypothesis>=6.130",
    "mypy>=1.15",
    "pillow>=11",
    "pre-commit>=4",
    "pytest>=8.3",
    "pytest-cov>=6",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.11",
    "setuptools>=77",
    "wheel",
]

setup(
    name="lightning-unlearn",
    version=VERSION,
    description="Make a language model forget chosen data, and prove that it did, inside PyTorch Lightning",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["machine unlearning", "language models", "pytorch lightning", "triton"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # kernels/ is a folder and no package: a package of that name would shadow one that transformers looks for.
    packages=find_packages(include=["lightning_unlearn*"]) + find_packages("kernels"),
    package_dir={"unlearn_kernels": "kernels/unlearn_kernels"},
    package_data={"": ["py.typed", "*.html", "*.css", "*.js", "*.json", "*.jsonl", "*.txt"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.8",
        "lightning>=2.6.4",
        "transformers>=5.10.4",
        "torchmetrics>=1.7",
        "datasets>=4",
        "peft>=0.18",
        "jsonargparse[signatures]>=4.49",
        "rouge-score>=0.1.2",
        "scipy>=1.13",
        "jinja2>=3.1",
        "rich>=13",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["lightning-unlearn = lightning_unlearn.cli:main"]},
)
