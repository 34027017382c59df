"""Measure how much must be uploaded to a registry after one line of the generator was changed."""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from command import Failure
from containers import DOCKER, DockerSession, docker
from report import number

ROOT = Path(__file__).parent.parent
CHANGED_FILE = Path("generator/loop.py")
CHANGE = "# changed\n"


@dataclass(frozen=True)
class Upload:
    """The layers of an image that the registry does not have yet."""

    new_layers: int
    all_layers: int
    size: int  # bytes of the new layers
    compressed: int  # bytes of the new layers, compressed

    def __str__(self) -> str:
        size, compressed = (f"{number(each / 1024)} KiB" for each in (self.size, self.compressed))
        return f"{size} ({compressed} compressed): {self.new_layers} of {self.all_layers} layers"


def changed_tree(folder: Path) -> Path:
    """Copy the project into the folder, add a comment to one file of the generator, and return the copy."""
    copy = folder / "tree"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("generator", "echo", "pid1"):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy2(path, copy)
    with (copy / CHANGED_FILE).open("a") as file:
        file.write(CHANGE)
    return copy


def changed_file_size() -> int:
    """Return the size of the changed file in bytes."""
    return (ROOT / CHANGED_FILE).stat().st_size + len(CHANGE)


def layer_digests(image: str) -> list[str]:
    """Return the digests of the image's layers. Raises Failure."""
    digests: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return digests


def layer_sizes(image: str, digests: set[str]) -> tuple[int, int]:
    """Return how many bytes these layers have in all, uncompressed and compressed. Raises Failure."""
    size = compressed = 0
    with tempfile.TemporaryFile() as saved:
        subprocess.run([DOCKER, "save", image], stdout=saved, check=True, timeout=120)
        saved.seek(0)
        with tarfile.open(fileobj=saved) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file and f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" in digests:  # type: ignore[arg-type]
                    file.seek(0)
                    size += member.size
                    compressed += compressed_size(file)
    if not size:
        raise Failure(f"docker save: cannot find the new layers of {image} in its output")
    return size, compressed


def compressed_size(file: IO[bytes]) -> int:
    """Return how many bytes the rest of the file has after compression."""
    compressor, size = zlib.compressobj(), 0
    while block := file.read(2**20):
        size += len(compressor.compress(block))
    return size + len(compressor.flush())


def measure_upload(session: DockerSession, context: str, tree: Path, base: str) -> Upload:
    """Build the image of the folder `context` from the project and from its changed copy `tree`, and compare.

    Raises Failure.
    """
    name = context.strip("./") or "single"
    before = layer_digests(session.build(ROOT / context, base, f"{name}-before"))
    image = session.build(tree / context, base, f"{name}-after")
    after = layer_digests(image)
    new = set(after) - set(before)
    return Upload(len(new), len(after), *layer_sizes(image, new))
