"""Registers, shared memory and spills of the Triton kernels, compiled ahead: `python -m benchmarks.compile --help`.

No GPU is needed. Configurations are those that the package launches: which sums and terms a set of fields takes, the
dtype of the logits, the block, and whether pointers and strides are known to divide by 16. Ends with an error where a
kernel spills.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unlearn_kernels import rows, triton_rows
from unlearn_kernels.fields import Summary, wanted_sums
from unlearn_kernels.merge import Side
from unlearn_kernels.statistics import FIELDS, NEED_REFERENCE, NOT_DIFFERENTIABLE, REFERENCE_GRADIENT
from unlearn_kernels.tiles import Buffers
from unlearn_kernels.torch_rows import summarise_tile

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
SETS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in FIELDS},
    "log_prob, entropy": ("log_prob", "entropy"),
    "all but the reference's": tuple(name for name in FIELDS if name not in NEED_REFERENCE),
    "all": FIELDS,
}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Configuration:
    """One kernel as it is launched.

    Attributes:
        kernel: "sums" or "gradient".
        present: arguments that are there, with their types.
        flags: compile-time switches.
        columns: a size of slice that takes the block.
        aligned: whether pointers, strides and columns divide by 16.
    """

    kernel: str
    present: tuple[tuple[str, str], ...]
    flags: tuple[tuple[str, bool], ...]
    columns: int
    aligned: bool


@dataclass(frozen=True)
class Resources:
    """What the compiler gave a kernel: registers a thread, bytes of shared memory a program, bytes or words spilled."""

    registers: int
    shared: int
    spilled: int


def _inputs(dtype: str) -> dict[str, str]:
    return {"logits": f"*{dtype}", "labels": "*i64", "columns": "i32", "start": "i32", "stride": "i32"}


def _reference(dtype: str) -> dict[str, str]:
    return {"reference": f"*{dtype}", "reference_stride": "i32"}


def sums_configuration(fields: tuple[str, ...], dtype: str, columns: int, aligned: bool) -> Configuration:
    """The forward kernel as a set of fields takes it."""
    flags = {name.upper(): flag for name, flag in triton_rows.sums_of(wanted_sums(fields)).items()}
    types = {"sums": "*fp32", "indices": "*i64", "tokens": "i32", "rows": "*i64", **_inputs(dtype)}
    types |= _reference(dtype) if NEED_REFERENCE & {*fields} else {}
    return Configuration("sums", tuple(types.items()), tuple(flags.items()), columns, aligned)


def gradient_configuration(
    fields: tuple[str, ...], dtype: str, columns: int, aligned: bool, out: str | None = None
) -> Configuration:
    """The backward kernel as a set of fields takes it, with the soft cap; `out` is the gradient's dtype."""
    z, labels = torch.randn(1, 4), torch.tensor([1])
    sides: tuple[Side, Side | None] = summarise_tile(
        z, z.clone(), labels, 0, wanted_sums(fields), Buffers(4, z.dtype, z.device)
    )
    upstream = {name: torch.ones(1) for name in fields if name not in NOT_DIFFERENTIABLE}
    vectors = triton_rows.vectors(Summary(*sides, labels, 4).coefficients(upstream))
    types = {"out": f"*{out or dtype}", "out_stride": "i32", "cap": "fp32", "rows": "*i64", **_inputs(dtype)}
    types |= {name: "*i64" if x.dtype == torch.int64 else "*fp32" for name, x in vectors.items() if x is not None}
    types |= _reference(dtype) if REFERENCE_GRADIENT & {*fields} else {}
    return Configuration("gradient", tuple(types.items()), (), columns, aligned)


@functools.cache
def compiled(configuration: Configuration, target: str) -> Resources:
    """Compile a kernel for a target and read what it takes."""
    kernel = rows._sums_kernel if configuration.kernel == "sums" else rows._gradient_kernel
    options = rows.blocks(configuration.columns)
    types = dict(configuration.present)
    ones = (
        {"columns", "stride", "out_stride", "reference_stride"} & types.keys() if configuration.columns == 1 else set()
    )
    constants = {name: None for name in kernel.arg_names if name not in types}
    constants |= {**dict(configuration.flags), "BLOCK": options["BLOCK"]}
    if "reference" not in types:
        types["reference_stride"] = "i32"
        del constants["reference_stride"]
    for name in ones:
        del types[name]
        constants[name] = 1
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    dividing = {"columns", "stride", "out_stride", "reference_stride"} | {n for n, t in types.items() if t[0] == "*"}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if configuration.aligned and name in dividing and name in types
    }
    result = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=TARGETS[target],
        options={"num_warps": options["num_warps"], "enable_fp_fusion": True},
    )
    registers, spilled = (_amd if target.startswith("gfx") else _nvidia)(result.asm)
    return Resources(registers, result.metadata.shared, spilled)


def _nvidia(asm: dict) -> tuple[int, int]:
    """Registers and stack: a spill shows there and nowhere else."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def _amd(asm: dict) -> tuple[int, int]:
    names = (".vgpr_count", ".vgpr_spill_count", ".sgpr_spill_count", ".private_segment_fixed_size")
    values = [int(re.search(rf"{re.escape(name)}:\s+(\d+)", asm["amdgcn"]).group(1)) for name in names]
    return values[0], sum(values[1:])


def configurations(complete: bool, sets: list[str]) -> Iterator[tuple[str, str, Configuration]]:
    """Every (kernel and fields, dtype, configuration), those with equal configurations once.

    Args:
        complete: also float16, the small block and what is not known to divide by 16.
        sets: names among `SETS`.
    """
    makers: tuple[Callable[..., Configuration], ...] = (sums_configuration, gradient_configuration)
    seen: set[Configuration] = set()
    dtypes = DTYPES if complete else ("float32", "bfloat16")
    places = product((10**6, 1024), (True, False)) if complete else [(10**6, True)]
    places = [*places, (1, False)]  # Triton makes constants of sizes and strides that are 1
    for (columns, aligned), dtype, make, name in product(places, dtypes, makers, sets):
        fields = SETS[name]
        if make is gradient_configuration and NOT_DIFFERENTIABLE.issuperset(fields):
            continue
        made = {dtype: make(fields, DTYPES[dtype], columns, aligned)}
        if make is gradient_configuration and dtype == "float32":  # as products with a bfloat16 head take it
            made["float32 to bfloat16"] = gradient_configuration(fields, "fp32", columns, aligned, "bf16")
        for types, configuration in made.items():
            if configuration not in seen:
                seen.add(configuration)
                block = rows.blocks(columns)
                place = ", one column" if columns == 1 else "" if aligned else ", unaligned"
                label = f"{configuration.kernel}: {name}{place}"
                yield label, f"{types}, {block['BLOCK']} x {block['num_warps']}", configuration


def table(complete: bool, sets: list[str], targets: list[str]) -> tuple[str, list[str]]:
    """A Markdown table of registers / shared bytes, and the names of the kernels that spill."""
    lines = [f"| kernel: fields | logits, block x warps | {' | '.join(targets)} |", "|---" * (2 + len(targets)) + "|"]
    spilling = []
    for name, launch, configuration in configurations(complete, sets):
        found = {target: compiled(configuration, target) for target in targets}
        spilling += [f"{name}, {launch}, {target}: {x.spilled}" for target, x in found.items() if x.spilled]
        cells = " | ".join(f"{x.registers} / {x.shared}" for x in found.values())
        lines.append(f"| {name} | {launch} | {cells} |")
    return "\n".join(lines), spilling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--complete", action="store_true", help="every configuration that ships")
    parser.add_argument("--fields", nargs="+", default=[*SETS], choices=[*SETS], metavar="SET", help="sets of fields")
    parser.add_argument("--targets", nargs="+", default=[*TARGETS], choices=[*TARGETS], help="processors")
    arguments = parser.parse_args()
    if rows.INTERPRETED:
        raise SystemExit("TRITON_INTERPRET: expected unset, kernels of the interpreter cannot be compiled, got 1")
    text, spilling = table(arguments.complete, arguments.fields, arguments.targets)
    print(f"triton {triton.__version__}; registers a thread / bytes of shared memory a program\n\n{text}\n")
    if spilling:
        raise SystemExit("spilled:\n" + "\n".join(spilling))
    print("No kernel spills.")


if __name__ == "__main__":
    main()
