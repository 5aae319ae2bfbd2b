"""Muon's orthogonalisation: the same polynomial of the singular values in every precision and shape."""

import pytest
import torch

from trainer import device, optimizer


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (3, 6, 20), (1, 9)])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_singular_values_go_through_the_polynomial(
    shape: tuple[int, ...], steps: int, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "prefers_bfloat16", lambda _: bfloat16)
    g_OI = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(g_OI.double(), full_matrices=False)
    values = values / values.square().sum(dim=-1, keepdim=True).sqrt()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    wanted_OI = left @ torch.diag_embed(values) @ right
    ours_OI = optimizer.orthogonalize(g_OI, steps=steps)
    assert ours_OI.dtype == torch.float32
    torch.testing.assert_close(ours_OI.double(), wanted_OI, rtol=0, atol=0.08 if bfloat16 else 1e-4)


def test_a_cpu_computes_in_bfloat16_only_where_it_has_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for found, wanted in (
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert device.prefers_bfloat16(cpu) is wanted
        with device.quick_autocast(cpu):
            assert torch.is_autocast_enabled("cpu") is wanted
