"""The command `mirnet`, and what all commands share: closed streams, Ctrl-C at the start, names of any bytes."""
from __future__ import annotations

import configparser
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import assert_one_error, run
from skimage import data

from mirnet_torch.__main__ import COMMANDS, main
from mirnet_torch.enhance import main as enhance_main
from mirnet_torch.files.images import write_image

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def photo(tmp_path):
    write_image(data.astronaut()[:48, 200:264] // 4, tmp_path / "dark.png")
    return tmp_path / "dark.png"


def installed(tmp_path: Path) -> Path:
    """The script that an installer makes of the entry point in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, entry = setup["options.entry_points"]["console_scripts"].strip().split(" = ")
    module, function = entry.split(":")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / name
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    return script


def test_the_script_enhances(tmp_path, photo):
    done = subprocess.run([installed(tmp_path), "enhance", photo, "--out", "out"], cwd=tmp_path, env=ENVIRONMENT,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 enhanced into out\n", "")
    wrong = subprocess.run([tmp_path / "bin" / "mirnet", "enhance"], env=ENVIRONMENT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("usage: mirnet enhance ")


def test_it_lists_its_commands(capsys):
    for arguments in ([], ["--help"]):
        result = run(capsys, main, *arguments)
        assert result.status == 0 and all(f"\n  {name} " in result.out for name in COMMANDS)
    result = run(capsys, main, "enhanse")
    assert_one_error(result.status, result.err, "'enhanse'", "enhance, train, evaluate, convert, view")


@pytest.mark.parametrize("name", ["enhance", "train", "evaluate", "convert", "benchmark"])
def test_every_command_has_help(capsys, name):
    result = run(capsys, main, name, "--help")
    assert "%%" not in result.out
    assert result.status == 0 and result.out.startswith("usage: ")


def test_view_says_that_it_needs_a_clone(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("mirnet_torch.__main__.VIEWER", tmp_path / "firmware" / "viewer")
    result = run(capsys, main, "view", "--simulate")
    assert_one_error(result.status, result.err, "mirnet view works from a clone only")


def test_view_starts_the_viewer():
    done = subprocess.run([sys.executable, "-m", "mirnet_torch", "view", "--help"], env=ENVIRONMENT,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: viewer ")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_change_nothing(tmp_path, photo, closed):
    done = subprocess.run(["bash", "-c", f'"$0" -m mirnet_torch.enhance dark.png none.png --out out {closed}',
                           sys.executable], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "out") == ["dark.png"]
    assert (tmp_path / "out" / "dark.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def test_other_programs_keep_their_ctrl_c(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("import mirnet_torch\n")
    (tmp_path / "app" / "__main__.py").write_text("import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\n"
                                                  "except KeyboardInterrupt:\n    print('saved')\n")
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-m", "app"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "saved\n", "")


@pytest.mark.parametrize("words", [["-m", "mirnet_torch.enhance"], ["-m", "mirnet_torch", "train"],
                                   [str(ROOT / "conversion" / "to_tflite.py")]], ids=["module", "mirnet", "script"])
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_ctrl_c_at_the_start_gives_no_traceback(tmp_path, words, seconds):
    process = subprocess.Popen([sys.executable, *words, "--help"], env=ENVIRONMENT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    err = process.communicate()[1]
    assert "Traceback" not in err and process.returncode in (-signal.SIGINT, 130, 0)


def test_names_that_the_locale_cannot_write(tmp_path, photo):
    os.rename(photo, os.fsencode(tmp_path) + b"/nuit \xff\xc3\xa9.png")
    posix = {**ENVIRONMENT, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-m", "mirnet_torch.enhance", os.fsencode(tmp_path), "--out",
                           os.fsencode(tmp_path) + b"/h\xc3\xa9\xff"], env=posix, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("1 enhanced into ")
    assert os.listdir(os.fsencode(tmp_path) + b"/h\xc3\xa9\xff") == [b"nuit \xff\xc3\xa9.png"]


def test_an_empty_folder_name_is_refused(capsys, photo):
    result = run(capsys, enhance_main, photo, "--out", "")
    assert_one_error(result.status, result.err, "--out", "empty")


def test_a_name_with_a_line_break_makes_no_second_line(capsys, tmp_path, photo):
    result = run(capsys, enhance_main, photo, "--out", tmp_path / "out", "--checkpoint", "two\nlines.pth")
    assert_one_error(result.status, result.err, "two lines.pth does not exist")
    assert result.err.count("\n") == 1
