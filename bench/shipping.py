"""What a change of one line of the generator makes anew: of an image, the layers; as a registry gets them."""

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

from containers import DOCKER, Failure, Workshop, docker
from report import number

ROOT = Path(__file__).parent.parent
CHANGED = Path("generator/loop.py")


@dataclass(frozen=True)
class Shipment:
    """Layers that are new, of how many, and their bytes."""

    new: int
    layers: int
    size: int
    compressed: int

    def __str__(self) -> str:
        size, compressed = (f"{number(each / 1024)} KiB" for each in (self.size, self.compressed))
        return f"{size} ({compressed} compressed): {self.new} of {self.layers} layers"


def changed_tree(folder: Path) -> Path:
    """A copy of the tree with one comment more."""
    copy = folder / "tree"
    copy.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("generator", "echo", "pid1"):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy2(path, copy)
    with (copy / CHANGED).open("a") as file:
        file.write("# changed\n")
    return copy


def changed_file() -> int:
    """Its bytes."""
    return (ROOT / CHANGED).stat().st_size + len("# changed\n")


def layers(image: str) -> list[str]:
    found: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return found


def sizes(image: str, wanted: set[str]) -> tuple[int, int]:
    """Bytes of these layers, as they are and compressed. Raises Failure."""
    size = compressed = 0
    with tempfile.TemporaryFile() as saved:
        subprocess.run([DOCKER, "save", image], stdout=saved, check=True, timeout=120)
        saved.seek(0)
        with tarfile.open(fileobj=saved) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file and f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" in wanted:  # type: ignore[arg-type]
                    file.seek(0)
                    size += member.size
                    compressed += deflated(file)
    if not size:
        raise Failure(f"docker save: the new layers of {image} are not in it")
    return size, compressed


def deflated(file: IO[bytes]) -> int:
    squeeze, length = zlib.compressobj(), 0
    while block := file.read(2**20):
        length += len(squeeze.compress(block))
    return length + len(squeeze.flush())


def shipment(workshop: Workshop, context: str, tree: Path, base: str) -> Shipment:
    """For the image of a folder in the tree, of which `tree` is the changed copy. Raises Failure."""
    name = context.strip("./") or "single"
    before = layers(workshop.build(ROOT / context, base, f"{name}-before"))
    image = workshop.build(tree / context, base, f"{name}-after")
    after = layers(image)
    new = set(after) - set(before)
    return Shipment(len(new), len(after), *sizes(image, new))
