"""The report in a real browser: nothing leaves the page, charts show what the log says, names are only text.

Screenshots at the width of a desk and of a phone go to build/report/.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import pytest
from support import timings
from support.verbs import run_verb

from covalent_sshtiming.timing.record import TimingRecord

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHOTS = Path(__file__).parents[1] / "build" / "report"
DESK, PHONE = (1280, 900), (390, 844)
TASKS = [one for one in timings.records() if one.kind == "electron"]
KNOWN = [one for one in TASKS if one.phase_call_wall_s is not None]

Opened = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return headless Chromium: the system's, or playwright's own."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ModuleNotFoundError:
        missing("playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            sandbox = [] if os.getuid() else ["--no-sandbox"]  # root can have none
            started = playwright.chromium.launch(executable_path=found, args=sandbox)
        except Error as error:
            missing(f"no Chromium was found: {error.message.splitlines()[0]}")
        yield started
        started.close()


def missing(why: str) -> NoReturn:
    """Skip for want of a browser; fail where SSHTIMING_REQUIRE_BROWSER=1 asks for one."""
    if os.environ.get("SSHTIMING_REQUIRE_BROWSER") == "1":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Return a function that opens a page; at the end no page may have complained or asked for anything."""
    said: list[str] = []
    asked: list[str] = []

    def open_page(path: Path, size: tuple[int, int] = DESK, scheme: str = "light") -> Page:
        dark: Literal["dark", "light"] = "dark" if scheme == "dark" else "light"
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=dark)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("file:///") or not url.endswith(".html")] == []


def report_of(made: list[TimingRecord], place: Path, *more: str) -> Path:
    """Write a report of these records; return its path."""
    timings.write(place / "log.jsonl", made)
    ran = run_verb("report", "-o", "out.html", "log.jsonl", *more, home=place)
    assert (ran.out, ran.code) == ("", 0), ran.err
    return place / "out.html"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of the 2,000 tasks."""
    return report_of(timings.records(), tmp_path_factory.mktemp("report"))


def rows(page: Page, field: str) -> list[str]:
    """Return a column of the table's page."""
    heads = page.locator("#tasks th").evaluate_all("all => all.map(one => one.dataset.field)")
    return page.locator(f"#tasks tbody td:nth-child({heads.index(field) + 1})").all_inner_texts()


def totals(page: Page) -> dict[str, str]:
    """Return the tiles at the top."""
    names = page.locator("#totals dt").all_inner_texts()
    return dict(zip(names, page.locator("#totals dd").all_inner_texts(), strict=True))


def wait_for_tasks(page: Page, count: int) -> None:
    """Wait until so many tasks are seen."""
    from playwright.sync_api import expect

    expect(page.locator("#totals dd").first).to_have_text(str(count))


def test_the_file_needs_nothing_else(page_file: Path) -> None:
    """The page names no other address, and its policy allows no request."""
    text = page_file.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert len(text) < 500_000


def test_totals_are_those_of_the_log(opened: Opened, page_file: Path) -> None:
    """The page counts what `stats` counts."""
    found = totals(opened(page_file))
    ran = run_verb("stats", "--json", str(page_file.parent / "log.jsonl"), home=page_file.parent)
    groups = json.loads(ran.out)
    assert found["Tasks"] == str(sum(group["count"] for group in groups)) == str(len(TASKS))
    assert found["Failed"] == str(sum(group["failed"] for group in groups))
    hours = sum(group["cpu_s_total"] for group in groups) / 3600
    assert found["CPU time"] == f"{hours:.1f} h"


def test_the_timeline_has_a_bar_for_each_part_of_each_task(opened: Opened, page_file: Path) -> None:
    """Each machine has as many run, queue and transfer bars as its tasks have such parts."""
    page = opened(page_file)
    for host, count in Counter(one.host or "" for one in KNOWN).items():
        group = page.locator(f"#timeline g[data-host='{host}']")
        assert group.get_attribute("data-tasks") == str(count)
        drawn = {}
        for kind in ("run", "failed", "queue", "transfer"):
            path = group.locator(f"path.{kind}").get_attribute("d") or ""
            drawn[kind] = path.count("M")
        whole = sum(one.status == "completed" and one.host == host for one in KNOWN)
        assert drawn == {"run": whole, "failed": count - whole, "queue": count, "transfer": 2 * count}


def test_bars_are_as_long_as_the_phases(opened: Opened, page_file: Path) -> None:
    """Of one task, queue and run have the proportion of its figures, one after the other."""
    page = opened(page_file)
    one = max(KNOWN, key=lambda one: min(one.phase_queue_wall_s or 0, one.phase_call_wall_s or 0))
    page.fill("#text", one.record_id or "")
    wait_for_tasks(page, 1)

    def bar(kind: str) -> tuple[float, float]:
        path = page.locator(f"#timeline path.{kind}").get_attribute("d") or ""
        match = re.match(r"M([\d.]+) [\d.]+h([\d.]+)", path)
        assert match
        return float(match[1]), float(match[2])

    (queue_at, queue_long), (run_at, run_long) = bar("queue"), bar("run")
    names = ("start", "before", "load", "call", "after", "dump", "exit")
    run = sum(getattr(one, f"phase_{name}_wall_s") for name in names)
    assert queue_long / run_long == pytest.approx((one.phase_queue_wall_s or 0) / run, rel=0.01)
    assert run_at == pytest.approx(queue_at + queue_long, abs=0.3)


def test_sorting(opened: Opened, page_file: Path) -> None:
    """A click on a head sorts by it, a second one the other way; what is not known stays last."""
    page = opened(page_file)
    newest = max(TASKS, key=lambda one: one.submitted_at or "")
    assert rows(page, "record_id")[0] == (newest.record_id or "")[:8]
    known = sorted((one for one in TASKS if one.cpu_s is not None), key=lambda one: one.cpu_s or 0)
    page.click("#tasks th[data-field=cpu_s] button")
    assert page.get_attribute("#tasks th[data-field=cpu_s]", "aria-sort") == "descending"
    assert rows(page, "record_id") == [(one.record_id or "")[:8] for one in known[:-51:-1]]
    page.click("#tasks th[data-field=cpu_s] button")
    assert rows(page, "record_id") == [(one.record_id or "")[:8] for one in known[:50]]
    page.click("#tasks th[data-field=function] button")
    assert set(rows(page, "function")) == {min(one.function or "" for one in TASKS)}
    page.click("#next")
    assert page.inner_text("#page") == "2 of 38"


def test_filtering(opened: Opened, page_file: Path) -> None:
    """Text, machine and status leave what fits in table, totals and charts; reset brings all back."""
    page = opened(page_file)
    page.fill("#text", "ANNEAL")
    mine = [one for one in TASKS if one.function == "anneal"]
    wait_for_tasks(page, len(mine))
    assert set(rows(page, "function")) == {"anneal"}
    page.select_option("#host", label="build02")
    page.select_option("#status", label="failed")
    mine = [one for one in mine if one.host == "build02" and one.status == "failed"]
    wait_for_tasks(page, len(mine))
    assert sorted(rows(page, "record_id")) == sorted((one.record_id or "")[:8] for one in mine)
    assert page.locator("#timeline g[data-host]").count() == 1
    assert page.locator("#spread g").count() == 0  # none completed
    page.fill("#text", "no such thing")
    page.wait_for_selector("#nothing:visible")
    page.click("#reset")
    wait_for_tasks(page, len(TASKS))


def test_phases_of_a_picked_task(opened: Opened, page_file: Path) -> None:
    """A click on a row shows that task's phases and marks it in the timeline; a second click leaves it."""
    page = opened(page_file)
    assert page.inner_text("#phases-title") == f"Phases, mean of {len(TASKS)} tasks"
    one = max(KNOWN, key=lambda one: one.cpu_s or 0)
    page.click("#tasks th[data-field=cpu_s] button")
    page.click("#tasks tbody tr >> nth=0")
    assert page.inner_text("#phases-title") == f"Phases of {one.function} on {one.host}, {one.status}"
    widths = page.locator("#phases .bar").evaluate_all("all => all.map(one => parseFloat(one.style.width))")
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert max(widths) == widths[6]  # the call
    assert page.locator("#timeline rect.picked").count() == 1
    page.click("#tasks tbody tr >> nth=0")
    assert page.locator("#timeline rect.picked").count() == 0


def test_zooming(opened: Opened, page_file: Path) -> None:
    """Dragging across a part of the timeline shows that part, and "Whole" everything again."""
    page = opened(page_file)
    tasks = "all => all.map(one => Number(one.dataset.tasks)).reduce((a, b) => a + b, 0)"
    group = page.locator("#timeline g[data-host]")
    assert group.evaluate_all(tasks) == len(KNOWN)
    box = page.locator("#timeline svg").bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 200)
    page.mouse.up()
    zoomed = group.evaluate_all(tasks)
    assert 0 < zoomed < len(KNOWN) / 4
    page.click("[data-zoom=all]")
    assert group.evaluate_all(tasks) == len(KNOWN)
    page.click("[data-zoom=in]")
    assert group.evaluate_all(tasks) < len(KNOWN)


def test_scatter_and_spread_show_every_function(opened: Opened, page_file: Path) -> None:
    """Each task with both times is a dot, and each function has its median in the distribution."""
    page = opened(page_file)
    paths = page.locator("#scatter path.dots").evaluate_all("all => all.map(one => one.getAttribute('d'))")
    assert sum(path.count("M") for path in paths) == sum(1 for one in TASKS if one.cpu_s and one.wall_s)
    ran = run_verb("stats", "--json", str(page_file.parent / "log.jsonl"), home=page_file.parent)
    medians = {group["function"]: group["cpu_s_median"] for group in json.loads(ran.out)}
    for name, median in medians.items():
        shown = page.locator(f"#spread g[data-function='{name}']").get_attribute("data-median")
        assert float(shown or 0) == pytest.approx(median, rel=1e-6)


HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src="http://127.0.0.1:9/x" onerror="alert(2)">',
    "<!--<script>",
    "{{script}}{{data}}",
    "${alert(3)}`",
    "__proto__",
    "constructor",
    "]]>&lt;b&gt;\\u003c'\"",
    "ü\u2028é" + "x" * 300,
)


def test_names_are_only_text(opened: Opened, tmp_path: Path) -> None:
    """Names that are markup, script or a template's words run nothing, ask for nothing, and are shown."""
    made = [
        TimingRecord(
            record_id=f"{number}",
            function=name,
            host=name,
            dispatch_id=name,
            status="completed",
            kind="electron",
            submitted_at=f"2026-11-24T08:00:0{number}Z",
            cpu_s=1.0,
            wall_s=1.0,
            phase_call_wall_s=1.0,
        )
        for number, name in enumerate(HOSTILE)
    ]
    page = opened(report_of(made, tmp_path, "--title", HOSTILE[0]))
    wait_for_tasks(page, len(HOSTILE))
    read = [name.replace("\u2028", "") for name in HOSTILE]  # as any record is read
    assert sorted(rows(page, "function")) == sorted(read)
    page.locator("#timeline path.run").first.hover(force=True)
    assert page.inner_text("#tip").splitlines()[0].endswith(", completed")
    assert page.locator("h1").inner_text() == HOSTILE[0]
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    page.select_option("#host", label="__proto__")
    wait_for_tasks(page, 1)


@pytest.mark.parametrize("made", [[], [TimingRecord(kind="electron")]], ids=["no task", "a task of holes"])
def test_a_log_without_figures(opened: Opened, tmp_path: Path, made: list[TimingRecord]) -> None:
    """A log with nothing in it, or with nothing known, is a page that says so."""
    page = opened(report_of(made, tmp_path))
    assert totals(page)["Tasks"] == str(len(made))
    assert page.locator("#nothing").is_visible() == (not made)
    assert page.locator("#timeline g[data-host]").count() == 0


def test_a_log_of_sentences(opened: Opened, tmp_path: Path) -> None:
    """Sentences make totals and distribution as `stats` has; what they do not say is neither 0 nor red."""
    lines = [f"{one.sentence()}\n" for one in TASKS[:60] if one.cpu_s is not None]
    (tmp_path / "cpu.log").write_text("".join(lines))
    assert run_verb("report", "-o", "out.html", "cpu.log", home=tmp_path).code == 0
    page = opened(tmp_path / "out.html")
    assert totals(page)["Tasks"] == str(len(lines))
    assert {totals(page)[name] for name in ("Wall time", "In queues", "Efficiency")} == {"-"}
    (group,) = json.loads(run_verb("stats", "--json", "cpu.log", home=tmp_path).out)
    shown = page.locator("#spread g[data-function='-']").get_attribute("data-median")
    assert float(shown or 0) == pytest.approx(group["cpu_s_median"], rel=1e-6)
    assert page.locator("#tasks td.failed").count() == 0
    assert page.inner_text("#timeline") == "No task with a known time."
    assert page.inner_text("#phases") == "No phase is known."


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize(("least", "most"), [(0.25, 0.25), (0.2, 0.9), (3.0, 40.0), (1e-6, 8e5)])
def test_axes_have_labels_that_do_not_touch(
    opened: Opened, tmp_path: Path, size: tuple[int, int], least: float, most: float
) -> None:
    """Whatever the tasks took, each axis has labels, and room between them; one task is "1 task"."""
    one = next(one for one in TASKS if one.status == "completed")
    made = [replace(one, cpu_s=cost, wall_s=cost, record_id=str(cost)) for cost in sorted({least, most})]
    page = opened(report_of(made, tmp_path), size)
    if len(made) == 1:
        assert page.inner_text("#phases-title") == "Phases, mean of 1 task"
        assert page.inner_text("#about").startswith("1 task, submitted ")
    measure = "all => all.map(one => [one.getAttribute('text-anchor'), one.getBoundingClientRect().toJSON()])"
    for chart, ways in (("scatter", ("left", "top")), ("spread", ("left",))):
        labels = page.locator(f"#{chart} text", has_text=re.compile(r"^[\d.]+ (µs|ms|s|min|h|d)$"))
        places = labels.evaluate_all(measure)
        for way, anchor, length in zip(ways, ("middle", "end"), ("width", "height"), strict=False):
            found = sorted((box[way], box[length]) for kind, box in places if kind == anchor)
            assert len(found) >= 2
            assert all(a + long < b for (a, long), (b, _) in itertools.pairwise(found))
    assert page.locator("#scatter text", has_text="CPU time").count() == 1


def test_many_gaps_do_not_hatch_the_timeline(opened: Opened, tmp_path: Path) -> None:
    """A year of single tasks has lines at squeezed time as far as they can be told apart."""
    made = [
        replace(one, submitted_at=f"2026-{1 + n // 28:02}-{1 + n % 28:02}T08:00:00.000000Z")
        for n, one in enumerate(KNOWN[:300])
    ]
    page = opened(report_of(made, tmp_path))
    assert page.locator("#timeline g[data-host]").count() == 3
    assert 10 < page.locator("#timeline .grid[stroke-dasharray]").count() <= DESK[0] / 16


@pytest.mark.parametrize(("name", "size"), [("desk", DESK), ("phone", PHONE)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widths_and_colours(
    opened: Opened, page_file: Path, name: str, size: tuple[int, int], scheme: str
) -> None:
    """The page fits a desk's screen and a phone's without scrolling sideways, light and dark."""
    page = opened(page_file, size, scheme)
    wait_for_tasks(page, len(TASKS))
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == (scheme == "dark")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-{scheme}.png", full_page=True)


def test_ten_thousand_tasks(opened: Opened, tmp_path: Path) -> None:
    """Ten thousand tasks are a handful of elements in each chart, and a page of fifty in the table."""
    made = timings.records(10_000)
    page = opened(report_of(made, tmp_path))
    wait_for_tasks(page, sum(one.kind == "electron" for one in made))
    assert page.locator("#timeline svg *").count() < 600
    assert page.locator("#scatter svg *").count() < 100
    assert page.locator("#tasks tbody tr").count() == 50
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "ten-thousand.png", full_page=True)
