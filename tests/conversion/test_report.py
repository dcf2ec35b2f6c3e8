"""The parity table, report.json and the page, from made-up figures."""
from __future__ import annotations

import base64
import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import warnings

import numpy as np
import pytest
from tiny_models import small_network

from conversion.bridge.chain import Row, Tolerance
from conversion.bridge.cost import cost
from conversion.bridge.difference import Difference, LayerDifference, compare
from conversion.bridge.graph import read_graph
from conversion.report import (Content, Subject, _gallery, _json_row, _ticks, format_table, summary, to_levels, verdict,
                               worst_layers, write_html, write_json)

SUBJECT = Subject(
    checkpoint="<best>.safetensors", checkpoint_sha256="ab" * 32, config={"n_feat": 16}, parameters=83211,
    image=(24, 16), target="arduino-tflm", target_summary="TFLM", calibration="36 frames", test_frames="2 frames",
    versions={"torch": "2"}, limits={"arena": 1000, "flash": None})


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Everything a report is written from; the model and its cost are real."""
    graph = read_graph(small_network(tmp_path_factory.mktemp("small") / "small.tflite"))
    random = np.random.default_rng(0)
    picture = random.random((2, 16, 24, 3)).astype(np.float32)
    rows = [Row("PyTorch", psnr=20.0, pictures=picture)]
    stages = [("deployable form", 1e-6, Tolerance("max", 2e-5), 0.0), ("ONNX", 0.0, Tolerance("max", 1e-5), 0.0),
              ("TFLite int8", 0.03, Tolerance("mean steps", 1.0), 0.01)]
    for name, error, tolerance, step in stages:
        other = picture + np.float32(error) * random.choice([-1, 1], picture.shape).astype(np.float32)
        difference = compare(picture, other)
        rows.append(Row(name, rows[-1].stage, difference, difference, 20.0 - 4 * error, tolerance, step,
                        pictures=other))
    rows.append(Row("int8, tflite-micro", skipped="too many multiply-accumulates"))
    layers = [LayerDifference(name, name, name.partition("/")[0], (1, 2, 2, 3), compare(np.ones(9), np.ones(9) + error),
                              0.05) for name, error in [("first/Conv", 0.01), ("second/Conv", 0.3), ("third/Add", 0.0)]]
    return Content(SUBJECT, rows, layers, "", graph, cost(graph), {"a.tflite": {"bytes": 5, "sha256": "cd" * 32}})


@pytest.fixture(scope="module")
def page(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    dark = np.random.default_rng(1).integers(0, 60, (2, 16, 24, 3)).astype(np.uint8)
    write_html(path, content, names=("one", "two"), dark=dark, bright=dark * 4)
    return path.read_text()


class Page(html.parser.HTMLParser):
    """Collects what a browser would load, and the tags that were left open."""

    VOID = {"meta", "img", "br", "rect", "polyline", "link", "th", "td", "tr", "p", "li"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.images = self.boxes = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        self.images += tag == "img"
        self.boxes += tag == "rect"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_tolerances():
    difference = compare(np.zeros(4), np.array([0.0, 0.0, 0.02, 0.02]))
    assert Tolerance("max", 0.02).holds(difference, 0.0) and not Tolerance("max", 0.019).holds(difference, 0.0)
    assert Tolerance("mean steps", 1.0).holds(difference, 0.01)
    assert not Tolerance("mean steps", 1.0).holds(difference, 0.009)
    assert Tolerance("bytes", 2).holds(difference, 0.01) and not Tolerance("bytes", 1).holds(difference, 0.01)
    assert Tolerance("SQNR", 30).holds(compare(np.ones(9), np.ones(9) + 0.01), 0.0)
    assert not Tolerance("SQNR", 41).holds(compare(np.ones(9), np.ones(9) + 0.01), 0.0)
    assert Tolerance("bytes", 0).exact and not Tolerance("mean steps", 1.0).exact
    assert Row("a").passed is None and Row("a", change=difference, tolerance=Tolerance("bytes", 0)).passed is False


def test_the_printed_table(content):
    lines = format_table(content.rows).splitlines()
    assert lines[0].split() == ["stage", "max", "mean", "SQNR", "to", "PyTorch", "SQNR", "PSNR", "tolerance"]
    assert lines[2].split() == ["PyTorch", "20.00"]
    assert lines[3].startswith("deployable form") and lines[3].endswith("max <= 2e-05 ok")
    assert "equal" in lines[4]
    assert lines[5].endswith("mean <= 1 step MISSED")
    assert lines[6].endswith("not run: too many multiply-accumulates")


def test_the_summary_says_where_quality_was_lost(content):
    text = " ".join(summary(content.rows, content.layers, content.cost))
    assert "PyTorch reaches 20.00 dB and TFLite int8 19.88 dB: the conversion costs 0.12 dB" in text
    assert "0.12 dB, at TFLite int8" in text
    assert "TFLite int8 misses its tolerance: mean <= 1 step." in text
    assert "hurts most, with their SQNR: second/Conv (10.5 dB), first/Conv (40.0 dB)." in text
    assert [layer.b for layer in worst_layers(content.layers)] == ["second/Conv", "first/Conv"]


@pytest.mark.parametrize("gained, words", [(0.004, "costs nothing"), (0.049, "costs nothing"), (0.06, "gains 0.06 dB"),
                                           (-0.004, "costs nothing"), (-0.02, "costs 0.02 dB")])
def test_a_gain_within_noise_is_not_called_one(content, gained, words):
    rows = [dataclasses.replace(content.rows[0], psnr=20.0), dataclasses.replace(content.rows[1], psnr=20.0 + gained)]
    assert f"the conversion {words}." in summary(rows, [], content.cost)[0]


def test_a_missed_tolerance_is_no_gain_and_the_verdict(content):
    rows = [dataclasses.replace(row, psnr=20.0 + 13.15 * (row.stage == "TFLite int8")) if row.psnr else row
            for row in content.rows]
    assert " gains " not in (text := " ".join(summary(rows, [], content.cost))), text
    assert "changes the result by 13.15 dB, which is no gain" in text
    assert verdict(rows).startswith("Failed, not within the tolerance: TFLite int8 (tolerance mean <= 1 step, "
                                    "measured 3.0")
    assert verdict(rows[:3]) == "Passed: all 2 stages that have a tolerance are within it."
    assert verdict([*rows[:3], rows[-1]]).endswith("within it; 1 were not run.")
    broken = dataclasses.replace(rows[1], tolerance=Tolerance("max", 1e-9))
    assert verdict([rows[0], broken]).startswith("Failed, do not use this model: not equal to the stage before: "
                                                 "deployable form (tolerance max <= 1e-09, measured 1e-06)")


def test_json_holds_everything_and_no_infinity(content, tmp_path):
    write_json(tmp_path / "report.json", content)
    text = (tmp_path / "report.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    document = json.loads(text)
    assert document["parity"][2]["change"]["sqnr_db"] is None and document["parity"][2]["change"]["differing"] == 0
    assert [row["passed"] for row in document["parity"]] == [None, True, True, False, None]
    assert document["operator_counts"] == content.graph.counts()
    assert document["macs"] == sum(operator["macs"] for operator in document["operators"]) == content.cost.macs
    assert {"offset", "first", "last", "nbytes"} <= document["arena"]["buffers"][0].keys()
    assert document["subject"]["image"] == [24, 16] and document["files"]["a.tflite"]["bytes"] == 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_stage_that_is_not_finite_gets_its_verdict(content, tmp_path, value):
    """Its page was a traceback where it holds infinity, and the whole conversion was lost."""
    picture = content.rows[1].pictures.copy()
    picture[0, :8] = value
    difference = Difference(value, value, -math.inf, (0, 3, 5, 0), picture.size, picture.size)
    broken = dataclasses.replace(content.rows[1], change=difference, total=difference, pictures=picture)
    bad = dataclasses.replace(content, rows=[content.rows[0], broken, *content.rows[2:]],
                              layers=[dataclasses.replace(content.layers[0], difference=difference)])
    write_json(tmp_path / "report.json", bad)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["verdict"].startswith("Failed, do not use this model: not equal to the stage before: deployable")
    assert document["parity"][1]["change"]["max"] is document["layers"][0]["mean"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, where NaN becomes a level
        write_html(tmp_path / "r.html", bad, names=("one", "two"), dark=np.zeros((2, 16, 24, 3), np.uint8), bright=None)
    page = (tmp_path / "r.html").read_text()
    assert "Failed, do not use this model" in page and page.count("holds NaN or infinity") == 1


def test_the_page_is_whole_and_needs_nothing_from_outside(content, page):
    parsed = Page(page)
    assert parsed.open == []
    (table,) = (link for link in parsed.links if not link.startswith("data:image/png;base64,"))
    assert table.startswith("data:text/csv;base64,")
    assert "http" not in page.replace("http-equiv", "") and "@import" not in page and "url(" not in page
    assert parsed.images == 2 * (2 + 4 + 1)  # input, truth, four stages, and the difference of the one that differs
    assert parsed.boxes == len(content.cost.buffers) + 2  # the arena and the layers that are not equal
    for text in ("&lt;best&gt;.safetensors", "second/Conv", "missed", "CONV_2D", "equal to PyTorch", "limit\n1,000"):
        assert text in page
    assert "{{" not in page and "{%" not in page


def test_the_table_can_be_saved(content, page):
    (table,) = (link for link in Page(page).links if link.startswith("data:text/csv;base64,"))
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(table.partition(",")[2]).decode())))
    assert [row["stage"] for row in rows] == [row.stage for row in content.rows]
    assert float(rows[3]["max"]) == content.rows[3].change.max and rows[2]["sqnr_db"] == "inf"
    assert [row["passed"] for row in rows] == ["", "True", "True", "False", ""] and rows[4]["not_run"]


def test_differences_of_one_frame_have_one_scale_and_rounding_has_none(content, page):
    assert page.count("equal to rounding: at most 0.0003 of a level from PyTorch") == 2  # 1e-6, of two frames
    assert len(re.findall(r"from PyTorch at most 7\.[67] of 255 levels, mean 7\.[67]", page)) == 2
    assert page.count("difference from PyTorch, × 16 for all of them") == 2 and "+8 levels; grey: equal" in page
    rows = [dataclasses.replace(row, pictures=content.rows[0].pictures) for row in content.rows[:3]]
    assert _gallery(0, "one", rows, np.zeros((1, 16, 24, 3), np.uint8), None)["factor"] == 0


def test_drawings_have_axes_and_the_time_its_assumption(content, page):
    assert "operator, in the order of execution" in page and "30 dB or\nmore" in page and "30 dB</text>" in page
    assert "@media print" in page and "print-color-adjust: exact" in page
    low, high = (1000 * content.cost.instructions * cycles / 64e6 for cycles in (1.0, 1.5))
    assert f"{low:.0f}–{high:.0f} ms" in page and "1.0 to 1.5 cycles an instruction at 64 MHz: assumed" in page
    assert [_ticks(top) for top in (40.0, 69888, 1)] == [[0, 10, 20, 30, 40], [20000 * i for i in range(4)],
                                                         pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])]


def test_pages_are_reproducible_and_bear_no_date(content, page, tmp_path):
    dark = np.random.default_rng(1).integers(0, 60, (2, 16, 24, 3)).astype(np.uint8)
    write_html(tmp_path / "again.html", content, names=("one", "two"), dark=dark, bright=dark * 4)
    assert (tmp_path / "again.html").read_text() == page


def test_a_report_without_truth_and_layers(content, tmp_path):
    rows = [dataclasses.replace(row, psnr=None) for row in content.rows]
    bare = dataclasses.replace(content, rows=rows, layers=[], layers_note="too large")
    write_html(tmp_path / "r.html", bare, names=("one",), dark=np.zeros((1, 16, 24, 1), np.uint8), bright=None)
    assert "No layers were compared: too large." in (tmp_path / "r.html").read_text()


def test_rounding_to_levels():
    assert to_levels(np.array([-1.0, 0.0, 0.5 / 255 - 1e-9, 0.5 / 255 + 1e-9, 1.0, math.inf])).tolist() == [
        0, 0, 0, 1, 255, 255]


def test_a_stage_without_finite_values_can_be_written(tmp_path):
    """It is a verdict, not a crash."""
    change = compare(np.zeros(3, np.float32), np.array([0, np.nan, 1], np.float32))
    row = _json_row(Row("TFLite int8", "TFLite float32", change, change, tolerance=Tolerance("max", 1e-4)))
    assert json.loads(json.dumps(row, allow_nan=False))["change"]["max"] is None and row["passed"] is False
