"""The kernels compute what plain torch does, on Triton's interpreter, and compile for GPUs.

On a GPU itself they run in test_gpu.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip(
    "triton", minversion="3.3", reason="needs triton 3.3 or newer: pip install triton"
)

HERE = Path(__file__).parent


def test_on_the_interpreter():
    arguments = ["-q", "-p", "no:cacheprovider", "--no-header", str(HERE / "on_interpreter.py")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compile a kernel for an NVIDIA GPU, which needs none."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET=1 runs kernels without compiling them")
    if "nvidia" not in triton.backends.backends:
        pytest.skip("needs a triton that compiles for NVIDIA GPUs")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compiled(kernel, capability, arguments, **constants):
        given = {name: arguments.get(name, "i32") for name in kernel.arg_names}
        signature = {n: "constexpr" if n in constants else kind for n, kind in given.items()}
        source = triton.compiler.ASTSource(kernel, signature, constants)
        target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
        return triton.compile(source, target=target).asm

    return compiled


@pytest.mark.parametrize("capability", [75, 80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_kernels_compile(compiled, dtype, capability):
    from softattn import triton_kernels as kernels

    maps = compiled(
        kernels._maps_kernel,
        capability,
        {"logits": f"*{dtype}", "maps": "*fp32"},
        stride_position=1,
        BLOCK=256,
    )
    assert maps["cubin"]
    for pool, relu, gamma, channels_last in [
        (1, False, {}, False),
        (2, True, {}, True),
        (3, True, {"gamma": None}, False),
    ]:
        innermost = "channel" if channels_last else "position"
        features = compiled(
            kernels._features_kernel,
            capability,
            {"x": f"*{dtype}", "maps": "*fp32", "gamma": "*fp32", "out": f"*{dtype}"},
            **{f"x_{innermost}": 1, f"out_{innermost}": 1, **gamma},
            POOL=pool,
            CONCAT=relu,
            RELU=relu,
            BLOCK_POSITIONS=64,
            BLOCK_CHANNELS=32,
            BLOCK_MAPS=16,
        )
        assert features["cubin"]


def test_they_compile_where_sizes_are_one(compiled):
    """Triton makes a constant of an argument that is 1."""
    from softattn import triton_kernels as kernels

    sizes = ("channels", "num_maps", "height", "width", "rows", "columns")
    strides = ("x_channel", "x_position", "out_channel", "out_position")
    blocks = {"BLOCK_POSITIONS": 1, "BLOCK_CHANNELS": 1, "BLOCK_MAPS": 1}
    asm = compiled(
        kernels._features_kernel,
        80,
        {"x": "*fp32", "maps": "*fp32", "gamma": "*fp32", "out": "*fp32"},
        **dict.fromkeys((*sizes, *strides), 1),
        **blocks,
        POOL=2,
        CONCAT=True,
        RELU=True,
    )
    assert asm["cubin"]
    names = ("num_maps", "positions", "stride_sample", "stride_map", "stride_position", "BLOCK")
    pointers = {"logits": "*fp32", "maps": "*fp32"}
    assert compiled(kernels._maps_kernel, 80, pointers, **dict.fromkeys(names, 1))["cubin"]
