"""The ONNX file: what it computes, what it is called, what it says about itself."""
from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from golden import filled

from conversion.bridge.graph import module_of
from conversion.bridge.onnx_export import OPSET, export_onnx, load_onnx
from conversion.mirnet.prepare import prepare
from mirnet_torch import CompactConfig, MIRNetConfig, create_model
from mirnet_torch.cli import UserError

CONFIGS = {"compact": (CompactConfig(cell=2, widths=(8, 16)), (48, 32)),
           "two streams": (MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=2), (24, 16)),
           "three streams": (MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1), (24, 16))}


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request, tmp_path_factory):
    config, size = CONFIGS[request.param]
    prepared = prepare(filled(create_model(config)), size)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(prepared.network, path, input_shape=prepared.input_shape,
                metadata={"version": "1", "checkpoint": "abc"})
    return prepared, path


def test_it_computes_what_the_deployable_form_computes(exported):
    prepared, path = exported
    rows, columns, channels = prepared.input_shape
    core = np.random.default_rng(0).random((1, channels, rows, columns)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = prepared.network(torch.from_numpy(core)).numpy()
    assert np.abs(session.run(["maps"], {"core": core})[0] - expected).max() <= 1e-5


def test_same_bytes_twice(exported, tmp_path):
    prepared, path = exported
    export_onnx(prepared.network, tmp_path / "again.onnx", input_shape=prepared.input_shape,
                metadata={"checkpoint": "abc", "version": "1"})
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_static_shapes_opset_and_metadata(exported):
    _, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    assert {entry.key: entry.value for entry in model.metadata_props} == {"version": "1", "checkpoint": "abc"}
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    assert all(shapes[output] and min(shapes[output]) > 0 for node in model.graph.node for output in node.output)
    assert [value.name for value in model.graph.input] == ["core"]
    assert [value.name for value in model.graph.output] == ["maps"]


def test_names_lead_to_modules(exported):
    prepared, path = exported
    graph = onnx.load(path).graph
    modules = dict(prepared.network.named_modules(remove_duplicate=False))
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            module = modules[module_of(node.name)]
            weight = next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == node.input[1])
            own = getattr(module, "filt", None) if hasattr(module, "filt") else module.weight
            assert np.array_equal(weight, own.numpy()), node.name
        else:
            assert module_of(node.name) in modules or node.output[0] == "maps", node.name
    names = Counter(node.name for node in graph.node)
    assert max(names.values()) == 1
    if isinstance(prepared.model.config, MIRNetConfig):
        assert "body.0.body.0.blocks.1.0.body.0/Conv_1" in names  # the second column


def test_shared_weights_are_stored_once(exported):
    prepared, path = exported
    stored = sum(np.prod(tensor.dims) for tensor in onnx.load(path).graph.initializer)
    unique = sum(p.numel() for p in prepared.network.parameters()) + sum(b.numel() for b in prepared.network.buffers())
    assert stored <= unique + 64  # some numbers more: limits, paddings, scales


def test_module_of():
    assert module_of("body.0.body.1/Conv") == "body.0.body.1"
    assert module_of("maps") == module_of("Add") == ""


def test_bad_files(exported, tmp_path):
    prepared, path = exported
    with pytest.raises(UserError, match="missing.onnx does not exist"):
        load_onnx(tmp_path / "missing.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="cut.onnx is not a readable ONNX file"):
        load_onnx(tmp_path / "cut.onnx")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(prepared.network, tmp_path / "nowhere" / "model.onnx", input_shape=prepared.input_shape,
                    metadata={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.onnx"]
