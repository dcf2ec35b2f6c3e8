"""What a model costs, against what tflite-micro reports of itself and against TensorFlow's and hand-made figures."""
from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_models import convert_function, small_network

import mirnet_torch
from conversion.bridge.cost import LEVELS, Buffer, calibrated, cost, instructions, place
from conversion.bridge.graph import Graph, Operator, Tensor, read_graph
from conversion.report import Content, Subject, summary, write_html, write_json

# What an emulated Cortex-M4 counted; `make counts` writes it, the file says what its rows are.
COUNTS = json.loads((Path(__file__).parents[2] / "data" / "cortex_m4_counts.json").read_text())
SHIPPED = Path(mirnet_torch.__file__).parent / "weights" / "mcu_int8.tflite"
MOST_INSTRUCTIONS = 60_000_000  # of the shipped model; tests/firmware leaves 4 million to pixels: one frame a second
SUBJECT = Subject("net", "ab" * 32, {}, 1, (8, 8), "litert", "LiteRT", "some frames", "other frames", {},
                  {"arena": None, "flash": None})
MATTERS = 0.02  # of a frame: kinds of operators below are not looked at alone


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
    costs = cost(read_graph(small), cmsis_nn=False)
    assert costs.head_bytes == reported_head(small, capfd)
    assert costs.floor_bytes <= costs.head_bytes


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
    costs = cost(read_graph(small))
    by_operator = {item.operator.index: item.macs for item in costs.operators if item.macs}
    pixels = 16 * 24
    assert list(by_operator.values()) == [
        pixels * 3 * 3 * 3 * 8, 8 * 8, pixels * 8, pixels * 3 * 3 * 2,
        pixels // 4 * 2 * 2 * 8 * 12, pixels // 4 * 12 * 8, pixels * 3 * 3 * 8 * 8, pixels * 3 * 3 * 8 * 12]
    assert costs.macs == sum(by_operator.values())
    assert costs.flash_bytes == small.stat().st_size > costs.weight_bytes


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


def rebuild(row) -> tuple[Operator, int, dict[str, int]]:
    """Return a row's operator, how often it was run, and the instructions counted for all of them at every level."""
    name, strides, inputs, output, times, *counted = row
    tensors = [Tensor(i, "", tuple(shape), "int8", (), (), False, 0) for i, shape in enumerate((*inputs, output))]
    operator = Operator(0, name, 1, tuple(tensors[:-1]), (tensors[-1],), "", tuple(strides))
    return operator, times, dict(zip(COUNTS["levels"], counted, strict=True))


def sums(rows, level) -> tuple[Counter[str], Counter[str]]:
    """Return the instructions of every kind of operator: predicted and counted."""
    predicted, counted = Counter(), Counter()
    for operator, times, counts in map(rebuild, rows):
        assert calibrated(operator)
        predicted[operator.name] += times * instructions(operator, level)
        counted[operator.name] += counts[level]
    return predicted, counted


MODELS = [(part, name) for part in ("fitted", "held out", "shipped") for name in COUNTS[part]]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("part, name", MODELS, ids=[f"{part}: {name}" for part, name in MODELS])
def test_predicted_instructions_are_those_counted(part, name, level):
    predicted, counted = sums(COUNTS[part][name], level)
    assert predicted.total() == pytest.approx(counted.total(), rel=0.02)
    for kind, count in counted.items():
        if count > MATTERS * counted.total() or name.startswith("crafted"):
            assert predicted[kind] == pytest.approx(count, rel=0.1), kind


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("part", ["fitted", "held out"])
def test_predicted_instructions_of_every_single_operator(part, level):
    for rows in COUNTS[part].values():
        for row in rows:
            operator, times, counted = rebuild(row)
            assert times * instructions(operator, level) == pytest.approx(counted[level], rel=0.15), row


def test_held_out_models_hold_shapes_that_were_not_fitted():
    fitted = {json.dumps(row[:4]) for rows in COUNTS["fitted"].values() for row in rows}
    held_out = [row for rows in COUNTS["held out"].values() for row in rows]
    for level in range(5, 5 + len(LEVELS)):
        work = sum(row[level] for row in held_out)
        assert sum(row[level] for row in held_out if json.dumps(row[:4]) not in fitted) > 0.5 * work


def signatures(graph: Graph) -> Counter[str]:
    """Count the operators of every name, strides and shapes, biases left out, as the file of counts has them."""
    inputs = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "TRANSPOSE_CONV": 3}
    return Counter(json.dumps([operator.name, operator.strides, [tensor.shape for tensor in
                               operator.inputs[:inputs.get(operator.name)]], operator.outputs[0].shape])
                   for operator in graph.operators)


def test_the_counts_of_the_shipped_model_are_of_its_graph():
    """New weights need no new counts, other operators, shapes or strides do."""
    counted = Counter({json.dumps(row[:4]): row[4] for row in COUNTS["shipped"][SHIPPED.name]})
    assert signatures(read_graph(SHIPPED)) == counted, (
        f"{SHIPPED.name} has other operators than those counted: run make counts LIBRARY=...")


@pytest.mark.parametrize("level", LEVELS)
def test_predicted_instructions_of_the_shipped_model(level):
    whole = cost(read_graph(SHIPPED), optimisation=level)
    predicted, counted = sums(COUNTS["shipped"][SHIPPED.name], level)
    assert whole.optimisation == level
    assert whole.by_kind() == dict(predicted)


def test_the_shipped_model_s_memory_is_the_least_that_a_plan_can_reach():
    costs = cost(read_graph(SHIPPED))
    assert costs.head_bytes == costs.floor_bytes


def test_the_shipped_model_is_fast_enough():
    predicted = cost(read_graph(SHIPPED)).instructions
    assert predicted <= MOST_INSTRUCTIONS


def with_guesses(tmp_path) -> Graph:
    """A graph with an operator that was never counted and one in float."""
    import tensorflow as tf

    return read_graph(convert_function(tmp_path / "m.tflite", lambda x: tf.exp(tf.tanh(x)), (1, 8, 8, 4)))


def test_operators_never_counted_get_a_marked_guess(tmp_path, small):
    costs = cost(with_guesses(tmp_path))
    guesses = {item.operator.name: item for item in costs.operators if not item.calibrated}
    assert "TANH" in guesses and all(item.instructions >= 8 * 8 * 4 for item in guesses.values())
    assert costs.instructions == sum(item.instructions for item in costs.operators)
    assert all(item.calibrated for item in cost(read_graph(small)).operators)


def test_reports_show_predicted_instructions(tmp_path):
    graph = with_guesses(tmp_path)
    costs = cost(graph)
    content = Content(SUBJECT, [], [], "", graph, costs, {})
    text = " ".join(summary([], [], costs))
    assert f"predicted, {costs.instructions / 1e6:,.1f} million instructions of a Cortex-M4 with -Os" in text
    assert "TANH" in text.split("roughly guessed: ")[1]

    write_json(tmp_path / "report.json", content)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["predicted_instructions"] == costs.instructions
    assert [row["predicted_instructions"] for row in document["operators"]] == [
        item.instructions for item in costs.operators]

    write_html(tmp_path / "report.html", content, names=[], dark=np.zeros((0, 8, 8, 3), np.uint8), bright=None)
    page = (tmp_path / "report.html").read_text()
    for item in costs.operators:
        assert f'<td class="n">{"" if item.calibrated else "~"}{item.instructions:,}' in page
