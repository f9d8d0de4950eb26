"""Damaged files of every format: an image or one sentence, and never more memory than there is."""

import gzip
import random
import re
import struct
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

# Reads what stdin lists, a line an answer, with 3 GB of address space.
WORKER = """
import resource, sys
from pathlib import Path
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.volumes import read_labels, read_volume

resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
readers = {"volume": read_volume, "labels": read_labels, "transform": read_initial_transform}
for line in sys.stdin:
    reader, path = line.rstrip("\\n").split(" ", 1)
    try:
        readers[reader](Path(path))
        print("read", flush=True)
    except InputError as error:
        print(error, flush=True)
"""
NUMBERS = [0, 1, -1, 2, 7, 8, 348, 32767, -32768, 2**31 - 1, -(2**31), 2**62]
FLOATS = [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-30, 1e30, 3e38]
NUMBER = re.compile(rb"-?\d+(\.\d*)?")


@pytest.fixture
def originals(tmp_path):
    """Small files of every format, by their names: what reads them, and their bytes."""
    folder = tmp_path / "originals"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 9, (6, 5, 4)).astype(np.int16)
    affine = np.array([[-2.0, 0, 0, 5], [0, 0, 3, 6], [0, 1.5, 0, 7], [0, 0, 0, 1]])
    for kind, names in {
        nib.Nifti1Image: ("one.nii", "one.nii.gz"),
        nib.Nifti2Image: ("two.nii", "two.nii.gz"),
        nib.Nifti1Pair: ("pair.hdr",),
    }.items():
        for name in names:
            image = kind(values, affine)
            image.set_qform(affine, code=1)
            nib.save(image, folder / name)
    image = sitk.GetImageFromArray(values.T)
    image.SetOrigin((-5, -6, 7))
    for name in ("raw.mha", "raw.mhd", "raw.nrrd", "raw.nhdr", "packed.mha", "packed.nrrd"):
        sitk.WriteImage(image, folder / name, useCompression=name.startswith("packed"))
    field = np.zeros((*values.shape[::-1], 3))
    field_image = sitk.GetImageFromArray(field, isVector=True)
    sitk.WriteImage(field_image, folder / "field.nii.gz")
    sitk.WriteImage(field_image, folder / "field.nii")
    transform = sitk.CompositeTransform([sitk.Euler3DTransform(), sitk.AffineTransform(3)])
    for name in ("chain.tfm", "chain.txt", "chain.h5"):
        sitk.WriteTransform(transform, folder / name)
    sitk.WriteTransform(sitk.AffineTransform(3), folder / "affine.mat")
    warp = sitk.DisplacementFieldTransform(field_image)
    sitk.WriteTransform(warp, folder / "warp.h5")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def is_transform(name):
    return name.startswith(("chain", "affine", "warp", "field"))


def spoiled(name, whole, chance):
    """Return the bytes of a file, damaged in one way or several."""
    packed = name.endswith(".gz") and chance.random() < 0.8
    data = bytearray(gzip.decompress(whole) if packed else whole)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        match chance.randrange(7):
            case 0:
                del data[chance.randrange(len(data) + 1) :]
            case 1:
                for _ in range(chance.choice((1, 4, 40))):
                    if data:
                        data[chance.randrange(len(data))] = chance.randrange(256)
            case 2 | 3:  # a field of a binary header
                kind = chance.choice("hiqd" if name.startswith("two") else "hif")
                value = chance.choice(FLOATS if kind in "fd" else NUMBERS)
                if kind in "hiq":
                    bits = 8 * struct.calcsize(kind)
                    value = (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
                at = 2 * chance.randrange(min(len(data), 544) // 2 + 1)
                data[at : at + struct.calcsize(kind)] = struct.pack("<" + kind, value)
            case 4 | 5:  # a number of a header in text
                found = list(NUMBER.finditer(bytes(data[:2000])))
                if found:
                    spot = chance.choice(found)
                    data[spot.start() : spot.end()] = str(chance.choice(NUMBERS + FLOATS)).encode()
            case 6:  # a line gone, twice, or all of it
                lines = bytes(data).split(b"\n")
                n = chance.randrange(len(lines))
                lines[n : n + 1] = chance.choice(([], [lines[n]] * 2, [bytes(200)]))
                data = bytearray(b"\n".join(lines))
    return gzip.compress(bytes(data), 1) if packed else bytes(data)


def answers(requests, timeout):
    """Ask one process about all files, in their order."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WORKER],
        input="".join(f"{reader} {path}\n" for reader, path in requests),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    found = done.stdout.splitlines()
    where = requests[len(found)] if len(found) < len(requests) else None
    assert (done.returncode, where, done.stderr) == (0, None, "")
    return found


def fuzz(folder, originals, seed, count, timeout):
    chance = random.Random(seed)
    requests = []
    for n in range(count):
        # Transforms are read by a process each: fewer of them.
        wanted = chance.random() < 0.1
        names = [name for name in sorted(originals) if is_transform(name) == wanted]
        name = chance.choice(names)
        case = folder / f"{n}"
        case.mkdir(parents=True)
        for other, whole in originals.items():  # a pair needs its other half
            if other.split(".")[0] == name.split(".")[0]:
                (case / other).write_bytes(whole)
        (case / name).write_bytes(spoiled(name, originals[name], chance))
        reader = "transform" if wanted else chance.choice(("volume", "labels"))
        requests.append((reader, case / name))
    before = sorted(folder.rglob("*"))
    found = answers(requests, timeout)
    assert sorted(folder.rglob("*")) == before
    for (_, path), answer in zip(requests, found, strict=True):
        assert answer == "read" or answer.startswith((str(path), str(path.parent)))
        assert len(answer) < 600
    return found


def test_a_hundred_damaged_files(originals, tmp_path):
    found = fuzz(tmp_path / "damaged", originals, 0, 100, 60)
    assert 0 < found.count("read") < 60


@pytest.mark.slow
def test_a_thousand_damaged_files(originals, tmp_path):
    found = fuzz(tmp_path / "damaged", originals, 1, 1000, 250)
    assert 0 < found.count("read") < 600
