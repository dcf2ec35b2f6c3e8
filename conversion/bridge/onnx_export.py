"""PyTorch module -> ONNX: static shapes, checked and simplified, with names that say which module a tensor comes from.

The TorchScript exporter of torch is used. It needs no other package (the newer exporter needs onnxscript). It writes
opset 17, for which onnx2tf needs no special conversion of Resize and Pad. It merges equal or shared weights, and its
trace has one node per operation. Its names are replaced here.
"""
from __future__ import annotations

import contextlib
import copy
import io
import os
import re
import warnings
from collections import Counter
from typing import Any

import onnx
import onnxsim
import torch
from torch import nn

from mirnet_torch.cli import UserError, atomic_path

OPSET = 17


def export_onnx(network: nn.Module, path: str | os.PathLike[str], *, input_shape: tuple[int, int, int],
                metadata: dict[str, str]) -> None:
    """Write a network as an ONNX file, whole or not at all; the same network and metadata give the same bytes.

    The input is "core" (1, channels, rows, columns), the output "maps". Other tensors have the name of the node that
    computes them: the PyTorch module, a slash, the operator: "body.0.body.0.blocks.0.0.body.0/Conv"; those of a
    module's second call end in "_1". A module with several names has the first.

    Args:
        network: takes one tensor (1, channels, rows, columns), returns one.
        path: the file to write.
        input_shape: (rows, columns, channels).
        metadata: properties of the file.

    Raises:
        UserError: the file cannot be written, or the network has an operator that ONNX does not have.
    """
    rows, columns, channels = input_shape
    traced = _with_unique_scopes(network).float().cpu()
    model = trace(traced, (torch.zeros(1, channels, rows, columns),), inputs=["core"], output="maps")
    _rename(model.graph, traced)
    model = _simplified(model)
    model.graph.name = "network"
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def trace(module: nn.Module, arguments: tuple[torch.Tensor, ...], *, inputs: list[str], output: str,
          axes: dict[str, dict[int, str]] | None = None) -> onnx.ModelProto:
    """Return what the exporter makes of a module.

    Args:
        module: returns one tensor.
        arguments: examples of its inputs.
        inputs: their names.
        output: its name.
        axes: names of the sides that vary, by input or output and axis.

    Raises:
        UserError: the module has an operator that ONNX does not have.
    """
    buffer: Any = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, arguments, buffer, dynamo=False, opset_version=OPSET, input_names=inputs,
                              output_names=[output], dynamic_axes=axes)
        except torch.onnx.errors.UnsupportedOperatorError as error:
            raise UserError(f"the network cannot be exported: {str(error).splitlines()[0]} Write that module with "
                            "convolutions, pools and elementwise arithmetic") from None
    return onnx.load_from_string(buffer.getvalue())


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, move them out of nodes, merge nodes that compute the same.

    Weights become inputs for the time being, since onnxsim copies the whole model in each of its passes.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 4}
    small = [tensor for tensor in graph.initializer if tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(small)
    inputs = list(graph.input)
    graph.input.extend(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
                       for name, tensor in weights.items())
    model, _ = onnxsim.simplify(model, check_n=0)
    used = {name for node in model.graph.node for name in node.input}
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    return model


def load_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Raises:
        UserError: it is missing or not an ONNX file.
    """
    try:
        model = onnx.load(os.fspath(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # protobuf and the checker have their own exceptions
        raise UserError(f"{path} is not a readable ONNX file: {str(error).splitlines()[0]}") from None
    return model


class _Prefixed(nn.Module):
    """The modules of a dictionary, renamed so that no sibling dictionary has the same names.

    A TorchScript scope has only the last part of a module's name, and `down` and `up` may share keys such as "128_2".
    """

    def __init__(self, prefix: str, modules: nn.ModuleDict) -> None:
        super().__init__()
        self.prefix = prefix
        for key, module in modules.items():
            self.add_module(f"{prefix}_{key}", module)

    def __getitem__(self, key: str) -> nn.Module:
        return getattr(self, f"{self.prefix}_{key}")


def _with_unique_scopes(network: nn.Module) -> nn.Module:
    """Return a copy in which sibling dictionaries of modules share no keys."""
    traced = copy.deepcopy(network)
    for parent in list(traced.modules()):
        dictionaries = {name: child for name, child in parent.named_children() if isinstance(child, nn.ModuleDict)}
        keys = Counter(key for child in dictionaries.values() for key in child)
        for name, child in dictionaries.items():
            if any(keys[key] > 1 for key in child):
                setattr(parent, name, _Prefixed(name, child))
    return traced


def _rename(graph: onnx.GraphProto, traced: nn.Module) -> None:
    """Name nodes and tensors after modules, and weights after parameters, by their names before `_Prefixed`."""
    tree = _children(traced)
    new = {value.name: value.name for value in (*graph.input, *graph.output)}
    seen: Counter[str] = Counter()
    for initializer in graph.initializer:
        new[initializer.name] = initializer.name = _plain(initializer.name)
    for node in graph.node:
        *scopes, _ = node.name.lstrip("/").split("/")
        name = "/".join(part for part in (_plain(_resolve(scopes, tree)), node.op_type) if part)
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"
        for i, output in enumerate(node.output):
            new.setdefault(output, node.name + (f".{i}" if i else ""))
    for node in graph.node:
        node.input[:] = [new.get(name, _plain(name)) for name in node.input]
        node.output[:] = [new[name] for name in node.output]
    del graph.value_info[:]


def _plain(name: str) -> str:
    """Return the original name of a module below `_Prefixed`: "down.down_128_2" -> "down.128_2"."""
    return re.sub(r"\b(\w+)\.\1_(?=\d)", r"\1.", name)


def _children(root: nn.Module) -> dict[str, dict[str, str]]:
    """Return, for every module's name, the modules below it by the name of their scope; the nearest wins.

    A scope is the end of a module's name, from the last part that is not a number: "blocks.0.0", "body.0".
    """
    tree: dict[str, dict[str, str]] = {}
    names = (name for name, _ in root.named_modules(remove_duplicate=False))
    for name in sorted(names, key=lambda name: (name.count("."), name)):
        parts = name.split(".")
        start = max((i for i, part in enumerate(parts) if not part.isnumeric()), default=0)
        for end in range(len(parts) if name else 0):
            tree.setdefault(".".join(parts[:end]), {}).setdefault(".".join(parts[start:]), name)
    return tree


def _resolve(scopes: list[str], tree: dict[str, dict[str, str]]) -> str:
    """Return the module that nested scopes refer to; a scope that is entered again has a counter: "body.0_1"."""
    current = ""
    for scope in scopes:
        below = tree.get(current, {})
        current = below.get(scope) or below.get(re.sub(r"_\d+$", "", scope)) or current
    return current
