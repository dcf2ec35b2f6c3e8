"""The contract of a target, on small models that break one rule each."""
from __future__ import annotations

import dataclasses

import pytest
from tiny_models import convert_function, small_network

from conversion.bridge.graph import Graph, read_graph
from conversion.bridge.target import TARGETS, check, find_target, resolver_methods, violations
from mirnet_torch.cli import UserError

ARDUINO, LITERT = TARGETS["arduino-tflm"], TARGETS["litert"]
MAP = (1, 8, 8, 4)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_network(tmp_path_factory.mktemp("small") / "small.tflite")


def faults(graph: Graph, target=ARDUINO) -> dict[str, str]:
    return {violation.operator.name: violation.fault for violation in violations(graph, target)}


def swap(graph: Graph, index: int, **changes) -> Graph:
    """Change one operator of a graph."""
    operators = list(graph.operators)
    operators[index] = dataclasses.replace(operators[index], **changes)
    return dataclasses.replace(graph, operators=tuple(operators))


def find(graph: Graph, name: str):
    return next(operator for operator in graph.operators if operator.name == name)


def test_a_model_that_keeps_the_contract(small):
    graph = check(small, ARDUINO)
    assert violations(graph, LITERT) == []
    assert graph.counts() == {"ADD": 1, "AVERAGE_POOL_2D": 1, "CONCATENATION": 1, "CONV_2D": 8, "MUL": 2,
                              "REDUCE_MAX": 1, "RESIZE_BILINEAR": 1, "SUB": 1}
    assert resolver_methods(graph) == ["AddAdd", "AddAveragePool2D", "AddConcatenation", "AddConv2D", "AddMul",
                                       "AddReduceMax", "AddResizeBilinear", "AddSub"]


def test_operators_that_round_differently_from_runtime_to_runtime(tmp_path):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", lambda x: tf.reduce_mean(x, [1, 2]), MAP))
    assert "not among the operators" in faults(graph)["MEAN"]
    assert faults(graph, LITERT) == {}
    dense = read_graph(convert_function(tmp_path / "d.tflite", lambda x: x @ tf.ones([4, 3]), (1, 4)))
    assert "FULLY_CONNECTED" in faults(dense) and faults(dense, LITERT) == {}


def test_flex_operators_run_nowhere(tmp_path):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", tf.linalg.det, (2, 4, 4), int8=False, flex=True))
    for target in (ARDUINO, LITERT):
        assert "is a Flex operator" in faults(graph, target)["FlexMatrixDeterminant"]


def test_float_islands(tmp_path):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", lambda x: tf.nn.relu(x) + x, MAP, int8=False))
    assert "computes in float, not in int8" in faults(graph)["ADD"]
    assert "computes in float, not in int8" in faults(graph, LITERT)["ADD"]


@pytest.mark.parametrize("name, function", [
    ("TRANSPOSE", lambda tf, x: tf.transpose(x, [0, 3, 1, 2])),
    ("STRIDED_SLICE", lambda tf, x: x[:, 1:7, ::2, :] * 2),
    ("RESHAPE", lambda tf, x: tf.reshape(x, [1, 64, 4])),
    ("GATHER", lambda tf, x: tf.gather(x, [3, 1], axis=3)),
])
def test_feature_maps_are_not_copied_about(tmp_path, name, function):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", lambda x: function(tf, x), MAP))
    assert "copies a feature map" in faults(graph, LITERT)[name]
    assert name in faults(graph)


def test_attention_vectors_may_be_reshaped_in_litert(tmp_path):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", lambda x: tf.reshape(x, [1, 4, 1, 1]), (1, 1, 1, 4)))
    assert faults(graph, LITERT) == {}
    assert "RESHAPE" in faults(graph)


def test_rank(tmp_path):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", lambda x: tf.concat([x, x], 4), (1, 2, 2, 2, 4)))
    assert "more than 4 dimensions" in faults(graph)["CONCATENATION"]


@pytest.mark.parametrize("name", ["REDUCE_MAX", "CONCATENATION", "AVERAGE_POOL_2D", "RESIZE_BILINEAR"])
def test_kernels_that_copy_codes_need_equal_scales(small, name):
    graph = read_graph(small)
    operator = find(graph, name)
    output = dataclasses.replace(operator.outputs[0], scales=(operator.outputs[0].scale * 1.01,))
    broken = swap(graph, operator.index, outputs=(output,))
    assert "between different scales" in faults(broken)[name]
    assert "between different scales" in faults(broken, LITERT)[name]


def test_softmax_has_its_own_scale(tmp_path):
    import tensorflow as tf

    graph = read_graph(convert_function(tmp_path / "m.tflite", lambda x: tf.nn.softmax(x * 3), (1, 1, 8, 3)))
    assert faults(graph) == {}
    operator = find(graph, "SOFTMAX")
    output = dataclasses.replace(operator.outputs[0], scales=(0.005,))
    assert "must have the output scale 0.00390625" in faults(swap(graph, operator.index, outputs=(output,)))["SOFTMAX"]


def test_operator_versions(small):
    graph = read_graph(small)
    assert "has version 9, arduino-tflm knows 2" in faults(swap(graph, find(graph, "SUB").index, version=9))["SUB"]


def test_weights_are_symmetric(small):
    graph = read_graph(small)
    conv = find(graph, "CONV_2D")
    weights = dataclasses.replace(conv.inputs[1], zero_points=(3,) * len(conv.inputs[1].scales))
    broken = swap(graph, conv.index, inputs=(conv.inputs[0], weights, conv.inputs[2]))
    assert "symmetric weights" in faults(broken)["CONV_2D"]


def test_the_error_names_operator_tensors_and_fix(tmp_path):
    import tensorflow as tf

    path = convert_function(tmp_path / "m.tflite", lambda x: tf.transpose(x, [0, 3, 1, 2]), MAP)
    with pytest.raises(UserError, match=r"contract of litert: TRANSPOSE \(operator 0\) copies a feature map .*"
                                        r"\[1, 8, 8, 4\] int8.*; keep the tensor"):
        check(path, LITERT)


def test_targets_by_name():
    assert find_target("arduino-tflm") is ARDUINO and find_target("litert") is LITERT
    with pytest.raises(UserError, match="no target 'esp32'; there are: arduino-tflm, litert"):
        find_target("esp32")


@pytest.mark.parametrize("content, message", [
    (b"", "is not a .tflite file"), (b"no model at all", "is not a .tflite file"),
    (b"\x20\0\0\0TFL3" + bytes(12), "damaged .tflite"), (b"\xff\xff\xff\x7fTFL3" + bytes(40), "damaged .tflite")])
def test_files_that_are_no_models(tmp_path, content, message):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_graph(path)


def test_a_truncated_model_is_refused(small, tmp_path):
    content = small.read_bytes()
    for length in range(8, len(content), 97):
        path = tmp_path / "m.tflite"
        path.write_bytes(content[:length])
        try:
            read_graph(path)  # what is missing may be weights only, which are not read
        except UserError as error:
            assert "damaged" in str(error)
