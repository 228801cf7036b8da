"""The filters and the width of the leaderboard in a real browser; skipped where Chromium or its driver is missing."""

import shutil
from pathlib import Path

import pytest

from ovbench.results.leaderboard.site import write_site
from ovbench.results.record_files import find_records

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
RECORDS = find_records(Path(__file__).parents[2] / "results" / "mini")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on PATH"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "new"
    write_site(RECORDS, out)
    return out


@pytest.fixture(scope="module")
def driver():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def shown(driver):
    script = "return [...document.querySelectorAll('#rows tbody tr')].filter(r => !r.hidden).map(r => r.innerText)"
    return driver.execute_script(script)


def until(driver, holds):
    WebDriverWait(driver, 10, poll_frequency=0.02).until(lambda _: holds(shown(driver)))


def open_whole(driver, page):
    """Open a page; on a busy machine the driver may return before it is parsed."""
    driver.get(page.as_uri())
    script = "return location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(driver, 10, poll_frequency=0.02).until(lambda _: driver.execute_script(script, page.as_uri()))


def test_filters_and_order(site, driver):
    open_whole(driver, site / "index.html")
    everything = shown(driver)
    assert len(everything) > 400
    Select(driver.find_element(By.NAME, "weights")).select_by_visible_text("networks of mini")
    scores = {f.record["cell"]["method"]: f.record["metrics"]["mIoU"] for f in RECORDS
              if f.record["cell"]["dataset"] == "mini-bg"}  # fmt: skip
    ranked = sorted(scores, key=scores.get, reverse=True)
    until(driver, lambda rows: len(rows) == len(ranked))
    Select(driver.find_element(By.NAME, "sort")).select_by_visible_text("mini-bg")
    until(driver, lambda rows: [text.split("\t")[0] for text in rows] == ranked)
    Select(driver.find_element(By.NAME, "towers")).select_by_visible_text("DINOv2")
    with_dinov2 = {f.record["cell"]["method"] for f in RECORDS if "dinov2" in f.record["cell"]["backbones"]}
    until(driver, lambda rows: {text.split("\t")[0] for text in rows} == with_dinov2)
    driver.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    driver.find_element(By.NAME, "text").send_keys("corrclip readme")
    until(driver, lambda rows: rows == [])
    driver.find_element(By.NAME, "text").clear()
    driver.find_element(By.NAME, "text").send_keys("CorrCLIP")
    until(driver, lambda rows: 5 < len(rows) < 100)
    assert driver.find_element(By.ID, "count").text.endswith(f" of {len(everything)} rows")
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("page", ["index.html", "methods/corrclip.html", "benchmarks/mini.html", "cost.html"])
def test_pages_fit_a_telephone(site, driver, page):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    open_whole(driver, site / page)
    try:
        assert 300 < driver.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
