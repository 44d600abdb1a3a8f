"""Every notebook in JupyterLab, in a real browser: run all, move each control to both ends, look at what changes.

``make test-browser`` runs it (Debian's or your own Chromium or Chrome, found on the path); plain ``pytest`` skips it.
Screenshots lie in ``runs/browser``.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from dmplus import course, notebooks

pytestmark = pytest.mark.skipif(os.environ.get("DMPLUS_BROWSER") != "1", reason="a browser: make test-browser")
ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "runs" / "browser"
NAMES = notebooks.notebook_names(ROOT / "notebooks")
CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets
    .filter(c => c.model.type === 'code')
    .map(c => ({
        count: c.model.executionCount,
        outputs: c.model.outputs.toJSON().map(o => o.output_type + ' ' + (o.evalue || '')),
    }))"""
READY = """async () => {
    await window.jupyterapp.restored;
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready; await panel.revealed; await panel.sessionContext.ready;
}"""
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code')
    .flatMap(c => c.model.outputs.toJSON().map(
        o => Object.keys(o.data || {}).join() + ' ' + String(o.text || '').slice(0, 60)))"""
BUSY = "() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the notebooks: nothing that is committed changes."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # cells out of sight stay there
    port = free_port()
    log = (folder / "log").open("w")
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        course.RUN_FOLDER: str(folder / "runs"),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--expose-app-in-browser",
         f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=x", "--LabApp.news_url=None",
         "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
        stdout=log, stderr=log, env=environment, cwd=folder,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api?token=x", timeout=2).read()
            break
        except OSError:
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
    yield address, folder
    server.terminate()
    server.wait(20)
    log.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as p:
        instance = p.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
        )
        yield instance
        instance.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield context.new_page()
    context.close()


def run_all(page, address: str, name: str, *, minutes: float = 6) -> None:
    """Open a notebook, run every cell, and wait for the last one; fails on the first error."""
    # reset: or the notebook of the test before comes back and is in front
    page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?token=x&reset")
    page.wait_for_function(
        "name => window.jupyterapp?.shell?.currentWidget?.context?.path?.endsWith(name)"
        " && window.jupyterapp.shell.currentWidget.content.widgets.length > 5",
        arg=f"{name}.ipynb",
        timeout=60_000,
    )
    page.wait_for_function(f"() => ({BUSY})() === 'idle'", timeout=60_000)
    page.evaluate(READY)
    for _ in range(20):  # commands act on the notebook in front, which takes a moment to be there
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        if not any(c["count"] for c in page.evaluate(CELLS)):
            break
        page.wait_for_timeout(500)
    assert not any(c["count"] for c in page.evaluate(CELLS))  # or the committed counts would pass for new ones
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    until = time.monotonic() + 60 * minutes
    page.wait_for_timeout(3000)
    while time.monotonic() < until:
        cells = page.evaluate(CELLS)
        errors = [o for c in cells for o in c["outputs"] if o.startswith("error")]
        assert not errors, errors
        if page.evaluate(BUSY) == "idle" and all(c["count"] for c in cells):
            counts = [c["count"] for c in cells]
            if counts == list(range(counts[0], counts[0] + len(counts))):
                return
        page.wait_for_timeout(1000)
    raise AssertionError(f"{name}: not done after {minutes} minutes")


def settle(page, box=None, before=None) -> None:
    """Wait until what a widget shows is no longer ``before`` (10 s at most) and has stopped changing."""
    until = time.monotonic() + 10
    while box is not None and look(box) == before and time.monotonic() < until:
        page.wait_for_timeout(100)
    page.wait_for_timeout(250)
    page.wait_for_function(f"() => ({BUSY})() === 'idle'", timeout=60_000)
    until = time.monotonic() + 5  # a picture may come some moments after the kernel is done, however long that took
    while box is not None and time.monotonic() < until:
        seen = look(box)
        page.wait_for_timeout(300)
        if look(box) == seen:
            return


def look(box) -> tuple[str, bytes]:
    """What a widget says, and its pixels."""
    words = box.locator(".widget-html-content, img").evaluate_all(
        "all => all.map(e => e.alt || e.innerText).join(' | ')"
    )
    return words, box.screenshot()


def pictures(box) -> list[bytes]:
    return [image.screenshot() for image in box.locator("img").all()]


@pytest.mark.parametrize("name", NAMES)
def test_every_control_of_a_notebook_changes_what_it_shows(lab, browser, page, name):
    address, _ = lab
    run_all(page, address, name)
    boxes = page.locator(".jp-OutputArea-output .widget-vbox:visible")
    SHOTS.mkdir(parents=True, exist_ok=True)
    try:
        boxes.first.wait_for(timeout=20_000)  # drawn some moments after the cell has run
    except Exception:
        page.screenshot(path=SHOTS / f"{name}_failed.png", full_page=True)
        print(page.evaluate(OUTPUTS))
        raise
    settle(page, boxes.last, ("", b""))
    outer = [b for b in boxes.all() if b.evaluate("e => !e.parentElement.closest('.widget-vbox')")]
    assert outer, f"{name} has no widget"
    moved = []
    for number, box in enumerate(outer):
        box.scroll_into_view_if_needed()
        (SHOTS / f"{name}_{number}.png").write_bytes(box.screenshot())
        for handle in box.locator("[role=slider]").all():
            ends = []
            for key in ("Home", "End"):
                before, value = look(box), handle.get_attribute("aria-valuenow")
                handle.focus()
                handle.press(key)
                page.wait_for_timeout(100)
                if handle.get_attribute("aria-valuenow") != value:  # else it stood there
                    settle(page, box, before)
                ends.append((handle.get_attribute("aria-valuenow"), *look(box), pictures(box)))
            assert ends[0][0] != ends[1][0], f"{name}: a slider that does not move"
            assert ends[0][1] != ends[1][1] and ends[0][3] != ends[1][3], f"{name}: a slider without effect"
            moved.append("slider")
        for group in box.locator(".widget-toggle-buttons").all():
            seen = []
            for button in (group.locator("button").last, group.locator("button").first):
                before, chosen = look(box), "mod-active" in (button.get_attribute("class") or "")
                button.click()
                settle(page, box, None if chosen else before)
                seen.append((*look(box), pictures(box)))
            assert seen[0][0] != seen[1][0] and seen[0][2] != seen[1][2], f"{name}: buttons without effect"
            moved.append("buttons")
        for choice in box.locator("select").all():
            n = choice.locator("option").count()
            seen = []
            for index in (n - 1, min(1, n - 1)):
                before = look(box)
                choice.select_option(index=index)
                settle(page, box, before)
                seen.append(box.screenshot())
            assert n < 3 or seen[0] != seen[1], f"{name}: a list without effect"
            moved.append("list")
        for image in box.locator("img").all():
            before = look(box)
            area = image.bounding_box()
            image.click(position={"x": area["width"] * 0.5, "y": area["height"] * 0.5})
            page.wait_for_timeout(1000)  # not every picture answers
            moved.append("click" if look(box)[0] != before[0] else "picture")
        (SHOTS / f"{name}_{number}_moved.png").write_bytes(box.screenshot())
    print(json.dumps({name: moved}))


@pytest.mark.skipif("03_temporal_prior_ablation" not in NAMES, reason="the prior is moved in notebook 03")
def test_a_prior_is_moved_by_its_slider(lab, page):
    address, _ = lab
    run_all(page, address, "03_temporal_prior_ablation")
    SHOTS.mkdir(parents=True, exist_ok=True)
    box = page.locator(".jp-OutputArea-output .widget-vbox:visible").last
    box.wait_for(timeout=20_000)
    box.scroll_into_view_if_needed()
    handle = box.locator("[role=slider]").first
    seen = []
    for key, words in (("End", "prior moved 6 mm to the right"), ("Home", "prior moved 0 mm to the right")):
        before = look(box)
        handle.focus()
        handle.press(key)
        settle(page, box, before)
        said = box.locator(".widget-html-content").first.inner_text()
        assert words in said and "channel" in said and "path" in said
        seen.append((said, pictures(box)))
        (SHOTS / f"03_moved_{key.lower()}.png").write_bytes(box.screenshot())
    assert seen[0][1] != seen[1][1]


@pytest.mark.skipif("04_ensemble_triage" not in NAMES, reason="the review board is in notebook 04")
def test_a_review_is_played_to_its_csv_and_goes_on_after_a_restart(lab, page):
    address, folder = lab
    for old in (folder / "runs").glob("decisions_*.csv"):
        old.unlink()
    run_all(page, address, "04_ensemble_triage")
    total = None
    for decision in ("Accept", "Later", "Reject"):
        box = page.locator(".widget-vbox", has=page.get_by_role("button", name="Accept", exact=True)).last
        button = box.get_by_role("button", name=decision, exact=True)
        if button.is_disabled():
            break
        before, pixels = look(box), pictures(box)
        button.click()
        settle(page, box, before)
        assert pictures(box) != pixels
        (kept,) = (folder / "runs").glob("decisions_*.csv")
        table = pd.read_csv(kept, keep_default_na=False)
        total = len(table)
        assert decision.lower() in set(table["decision"])
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    page.wait_for_timeout(3000)
    run_all(page, address, "04_ensemble_triage")
    box = page.locator(".widget-vbox", has=page.get_by_role("button", name="Accept", exact=True)).last
    words = box.locator(".widget-html-content").first.inner_text()
    assert "1 accepted" in words and total is not None
    for _ in range(total + 1):
        button = box.get_by_role("button", name="Reject", exact=True)
        if button.is_disabled():
            break
        before = look(box)
        button.click()
        settle(page, box, before)
    decided = pd.read_csv(kept, keep_default_na=False)["decision"]
    assert decided.isin(["accept", "reject"]).all() and (decided == "accept").sum() == 1
    (SHOTS / "04_reviewed.png").write_bytes(box.screenshot())
