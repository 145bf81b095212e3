"""The page in a real browser: nothing in its console, and hover, keys, slider, legend and links do what they say."""

import pytest
import torch
from browser import CHROMIUM, Browser
from stored_llc import store_llc
from sweep_runs import STEPS, record

import llc_dynamics as ld
from llc_dynamics.finding import Finding
from llc_dynamics.llc import Calibration, EstimateSettings
from llc_dynamics.llc.calibration import Trial
from llc_dynamics.report import pca_figures, write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

HOSTILE = "<img src=x onerror=document.title='gone'></script><script>document.title='gone'</script><!-- %{x} $a$"
# The pixel of the point of a trace, scrolled into view.
PIXEL = """(() => {
  const panel = document.getElementById("%s"), trace = panel.data.find(t => t.customdata && t.meta === "%s");
  panel.scrollIntoView({block: "center"});
  const k = trace.customdata.indexOf(%d), box = panel.getBoundingClientRect(), full = panel._fullLayout;
  return [box.left + full.xaxis._offset + full.xaxis.d2p(trace.x[k]),
          box.top + full.yaxis._offset + full.yaxis.d2p(trace.y[k])];
})()"""
RINGS = "[...document.querySelectorAll('[data-panel]')].filter(p => p.data[p.rings].x.length).map(p => p.id)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def made_up_calibration():
    """Two checkpoints at three gamma; at the finest one the chains of the later had not explored."""
    rungs = [(place, gamma) for place in ("0", "10000") for gamma in (1000.0, 300.0, 100.0)]
    of_all = {"kernel": "MALT", "nbeta": 100.0, "ratio": 3.0, "batch_size": 32, "virial": 0.99, "lowest_virial": 0.9}
    of_all |= {"highest_virial": 1.1, "acceptance": 0.8, "ess": 100.0, "draws": 200, "gradients": 2000}
    trials = [
        Trial(place, localization=gamma, llc=10.0, standard_error=0.4, explored=(place, gamma) != rungs[-1], **of_all)
        for place, gamma in rungs
    ]
    findings = (Finding("no_plateau", "no plateau was seen down to gamma = 100"),)
    return Calibration(EstimateSettings(), "behavioural", tuple(trials), findings, False, 12_000)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    runs = [record(folder / "runs" / f"M-{m:.0f}", m) for m in (2.0, 8.0)]
    store_llc(runs[0], [5.0, 20.0, 30.0], [0.5, 1.0, 1.0], [(), (), ()])
    store_llc(runs[1], [5.0, 20.0, 33.0, 60.0], [0.5, 1.0, 1.0, 2.0], [(), ("chains disagree",), (), ()])
    made_up_calibration().save(folder / "runs" / "calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pca_figures, "_SMALL_SHARE", 0.0)  # these runs move in a plane
        return write_report(folder / "runs", folder / "page.html")


@pytest.fixture
def opened(browser, page):
    browser.errors.clear()
    browser.open(page)
    yield browser
    assert browser.errors == []


def test_all_panels_are_drawn_from_a_file_without_a_network(opened):
    assert opened.run("location.protocol") == "file:"
    assert opened.run("document.querySelectorAll('[data-panel]').length") > 10
    assert opened.run("[...document.querySelectorAll('[data-panel]')].every(p => p.querySelector('.main-svg'))")
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    symbols = opened.run(
        "document.getElementById('panel-calibration-0').data.flatMap(t => t.text ? t.marker.symbol : [])"
    )
    assert [each for each in symbols if each == "circle-open"] == ["circle-open"]
    with pytest.raises(RuntimeError):  # and it could not ask for anything
        opened.run("fetch('http://127.0.0.1:1/')")
    opened.errors.clear()


def test_pointing_at_a_step_marks_it_in_all_figures_and_a_click_keeps_it(opened):
    step = int(STEPS[20])
    assert opened.run(RINGS) == []
    opened.pointer("mouseMoved", *opened.run(PIXEL % ("panel-ood-loss-0", "M = 8", step)))
    opened.wait(f"document.getElementById('marked').textContent === 'M = 8, step {step:,}'")
    wanted = {"panel-ood-loss-0", "panel-pca-1-2-0", "panel-pca-3d-0", "panel-components-0", "panel-losses-0"}
    opened.wait(f"{sorted(wanted)}.every(id => {RINGS}.includes(id))")
    place = "(p => p.data[p.rings].x[0] === p.data.find(t => t.meta === 'M = 8').x[20])(document.getElementById('%s'))"
    assert opened.run(place % "panel-pca-1-2-0")
    assert opened.run(place % "panel-pca-3d-0")
    opened.pointer("mouseMoved", 2, 2)
    opened.wait("document.getElementById('marked').textContent === ''")
    opened.wait(f"!{RINGS}.length")
    opened.pointer("mouseMoved", *opened.run(PIXEL % ("panel-llc-0", "M = 8", STEPS[-1])))
    opened.wait("document.getElementById('marked').textContent === 'M = 8, step 10,000'")
    opened.pointer("click", *opened.run(PIXEL % ("panel-llc-0", "M = 8", STEPS[-1])))
    opened.pointer("mouseMoved", 2, 2)
    opened.wait(f"{RINGS}.includes('panel-pca-1-2-0')")
    assert opened.run("document.getElementById('marked').textContent") == "M = 8, step 10,000"
    assert opened.run("document.getElementById('chain-step').textContent") == "step 10,000 (4 of 4)"


def test_keys_step_through_the_checkpoints_and_the_slider_through_llc_points(opened):
    opened.run("document.getElementById('panel-ood-loss-0').focus()")
    for _ in range(3):
        opened.key("ArrowRight")
    opened.wait(f"document.getElementById('marked').textContent === 'M = 2, step {STEPS[2]}'")
    opened.key("ArrowLeft")
    opened.wait(f"document.getElementById('marked').textContent === 'M = 2, step {STEPS[1]}'")
    opened.key("Escape")
    opened.wait("document.getElementById('marked').textContent === ''")
    chosen = "document.getElementById('chain-run').value = 'M = 8';"
    opened.run(chosen + "document.getElementById('chain-run').dispatchEvent(new Event('change'))")
    opened.run("document.getElementById('chain-point').focus()")
    opened.key("ArrowLeft")
    opened.key("ArrowLeft")
    opened.wait("document.getElementById('chain-step').textContent.endsWith('(2 of 4), did not converge')")
    assert "chains disagree" in opened.run("document.getElementById('chain-table').textContent")
    opened.wait("document.getElementById('panel-chains-0').data.some(t => t.y && t.y[0] === 20)")
    assert opened.run("document.getElementById('marked').textContent").startswith("M = 8, step ")


def test_legend_links_dark_colours_and_print(opened, page, tmp_path):
    key = "document.querySelector('#figure-ood-loss [data-line]')"
    opened.run(f"{key}.click()")
    panel = "document.getElementById('panel-ood-loss-0')"
    hidden = f"{panel}.data.filter(t => t.visible === false).map(t => t.legendgroup)"
    opened.wait(f"new Set({hidden}).size === 1 && {hidden}.includes('M = 2')")
    assert opened.run(f"{key}.getAttribute('aria-pressed')") == "false"
    opened.run("document.querySelector('nav a[href=\"#figure-llc\"]').click()")
    opened.wait("Math.abs(document.getElementById('figure-llc').getBoundingClientRect().top) < 40")
    assert opened.run("[...document.querySelectorAll('a')].every(a => document.querySelector(a.getAttribute('href')))")
    before = opened.run(f"{panel}.layout.font.color")
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    opened.wait(f"{panel}.layout.font.color !== '{before}'")
    opened.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    opened.open(page, width=400, dark=True)
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")


def test_a_run_with_weights_alone_has_a_page(browser, tmp_path):
    with ld.TrajectoryWriter(tmp_path / "bare", torch.nn.Linear(2, 1)) as writer:
        writer.record(0)
    browser.errors.clear()
    browser.open(write_report(tmp_path / "bare", tmp_path / "page.html"))
    assert "The runs hold nothing that can be drawn." in browser.run("document.body.innerText")
    assert browser.errors == []


def test_names_from_files_run_nothing(browser, tmp_path):
    description = {"axis": {"name": HOSTILE, "value": 1, "label": HOSTILE}, "words": HOSTILE}
    config = {HOSTILE: HOSTILE}
    with ld.TrajectoryWriter(tmp_path / "run", torch.nn.Linear(2, 1), config, description=description) as writer:
        for step in range(5):
            writer.record(step, metrics={"loss": 1.0 + step, HOSTILE[:60]: float(step)})
    store_llc(ld.Trajectory(tmp_path / "run"), [5.0, 20.0], [0.5, 1.0], [(HOSTILE,), ()])
    browser.errors.clear()
    browser.open(write_report(tmp_path / "run", tmp_path / "page.html"))
    browser.pointer("mouseMoved", *browser.run(PIXEL.replace('"%s"', "%r") % ("panel-losses-0", HOSTILE, 2)))
    browser.wait("document.getElementById('marked').textContent.endsWith('step 2')")
    browser.wait("document.querySelector('#panel-losses-0 .hoverlayer text') !== null")
    assert HOSTILE[:20] in browser.run("document.querySelector('#panel-losses-0 .hoverlayer').textContent")
    assert browser.run("document.title") == "How run developed"
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.errors == []
