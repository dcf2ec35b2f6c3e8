"""The architecture: which part may import which, and how large a file, a class, a folder may be."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mirnet_torch", "conversion", "firmware")
# mirnet_torch: what comes first knows nothing of what comes later. Folders and files, the commands last.
ORDER = ("cli model compact photo presets checkpoint processes files scenes measures restoration training "
         "activations benchmark enhance evaluate flicker runtimes train").split()
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere in it, also inside functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def starts(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_bridge_knows_no_network():
    for path in (ROOT / "conversion" / "bridge").glob("*.py"):
        for module in imports(path):
            if starts(module, "mirnet_torch"):
                assert starts(module, "mirnet_torch.cli") or module == "mirnet_torch", f"{path.name} imports {module}"
            if starts(module, "conversion"):
                assert starts(module, "conversion.bridge") or module == "conversion", f"{path.name} imports {module}"


def test_the_bridge_loads_no_network():
    """The same at run time: the whole bridge is imported without any file that knows a network."""
    program = ("import sys, conversion.bridge.chain; "
               "print(*sorted(name for name in sys.modules if name.startswith(('mirnet_torch.', 'conversion.'))))")
    # The package's __init__ imports everything; the bridge must not need it.
    script = f"import sys, types; face = types.ModuleType('mirnet_torch'); face.__path__ = ['mirnet_torch']; " \
             f"sys.modules['mirnet_torch'] = face; {program}"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout.split()
    assert [name for name in loaded if name.startswith("mirnet_torch.")] == ["mirnet_torch.cli"]
    assert not [name for name in loaded if name.startswith("conversion.") and not starts(name, "conversion.bridge")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_data_flows_one_way(path):
    """network -> conversion -> firmware: no part imports a later one."""
    package = path.relative_to(ROOT).parts[0]
    forbidden = {"mirnet_torch": ("conversion", "firmware", "tensorflow", "onnx", "onnx2tf", "ai_edge_litert"),
                 "conversion": ("firmware",), "firmware": ("mirnet_torch", "tensorflow", "torch")}[package]
    if path.parts[-2:] in (("emulator", "counts.py"), ("emulator", "fit_cost.py")):
        return  # a developer's tools, which may use all packages: they fit the bridge's cost model
    for module in imports(path):
        if path.name == "converted.py" and package == "mirnet_torch" and starts(module, "ai_edge_litert"):
            continue  # it runs converted files; see below
        assert not any(starts(module, other) for other in forbidden), f"{path} imports {module}"


def test_mirnet_torch_is_read_from_one_end():
    """Every file of the package imports only what comes before it in ORDER, or its own folder."""
    package = ROOT / "mirnet_torch"
    assert {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} \
        == {"__init__", "__main__", *ORDER}
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).with_suffix("").parts[0]
        if place in ("__init__", "__main__"):
            continue
        known = ORDER[:ORDER.index(place) + 1] + ["__version__"]
        for module in imports(path):
            if starts(module, "mirnet_torch") and module != "mirnet_torch":
                assert module.split(".")[1] in known, f"{path.relative_to(ROOT)} imports {module}"


def test_only_one_file_runs_converted_networks_and_needs_no_other_runtime():
    """The other runtimes are imported where a file of theirs is opened: neither they nor PyTorch are needed before."""
    runtimes = ("onnxruntime", "ai_edge_litert")
    for path in (ROOT / "mirnet_torch").rglob("*.py"):
        found = {module for module in imports(path) if any(starts(module, other) for other in runtimes)}
        assert not found or path.name == "converted.py", f"{path} imports {found}"
    program = ("import sys, mirnet_torch.enhance, mirnet_torch.__main__; print(*(name for name in "
               f"{('torch', *runtimes)!r} if name in sys.modules))")
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_classes_are_read_in_one_sitting(path):
    lines = path.read_text().count("\n")
    assert lines <= (320 if path.name == "model.py" else 450), f"{path} has {lines} lines"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 150, f"{node.name} in {path} has {node.end_lineno - node.lineno}"


def test_the_top_of_conversion_is_small():
    files = [path for path in (ROOT / "conversion").iterdir() if path.is_file()]
    assert len(files) <= 8, sorted(path.name for path in files)
