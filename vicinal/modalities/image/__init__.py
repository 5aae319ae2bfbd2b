"""Images: decoding, evaluation preprocessing and backbones; the modality that Vicinal begins with."""

from vicinal.modalities.image.decode import MAX_CONTENT_BYTES, MAX_PIXELS, decode
from vicinal.modalities.image.preprocess import Preprocessing

__all__ = ["MAX_CONTENT_BYTES", "MAX_PIXELS", "Preprocessing", "decode"]
