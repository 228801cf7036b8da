"""Window geometry: mmsegmentation's, and what is cut can be put together again."""

import pytest
import torch

from ovbench.inference.sliding_window import WindowMean, cut, pad_to_multiple, window_grid
from ovbench.methods.ops import Box, Pad, uncut
from ovbench.utils.images import resized_size


def mmseg_grid(h, w, crop, stride):
    """The loop of mmseg's EncoderDecoder.slide_inference, written out."""
    boxes = []
    for row in range(max(h - crop + stride - 1, 0) // stride + 1):
        for column in range(max(w - crop + stride - 1, 0) // stride + 1):
            y1, x1 = row * stride, column * stride
            y2, x2 = min(y1 + crop, h), min(x1 + crop, w)
            boxes.append((max(y2 - crop, 0), max(x2 - crop, 0), y2, x2))
    return boxes


@pytest.mark.parametrize("size", [(336, 448), (336, 440), (100, 500), (336, 336), (90, 90), (448, 597)])
@pytest.mark.parametrize(("crop", "stride"), [(336, 112), (224, 112), (448, 224), (64, 64), (100, 37)])
def test_grid_is_mmsegs(size, crop, stride):
    assert window_grid(size, crop, stride) == [Box(*b) for b in mmseg_grid(*size, crop, stride)]


def test_crop_zero_is_the_whole_image():
    assert window_grid((30, 50), 0, 112) == [Box(0, 0, 30, 50)]


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [((375, 500), 336, (336, 448)), ((375, 500), 448, (448, 597)), ((500, 333), 336, (505, 336)),
     ((1024, 2048), 560, (560, 1120)), ((300, 2500), 336, (246, 2048)), ((512, 683), 448, (448, 598))],
)  # fmt: skip
def test_resize_rule_of_the_published_protocols(size, short, expected):
    assert resized_size(size, short, 2048) == expected


def test_resize_is_mmcvs():
    import mmcv

    for h, w in [(375, 500), (333, 1001), (64, 2100), (511, 512)]:
        width, height = mmcv.rescale_size((w, h), (2048, 336))
        assert resized_size((h, w), 336, 2048) == (height, width)


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [((150, 224), 56, Pad(0, 0, 9, 9)), ((150, 223), 56, Pad(0, 1, 9, 9)), ((168, 224), 56, Pad(0, 0, 0, 0)),
     ((5, 7), 0, Pad(0, 0, 0, 0))],
)  # fmt: skip
def test_padding_gives_the_smaller_half_to_the_left_and_top(size, multiple, expected):
    assert pad_to_multiple(size, multiple) == expected


def test_windows_cut_padded_and_merged_give_the_image_back():
    torch.manual_seed(0)
    image = torch.randn(2, 45, 70)
    boxes, pad = window_grid((45, 70), 32, 20), pad_to_multiple((32, 32), 12)
    windows = cut(image, boxes, pad, value=7.0)
    assert windows.shape == (len(boxes), 2, 36, 36)
    assert (windows[:, :, 0] == 7).all()
    mean = WindowMean((45, 70))
    for start in range(0, len(boxes), 2):
        chunk = boxes[start : start + 2]
        mean.add(uncut(windows[start : start + 2], (32, 32), pad), chunk)
    torch.testing.assert_close(mean.result(), image, rtol=0, atol=1e-6)
