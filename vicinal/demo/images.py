"""Where the demo's images are: a path the user names, Debian's package, or torchvision's download."""

from dataclasses import dataclass
from pathlib import Path

from vicinal.errors import InvalidCorpusError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
"""The classes of Fashion-MNIST, in the order of its labels."""
_MARK = "train-images-idx3-ubyte"
_HELP = (
    "the demo needs Fashion-MNIST (60,000 + 10,000 images of 28 x 28): install Debian's package "
    "dataset-fashion-mnist, or put its four IDX files in a folder and run: make demo IMAGES=FOLDER"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images that were found."""

    folder: Path
    found: str
    """Where they came from, for the report."""


def find(named: Path | None, *, cache: Path) -> Images:
    """Finds Fashion-MNIST.

    Args:
        named: folder that the user named, if any; then no other place is looked at.
        cache: folder that a download may be written to.

    Raises:
        InvalidCorpusError: none of the places has it; the message says what to do.
    """
    if named is not None:
        if not _has_images(named):
            raise InvalidCorpusError(f"{named} does not hold {_MARK}[.gz]; {_HELP}")
        return Images(folder=named, found="the folder you named")
    if _has_images(DEBIAN):
        return Images(folder=DEBIAN, found="Debian's package dataset-fashion-mnist")
    downloaded = cache / "FashionMNIST" / "raw"
    if not _has_images(downloaded):
        _download(cache)
    return Images(folder=downloaded, found="torchvision's download")


def _has_images(folder: Path) -> bool:
    return any((folder / (_MARK + suffix)).is_file() for suffix in ("", ".gz"))


def _download(cache: Path) -> None:
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415  (torchvision is wanted here alone)

    try:
        FashionMNIST(str(cache), download=True)
    except Exception as error:
        # Whatever the download ran into, the user's way out is the same.
        why = " ".join(str(error).split())[:300]
        raise InvalidCorpusError(f"Fashion-MNIST could not be downloaded ({why}); {_HELP}") from error
