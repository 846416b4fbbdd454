"""HTML report of a run log: charts, invalid records and errors."""

import json
import re
from html.parser import HTMLParser

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.training import html_report


def line(step, **values):
    entry = {"time": 1000.0 + 10 * step, "step": step, "epoch": step / 10, "loss": 3 - step / 100}
    entry |= {"imagesPerSecond": 640.0, "learningRate": 0.1, "top1": None, "top5": None, "rawTop1": None}
    return json.dumps(entry | {"rawTop5": None, "phaseFractions": {"compute": 0.75, "data_wait": 0.25}} | values)


def report(folder, lines, *more):
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return main(["report", str(folder), "--output", str(folder / "page.html"), *more])


class Balanced(HTMLParser):
    """Fails if an element is closed that is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in {"src", "href", "xlink:href"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    parser = Balanced()
    parser.feed(text)
    assert not parser.open
    return parser


def test_html_report_shows_run_without_external_files(tmp_path, capsys):
    """The page has the run's numbers and charts, and loads no other resource."""
    lines = [line(step, **({"top1": step / 100, "top5": 0.9} if step % 10 == 0 else {})) for step in range(1, 51)]
    assert report(tmp_path, lines, "--title", "Digits <1>") == 0
    assert "50 entries up to step 50" in capsys.readouterr().out
    text = (tmp_path / "page.html").read_text()
    assert not parsed(text).addresses
    assert "url(" not in text
    assert "<script" not in text
    assert "Digits &lt;1&gt;" in text
    assert "50.00% after epoch 5.00" in text
    assert "compute 75.0%" in text
    # Loss, top-1, top-5, images/s, learning rate.
    assert text.count("<polyline") == 5
    assert "0:08:10" in text


def test_html_report_lines_stay_inside_chart(tmp_path):
    """Covers losses that span 29 orders of magnitude."""
    report(tmp_path, [line(step, loss=(-1) ** step * 10.0**step) for step in range(1, 30)])
    places = re.findall(
        r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'points="([^"]*)"', (tmp_path / "page.html").read_text()))
    )
    assert all(0 <= float(x) <= 720 and 0 <= float(y) <= 260 for x, y in places)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-12, 1e12])
def test_html_report_constant_value_drawn(tmp_path, value):
    """A constant value is drawn as a line."""
    assert report(tmp_path, [line(1, loss=value), line(2, loss=value)]) == 0
    text = (tmp_path / "page.html").read_text()
    parsed(text)
    # Loss, images/s, learning rate.
    assert text.count("<polyline") == 3


def test_html_report_long_run_stays_below_200_kb(tmp_path):
    """20,000 records are downsampled."""
    report(tmp_path, [line(step) for step in range(1, 20_001)])
    assert (tmp_path / "page.html").stat().st_size < 200_000


def test_html_report_missing_values_not_recorded(tmp_path):
    """A quantity without any value is shown as not recorded."""
    nothing: dict[str, object] = {"loss": None, "imagesPerSecond": None, "learningRate": None, "phaseFractions": {}}
    assert report(tmp_path, [line(1, **nothing)]) == 0
    assert (tmp_path / "page.html").read_text().count("not recorded") == 5


def test_html_report_invalid_lines_skipped_and_counted(tmp_path, capsys):
    """Truncated and invalid lines are skipped, and their number is printed."""
    strange = ["{", "[]", "7", '{"step": "x", "epoch": 1}', '{"step": 1}', '{"step": 1, "epoch": NaN}', "\x00\xff"]
    assert report(tmp_path, [line(1), *strange, line(2, loss=float("nan"), phaseFractions=[1]), line(3)[:-20]]) == 0
    captured = capsys.readouterr()
    assert "2 entries" in captured.out
    assert "skipped 8 unparsable lines" in captured.err


@pytest.mark.parametrize("values", [{"time": 1e200}, {"time": -5}, {"loss": 10**400}, {"time": "noon", "loss": [1]}])
def test_html_report_values_out_of_range_dropped(tmp_path, values):
    """An invalid value is dropped; the other values of its record stay."""
    assert report(tmp_path, [line(1), line(2, **values), line(3)]) == 0
    first, odd, last = html_report.read(tmp_path / "log.jsonl").entries
    assert [entry.time for entry in (first, last)] == [1010.0, 1030.0]
    assert odd.values.get("loss") == (None if "loss" in values else 2.98)
    assert odd.time == (None if "time" in values else 1020.0)


def test_html_report_repeated_step_counts_once(tmp_path):
    """If a step was repeated after a resume, its last record counts."""
    (tmp_path / "log.jsonl").write_text("\n".join([line(1), line(2, loss=9.0), line(2, loss=1.0), line(3)]))
    log = html_report.read(tmp_path / "log.jsonl")
    assert [entry.step for entry in log.entries] == [1, 2, 3]
    assert log.entries[1].values["loss"] == 1.0


def test_shares_weighted_by_time_within_attempts():
    """Phase shares are weighted by time; the time between two attempts does not count."""

    def entry(time, **shares):
        return html_report.LogRecord(int(time), time, time, {}, shares)

    even = [entry(0, compute=1.0), entry(10, compute=0.5, compile=0.5), entry(20, compute=1.0), entry(30, compute=1.0)]
    assert html_report.phase_fractions(even) == {"compute": 0.875, "compile": 0.125}
    late = [*even, entry(100_000, checkpoint=1.0)]
    assert html_report.phase_fractions(late)["checkpoint"] == pytest.approx(100 / 140)


@pytest.mark.parametrize("content", [None, "", "\n\n", "no log\n", "[1, 2]\n"])
def test_report_without_log_exits_3(tmp_path, capsys, content):
    """No page is written if there is no valid log."""
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 3
    assert "log.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_report_unwritable_output_exits_1(tmp_path, capsys):
    """The message names the output file."""
    (tmp_path / "log.jsonl").write_text(line(1))
    assert main(["report", str(tmp_path), "--output", "/nowhere/page.html"]) == 1
    assert "/nowhere/page.html" in capsys.readouterr().err
