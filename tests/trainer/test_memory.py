"""A run does not start what the memory cannot hold, and says what would fit."""

from typing import Any

import numpy as np
import pytest
import torch

from trainer import memory
from trainer import method as methods
from trainer import pretrain as stage
from trainer.choose import largest_side
from trainer.config import BudgetConfig, PretrainConfig
from trainer.monitor import chunk_of, raw_pixels
from trainer.setup import resolve
from vicinal import plugins
from vicinal.errors import InvalidConfigError
from vicinal.modalities.image.backbones import create
from vicinal.store import Store

CPU = torch.device("cpu")
SETTLED: dict[str, Any] = {"precision": "float32", "channels_last": True, "threads": 1, "workers": 1}


def resolved(drawings, **changes):
    settings = PretrainConfig(budget=BudgetConfig(steps=2), encoder="resnet10-w8", **(SETTLED | changes))
    return resolve(settings, str(drawings), device=CPU)[0]


def needs(config, **changes):
    backbone = create(config.encoder, channels=config.channels, image_size=config.image_size)
    return memory.needs_of(config, backbone, image_count=100, **({"bfloat16": False} | changes))


def test_the_need_of_an_image_is_what_a_step_keeps(drawings):
    small, large = (needs(resolved(drawings, image_size=side)) for side in (32, 64))
    assert 3.3 < large.image / small.image < 4.3
    assert large.fixed == small.fixed
    half = needs(resolved(drawings, image_size=64), bfloat16=True)
    assert 0.35 < half.image / large.image < 0.85
    pair = needs(resolved(drawings, image_size=64, views={"count": 2}))
    assert 0.4 < pair.image / large.image < 0.6, "four views by default"
    assert needs(resolved(drawings, image_size=64, method="mixed_barlow_twins")).image > 1.2 * pair.image
    # Four views of the first stage alone: 8 channels of 32 x 32 in float32, some times over.
    assert large.image > 4 * 4 * 8 * 32 * 32 * 4


@pytest.mark.parametrize("name", [name for name in plugins.names(methods.FAMILY) if name != "distillation"])
def test_every_method_can_be_weighed(drawings, name):
    config = resolved(drawings, method=name)
    backbone = create(config.encoder, channels=config.channels, image_size=config.image_size)
    before = torch.random.get_rng_state()
    found = memory.needs_of(config, backbone, image_count=100, bfloat16=False)
    assert 10_000 < found.image < 10_000_000
    assert found.fixed > 10_000
    assert torch.equal(torch.random.get_rng_state(), before)


def fit(there, *, batch_size=None, processes=1, image_count=1000):
    config = PretrainConfig(budget=BudgetConfig(steps=2), encoder="resnet10-w8", image_size=64, batch_size=batch_size)
    found = memory.Needs(fixed=1000, image=100)
    return memory.batch_that_fits(config, found, there, processes=processes, image_count=image_count)


def test_a_batch_is_chosen_that_fits():
    assert fit(None) == (256, "")
    assert fit(100_000) == (256, "")
    batch, said = fit(20_000)
    assert batch == 128
    assert "a batch of 128 instead of 256" in said
    assert fit(20_000, processes=2)[0] == 256
    assert fit(20_000, image_count=60) == (256, ""), "a step has no more than 60"
    with pytest.raises(InvalidConfigError, match=r"not even two images.*--image-size"):
        fit(1100)


def test_a_batch_that_was_asked_for_and_does_not_fit_is_an_error_with_one_that_does():
    assert fit(30_000, batch_size=256)[0] == 256
    with pytest.raises(InvalidConfigError, match=r"a batch of 256 does not fit.*--set batch_size=128"):
        fit(20_000, batch_size=256)
    with pytest.raises(InvalidConfigError, match=r"--set batch_size=256"):
        fit(20_000, batch_size=1024, processes=2)


def test_a_run_takes_the_batch_that_fits(drawings, tmp_path, monkeypatch):
    said: list[str] = []
    listener = stage.Listener(said=said.append, reading=lambda *_: None, report=lambda _: None)
    store = Store.create(tmp_path / "w")
    config = PretrainConfig(budget=BudgetConfig(steps=2), encoder="resnet10-w8", **SETTLED)
    one = needs(resolved(drawings))
    monkeypatch.setattr(memory, "available", lambda *_, **__: one.of(50) * 10 // 7)
    result = stage.pretrain(store, str(drawings), config, listener=listener)
    assert result.state["views_seen"] == 2 * 4 * 32
    assert "a batch of 32 instead of 128" in said[0]
    monkeypatch.setattr(memory, "available", lambda *_, **__: one.of(1))
    with pytest.raises(InvalidConfigError, match="not even two"):
        stage.pretrain(store, str(drawings), config)


def test_memory_is_what_the_machine_and_the_container_leave(tmp_path):
    there = memory.available(CPU)
    assert there is None or 1 << 20 < there < 1 << 50
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   40 kB\n")
    assert memory._of_machine(tmp_path / "meminfo") == 40 << 10
    assert memory._of_machine(tmp_path / "none") is None
    group = tmp_path / "cgroup" / "a" / "b"
    group.mkdir(parents=True)
    (tmp_path / "member").write_text("0::/a/b\n")
    assert memory._of_groups(tmp_path / "cgroup", tmp_path / "member") is None
    for place, limit in ((group, "max"), (group.parent, "1000")):
        (place / "memory.max").write_text(limit + "\n")
        (place / "memory.current").write_text("700\n")
        (place / "memory.stat").write_text("anon 600\ninactive_file 50\n")
    assert memory._of_groups(tmp_path / "cgroup", tmp_path / "member") == 350


def test_photographs_are_made_small_on_a_cpu_and_it_is_said(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.effect_noise((160, 120), 40 + number).save(tmp_path / "photos" / f"{number}.png")
    config = PretrainConfig(budget=BudgetConfig(minutes=10.0))
    chosen, why = resolve(config, str(tmp_path / "photos"), device=CPU)
    assert chosen.image_size == 64
    assert "images of some 120 pixels at 64, as a CPU" in why
    assert largest_side(CPU, BudgetConfig(minutes=60.0))[0] == 96
    assert largest_side(torch.device("cuda"), BudgetConfig(minutes=60.0))[0] == 224


def test_large_images_pass_in_small_chunks_and_their_pixels_are_few():
    assert (chunk_of(28), chunk_of(32), chunk_of(96), chunk_of(224)) == (512, 512, 113, 32)
    assert raw_pixels(np.zeros((3, 1, 28, 28), dtype=np.uint8)).shape == (3, 784)
    large = np.full((40, 3, 200, 200), 255, dtype=np.uint8)
    assert raw_pixels(large).shape == (40, 3 * 32 * 32)
    np.testing.assert_allclose(raw_pixels(large), 1.0, atol=1e-5)
