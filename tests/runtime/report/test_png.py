import numpy as np
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.report.png import encode


def read(tmp_path, png):
    path = tmp_path / "picture.png"
    path.write_bytes(png)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_grey_is_read_back_by_another_reader(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11), np.uint8)
    np.testing.assert_array_equal(read(tmp_path, encode(pixels)), pixels)


def test_so_are_colours(tmp_path):
    palette = np.array([(0, 0, 0), (255, 128, 0), (7, 8, 9)], np.uint8)
    pixels = np.random.default_rng(0).integers(0, 3, (5, 4), np.uint8)
    np.testing.assert_array_equal(read(tmp_path, encode(pixels, palette)), palette[pixels])
