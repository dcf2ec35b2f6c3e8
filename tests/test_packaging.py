"""The package as an index shows it and an installer sees it."""
from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def description():
    code = ("import setuptools; setuptools.setup = lambda **options: print(options['long_description']); "
            "import runpy; runpy.run_path('setup.py')")
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_description_has_absolute_links_only(description):
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"\]\((?!https?:)", readme)  # else nothing is tested
    assert not re.findall(r"\]\((?!https?:)[^)]*\)", description)
    assert "darkened by the camera model" not in description  # the caption goes with its picture
    for line in ("## Use", "**Other networks.**", "## Limits", "from conversion import convert"):
        assert line in readme and line in description


def test_the_metadata_name_every_python_that_is_allowed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert setup["options"]["python_requires"] == f">={named[0]},<3.{int(named[-1][2:]) + 1}"
    assert setup["metadata"]["author"] and "https://" in setup["metadata"]["project_urls"]
