"""What a model costs, against what tflite-micro reports of itself and against TensorFlow's and hand-made figures."""
from __future__ import annotations

import re

import numpy as np
import pytest
from tiny_models import convert_function, small_network

from conversion.cost import Buffer, cost, place
from conversion.graph import read_graph


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_network(tmp_path_factory.mktemp("small") / "small.tflite")


def reported_head(path, capfd) -> int:
    """The bytes for tensors and scratch buffers that tflite-micro says it uses."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(str(path))
    for i, tensor in enumerate(read_graph(path).inputs):
        interpreter.set_input(np.zeros(tensor.shape, np.int8), i)
    interpreter.invoke()
    capfd.readouterr()
    interpreter.print_allocations()
    return int(re.search(r"Arena allocation head (\d+) bytes", capfd.readouterr().err)[1])


def test_the_plan_is_that_of_tflite_micro(small, capfd):
    weighed = cost(read_graph(small), cmsis_nn=False)
    assert weighed.head_bytes == reported_head(small, capfd)
    assert weighed.floor_bytes <= weighed.head_bytes


@pytest.mark.parametrize("widths", [(40, 8, 24, 8, 48, 16), (7, 31, 64, 3, 5, 90, 2), (33, 33, 33, 33)])
def test_the_plan_is_that_of_tflite_micro_where_tensors_leave_gaps(widths, tmp_path, capfd):
    import tensorflow as tf

    random = np.random.default_rng(3)

    def forward(x: tf.Tensor) -> tf.Tensor:
        kept = []
        for width in widths:
            weights = random.normal(0, 0.3, (1, 1, x.shape[3], width)).astype(np.float32)
            x = tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME"))
            kept.append(x)
        return tf.concat([tf.reduce_max(x, 3, keepdims=True) for x in kept], 3)

    path = convert_function(tmp_path / "m.tflite", forward, (1, 5, 7, 3))
    assert cost(read_graph(path), cmsis_nn=False).head_bytes == reported_head(path, capfd)


def test_placing_buffers_by_hand():
    placed = place([Buffer("a", 0, 1, 64), Buffer("b", 1, 2, 128), Buffer("c", 2, 3, 64), Buffer("d", 3, 3, 32)])
    assert [buffer.offset for buffer in placed] == [128, 0, 128, 0]
    assert place([]) == ()


def test_no_two_living_buffers_overlap():
    random = np.random.default_rng(0)
    for _ in range(50):
        first, life, sizes = random.integers(0, 30, 40), random.integers(0, 8, 40), random.integers(1, 100, 40)
        placed = place([Buffer(str(i), int(f), int(f + n), int(16 * s)) for i, (f, n, s) in
                        enumerate(zip(first, life, sizes))])
        for i, a in enumerate(placed):
            for b in placed[:i]:
                if a.lives_with(b):
                    assert a.offset >= b.offset + b.nbytes or b.offset >= a.offset + a.nbytes


def test_multiply_accumulates_by_hand(small):
    weighed = cost(read_graph(small))
    by_operator = {item.operator.index: item.macs for item in weighed.operators if item.macs}
    pixels = 16 * 24
    assert list(by_operator.values()) == [
        pixels * 3 * 3 * 3 * 8, 8 * 8, pixels * 8, pixels * 3 * 3 * 2,
        pixels // 4 * 2 * 2 * 8 * 12, pixels // 4 * 12 * 8, pixels * 3 * 3 * 8 * 8, pixels * 3 * 3 * 8 * 12]
    assert weighed.macs == sum(by_operator.values())
    assert weighed.flash_bytes == small.stat().st_size > weighed.weight_bytes


@pytest.mark.parametrize("name, macs", [("DEPTHWISE_CONV_2D", 8 * 8 * 9 * 4), ("TRANSPOSE_CONV", 8 * 8 * 9 * 4 * 5)])
def test_multiply_accumulates_of_other_convolutions(tmp_path, name, macs):
    import tensorflow as tf

    def forward(x: tf.Tensor) -> tf.Tensor:
        if name == "DEPTHWISE_CONV_2D":
            return tf.nn.depthwise_conv2d(x, np.ones((3, 3, 4, 1), np.float32), [1, 1, 1, 1], "SAME")
        return tf.nn.conv2d_transpose(x, np.ones((3, 3, 5, 4), np.float32), (1, 16, 16, 5), 2, "SAME")

    graph = read_graph(convert_function(tmp_path / "m.tflite", forward, (1, 8, 8, 4)))
    assert graph.counts()[name] == 1
    assert cost(graph).macs == macs
