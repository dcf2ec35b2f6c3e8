"""Small `.tflite` files made by TensorFlow for the tests of the bridge."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np


def convert_function(path: Path, function: Callable[..., Any], *shapes: tuple[int, ...], int8: bool = True,
                     flex: bool = False) -> Path:
    """Convert a function of float32 tensors of the given shapes: fully int8 (calibrated on noise) or in float."""
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    concrete = tf.function(function).get_concrete_function(*signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    if int8:
        random = np.random.default_rng(0)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes] for _ in range(4))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    elif flex:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    path.write_bytes(converter.convert())
    return path


def small_network(path: Path) -> Path:
    """A fully int8 network with the operators of a converted MIRNet: (1, 16, 24, 3) in, (1, 16, 24, 12) out."""
    import tensorflow as tf

    random = np.random.default_rng(1)

    def weights(*shape: int) -> tf.Tensor:
        return tf.constant(random.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32))

    first, second, down, up, last = (weights(3, 3, 3, 8), weights(3, 3, 8, 8), weights(2, 2, 8, 12),
                                     weights(1, 1, 12, 8), weights(3, 3, 8, 12) / 4)
    gate, spatial, mean = weights(1, 1, 8, 8), weights(3, 3, 2, 1), tf.fill([1, 1, 8, 1], 1 / 8)
    bias = tf.constant(random.normal(0, 0.1, 8).astype(np.float32))

    def forward(image: tf.Tensor) -> tf.Tensor:
        x = tf.nn.relu(tf.nn.conv2d(image, first, 1, "SAME") + bias)
        pooled = tf.nn.relu6(tf.nn.conv2d(tf.nn.avg_pool2d(x, (16, 24), 1, "VALID"), gate, 1, "VALID") + 3.0)
        position = tf.concat([tf.reduce_max(x, 3, keepdims=True), tf.nn.conv2d(x, mean, 1, "VALID")], 3)
        y = x * pooled + x * tf.nn.relu6(tf.nn.conv2d(position, spatial, 1, "SAME") + 3.0)
        low = tf.nn.relu(tf.nn.conv2d(y, down, 2, "VALID"))
        back = tf.image.resize(tf.nn.conv2d(low, up, 1, "SAME"), (16, 24))
        return tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(y - back, second, 1, "SAME")), last, 1, "SAME")

    return convert_function(path, forward, (1, 16, 24, 3))
