"""The bridge converts a network that is not a MIRNet, and refuses others with a sentence that names the cause."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from conversion.bridge import convert
from conversion.bridge.c_array import read_c_array
from conversion.bridge.chain import compare_stages, stages
from mirnet_torch.cli import UserError

SHAPE = (16, 24, 3)  # rows, columns, channels


class Denoiser(nn.Module):
    """A convolutional network of twenty lines: down, up, a skip, a gate; it uses nothing of this project."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 2, stride=2), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
        self.gate = nn.Sequential(nn.AvgPool2d((16, 24)), nn.Conv2d(8, 8, 1), nn.ReLU6())
        self.tail = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        fine = self.head(x)
        coarse = self.up(self.down(fine))
        return x + self.tail(torch.cat([fine * self.gate(fine), coarse], 1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Denoiser().eval()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((8, *SHAPE)).astype(np.float32)


def test_from_module_to_c_arrays_and_tflite_micro(network, pictures, tmp_path):
    artefacts = convert(network, SHAPE, pictures[:6], tmp_path, target="arduino-tflm", name="denoiser")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "denoiser.onnx", "denoiser_float16.tflite", "denoiser_float32.tflite", "denoiser_int8.tflite",
        "golden_vectors.cpp", "golden_vectors.h", "model_data.cpp", "model_data.h"]
    rows = compare_stages(stages(network, SHAPE, artefacts), pictures[6:])
    assert [row.stage for row in rows] == ["PyTorch", "ONNX", "TFLite float32", "TFLite float16", "TFLite int8",
                                           "int8, reference kernels", "int8, tflite-micro", "C array, tflite-micro"]
    assert [row.passed for row in rows] == [None, True, True, True, True, None, True, True]
    assert rows[0].output.shape == (2, *SHAPE) and rows[0].output.std() > 0.1
    assert read_c_array(artefacts.c_files[1]) == artefacts.int8.read_bytes()
    assert artefacts.graph.counts() == {"ADD": 1, "AVERAGE_POOL_2D": 1, "CONCATENATION": 1, "CONV_2D": 5, "MUL": 1,
                                        "RESIZE_BILINEAR": 1}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        return self.linear(self.conv(x).mean((2, 3)))


class TwoOutputs(Denoiser):
    def forward(self, x):
        return self.head(x), x


class TwoInputs(Denoiser):
    def forward(self, x, y):
        return x + y


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head, self.tail = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.head(x)
        tokens = x.flatten(2).transpose(1, 2)
        return self.tail(self.attention(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("module, shape, words", [
    (Classifier(), SHAPE, r"must return one tensor \(1, channels, rows, columns\), not one of shape \(1, 10\)"),
    (TwoOutputs(), SHAPE, "not a tuple"),
    (TwoInputs(), SHAPE, "must take one tensor"),
    (Denoiser(), (16, 24, 5), r"does not take a tensor \(1, 5, 16, 24\)"),
], ids=["rank 2", "two outputs", "two inputs", "channels"])
def test_what_the_bridge_does_not_take_is_named(module, shape, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        convert(module.eval(), shape, np.zeros((2, *shape), np.float32), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class WholeMean(Denoiser):
    def forward(self, x):
        return self.tail(torch.cat([self.head(x)] * 2, 1)) * x.mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("module, words", [
    (Transformer(), "_native_multi_head_attention.* Write that module with convolutions"),
    (WholeMean(), r"^the operator MEAN \(.*\) cannot be traced back to the network.* CONV_2D, "),
], ids=["tokens", "mean"])
def test_operators_beyond_convolutions_are_named(module, words, pictures, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        convert(module.eval(), SHAPE, pictures, tmp_path, target="arduino-tflm")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


@pytest.mark.parametrize("values, words", [(2.0, r"in \[0, 1\]"), (np.nan, "not in .nan")])
def test_values_outside_the_range_are_named(network, tmp_path, values, words):
    with pytest.raises(UserError, match=words):
        convert(network, SHAPE, np.full((2, *SHAPE), values, np.float32), tmp_path)


def test_a_folder_is_created_and_a_tensor_or_a_list_calibrates(pictures, tmp_path):
    small = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    codes = [convert(small, SHAPE, given, tmp_path / name / "net").int8.read_bytes()
             for name, given in (("array", pictures), ("tensor", torch.from_numpy(pictures)), ("list", list(pictures)))]
    assert codes[0] == codes[1] == codes[2]


NOT_FINITE = nn.Conv2d(3, 4, 1)
NOT_FINITE.weight.data[0] = torch.nan


@pytest.mark.parametrize("module, shape, calibration, words", [
    (torch.relu, SHAPE, np.zeros((2, *SHAPE)), "must be a torch.nn.Module, not a "),
    (nn.ReLU(), (1, *SHAPE), np.zeros((2, *SHAPE)), r"must be \(rows, columns, channels\)"),
    (nn.ReLU(), SHAPE, np.zeros((2, 3, 16, 24)),
     r"must have the shape \(N, 16, 24, 3\), .*: images, rows, columns, channels"),
    (nn.ReLU(), SHAPE, [np.zeros((16, 24, 3)), np.zeros((8, 24, 3))], "calibration data are not an array"),
    (nn.ReLU(), SHAPE, "photographs", "must have the shape"),
    (NOT_FINITE, SHAPE, np.zeros((2, *SHAPE)), "the weights weight hold values that are not finite"),
], ids=["function", "shape", "channels first", "sizes", "text", "nan"])
def test_wrong_arguments_are_named_before_anything_is_made(module, shape, calibration, words, tmp_path):
    with pytest.raises(UserError, match=words):
        convert(module, shape, calibration, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_an_operator_that_tflite_has_not_is_named(pictures, tmp_path):
    with pytest.raises(UserError, match="TFLite has no operator for Erf: write that module with convolutions"):
        convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), SHAPE, pictures, tmp_path)
