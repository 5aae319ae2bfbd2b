"""The image cache of a folder of very many links: seconds to begin, images a second, memory.

python -m benchmarks.bench_cache                   a million links
python -m benchmarks.bench_cache --links 100000
python -m benchmarks.bench_cache --quick           seconds; proves the script
"""

import resource
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from PIL import Image

from benchmarks.frame import Frame
from trainer.cache import open_or_build, sample_shape
from vicinal.modalities.image import Preprocessing

_ORIGINALS, _FOLDER = 100, 10_000


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--links", type=int, default=1_000_000, help="links, 10,000 a folder")


def write(place: Path, *, count: int) -> Path:
    """Writes a hundred pictures and a tree of links to them."""
    for number in range(_ORIGINALS):
        Image.effect_noise((32, 32), 40 + number).save(place / f"{number}.png")
    for number in range(count):
        folder = place / "links" / f"{number // _FOLDER:04d}"
        if number % _FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:07d}.png").symlink_to(place / f"{number % _ORIGINALS}.png")
    return place / "links"


def main() -> None:
    """Runs the benchmark."""
    frame = Frame.start("cache", __doc__, add=_arguments)
    count = 20_000 if frame.quick else frame.arguments.links
    with tempfile.TemporaryDirectory() as name:
        links = write(Path(name), count=count)
        started = time.perf_counter()
        channels, _ = sample_shape(str(links))
        frame.add("look at a sample of the images", time.perf_counter() - started, unit="s")
        size = Preprocessing(channels=channels, height=32, width=32)
        began: list[float] = []
        started = time.perf_counter()
        open_or_build(Path(name) / "c", str(links), size, progress=lambda *_: began.append(time.perf_counter()))
        took = time.perf_counter() - started
        frame.add("first images decoded after", began[0] - started, unit="s", goal="minutes at a million")
        frame.add("decoded", count / took, unit="1/s")
        started = time.perf_counter()
        open_or_build(Path(name) / "c", str(links), size, progress=lambda *_: None)
        frame.add("opened again", time.perf_counter() - started, unit="s")
    frame.add(
        "peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, unit="MiB", note=f"{count} links"
    )
    frame.finish()


if __name__ == "__main__":
    main()
