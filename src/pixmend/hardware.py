"""What the processor computes fast."""

from functools import cache

import torch


def has_matrix_unit() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices in a unit of its own (AMX)."""
    return _has("amx_bf16")


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Return whether training steps on a device are faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (has_matrix_unit() or _has("avx512_bf16"))


@cache
def _has(instructions: str) -> bool:
    # Older versions of torch do not tell.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get(instructions))
