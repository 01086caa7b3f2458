"""What the processor computes fast."""

from functools import cache

import torch


@cache
def _capabilities() -> dict[str, bool]:
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def has_matrix_unit() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices in a unit of its own (AMX)."""
    return bool(_capabilities().get("amx_bf16"))


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Return whether training steps on a device are faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (has_matrix_unit() or bool(_capabilities().get("avx512_bf16")))
