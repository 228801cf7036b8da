"""The page of `ovbench report` in a real browser: load, filter, slide, turn pages, by keyboard too, and nothing else.

Needs selenium, Chromium and its driver (Debian: chromium, chromium-driver); skipped where they are not.
"""

import base64
import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from report_runs import random_counts, write_run

from ovbench.inference.visualize import palette
from ovbench.metrics.interval import image_iou
from ovbench.metrics.stacked import stack_counts
from ovbench.results.report import page as build
from ovbench.results.report.error_images import ErrorImage, InputImage, RelabelOptions
from ovbench.results.report.runs import gather

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on PATH"),
]

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
NAMES = ["sky", "grass", HOSTILE, "road", "tree", "rock", "snow"]
IMAGES, PICTURES = 50, 3
HEIGHT, WIDTH = 40, 60
IMAGE_COLOUR = (40, 90, 160)


def picture(image):
    """Truth: sky above grass, the first column not scored; prediction: sky everywhere."""
    pixels = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), IMAGE_COLOUR).save(pixels, format="JPEG", quality=95)
    truth = np.zeros((HEIGHT, WIDTH), np.uint16)
    truth[HEIGHT // 2 :] = 1
    truth[:, 0] = 65535
    sure = np.full((HEIGHT, WIDTH), 51, np.uint8)
    sure[:2] = 255
    return ErrorImage(image, InputImage(pixels.getvalue(), truth), np.zeros_like(truth), 5, truth.size, sure)


def labelled(run, ids, options, advance):
    run.files.update({image: f"images/{number:03d}.png" for number, image in enumerate(run.ids)})
    return [picture(image) for image in ids]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two runs of 50 images; three images of each have pictures."""
    folder = tmp_path_factory.mktemp("page")
    for seed, name in ((1, "first"), (0, "second")):  # the first has the higher mIoU
        counts = random_counts(np.random.default_rng(seed), IMAGES, len(NAMES))
        write_run(folder, counts, NAMES, ids=[f"{HOSTILE}/{n:03d}" for n in range(IMAGES)], name=name)
    runs = gather([folder])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "label_again", labelled)
        (folder / "page.html").write_bytes(build.build_page(runs, PICTURES, RelabelOptions()))
    return folder / "page.html", runs


@pytest.fixture(scope="module")
def chromium():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1400,1000", "--force-prefers-reduced-motion"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Shown:
    """The page as a user has it before them."""

    def __init__(self, driver, page):
        self.driver = driver
        driver.get(page.as_uri())
        self.until(lambda: driver.execute_script("return document.documentElement.dataset.shown") == "0")

    def until(self, holds):
        WebDriverWait(self.driver, 10, poll_frequency=0.02).until(lambda _: holds())

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def status(self):
        return self.one("#images-body [role=status]").text

    def rows(self):
        return [button.text for button in self.all("#images-body .split > div:first-child tbody th button")]

    def title(self):
        return self.one(".viewer h3").text

    def field(self, label):
        return self.one("#images-body .tools").find_element(By.XPATH, f".//label[starts-with(., '{label}')]/*")

    def filter(self, label, name):
        Select(self.field(label)).select_by_visible_text(name)

    def keys(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def pixel(self, x, y):
        url = self.driver.execute_script("return document.querySelector('.viewer canvas').toDataURL('image/png')")
        drawn = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
        return drawn.convert("RGB").getpixel((x, y))

    def requests(self):
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def shown(chromium, page):
    """The page, loaded again; afterwards: nothing on the console, nothing asked of any network, no name was run."""
    chromium.get_log("browser"), chromium.get_log("performance")
    made = Shown(chromium, page[0])
    made.runs = page[1]
    yield made
    assert chromium.get_log("browser") == []
    assert all(url.startswith(("file://", "data:image/jpeg")) for url in made.requests())
    assert chromium.title.startswith("ovbench: ")


def test_it_opens_with_the_worst_image(shown):
    shown.until(lambda: shown.one(".viewer canvas").is_displayed())
    assert len(shown.requests()) == 2  # the page itself, and one of its pictures: the others wait
    assert shown.status() == "50 images, page 1 of 3" and len(shown.rows()) == 20
    assert shown.title() == shown.rows()[0] and HOSTILE in shown.title()
    facts = shown.one(".viewer .quiet").text
    assert "place 1 of 50" in facts and "5 of 2,400 pixels" in facts
    assert len(shown.all("#classes-body tbody tr")) == len(NAMES)
    assert any(HOSTILE in row.text for row in shown.all("#classes-body tbody tr"))


def test_the_slider_shows_image_truth_prediction_and_errors(shown):
    shown.until(lambda: shown.one(".viewer canvas").is_displayed())
    slider = shown.one(".viewer input[type=range]")
    opacity = shown.all(".viewer input[type=range]")[1]
    opacity.send_keys(Keys.END)
    sky, grass = (tuple(colour) for colour in palette(len(NAMES))[:2].tolist())
    upper, lower, void = (WIDTH // 2, 2), (WIDTH // 2, HEIGHT - 2), (0, 2)
    assert slider.get_attribute("aria-valuetext") == "prediction"
    assert [shown.pixel(*place) for place in (upper, lower)] == [sky, sky]
    slider.send_keys(Keys.ARROW_LEFT)
    assert slider.get_attribute("aria-valuetext") == "truth"
    assert [shown.pixel(*place) for place in (upper, lower)] == [sky, grass]
    assert shown.pixel(*void) == pytest.approx(IMAGE_COLOUR, abs=3)
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "image"
    assert shown.pixel(*lower) == pytest.approx(IMAGE_COLOUR, abs=3)
    slider.send_keys(Keys.END)
    assert slider.get_attribute("aria-valuetext") == "confidence" and shown.one(".viewer .scale").is_displayed()
    assert sum(shown.pixel(WIDTH // 2, 1)) > 600 > 300 > sum(shown.pixel(*lower))  # sure and unsure
    slider.send_keys(Keys.ARROW_LEFT)
    assert slider.get_attribute("aria-valuetext") == "error" and not shown.one(".viewer .scale").is_displayed()
    right, wrong, unscored = (shown.pixel(*place) for place in (upper, lower, void))
    assert sum(wrong) > sum(right) and wrong[0] > 2 * wrong[2] and len({*unscored}) == 1
    shown.all(".viewer .views button")[1].click()
    assert slider.get_attribute("aria-valuetext") == "truth" and shown.pixel(*lower) == grass


def test_the_best_run_is_open_and_images_have_thumbnails(shown):
    assert shown.one("#run").get_attribute("value") == "0"
    scores = [run.record["metrics"]["mIoU"] for run in shown.runs]
    assert scores[0] == max(scores) and len({*scores}) == 2
    pictures = shown.all("#images-body .split tbody img.thumbnail")
    assert PICTURES <= len(pictures) <= 2 * PICTURES  # of both runs
    assert all(shown.driver.execute_script("return arguments[0].naturalWidth", one) == WIDTH for one in pictures)


def test_two_runs_stand_side_by_side_on_one_image(shown):
    shown.until(lambda: shown.one(".viewer canvas").is_displayed())
    assert len([one for one in shown.all(".viewer canvas") if one.is_displayed()]) == 1
    Select(shown.one("#other")).select_by_value("1")
    shown.until(lambda: shown.driver.execute_script("return document.documentElement.dataset.shown") == "0-1")
    id_of_both = {image for image in shown.title().splitlines()}
    shown.until(lambda: shown.all(".viewer canvas")[1].is_displayed())
    first, second = (one.text for one in shown.all(".viewer figcaption"))
    number = shown.runs[1].ids.index(*id_of_both)
    own = image_iou(stack_counts(shown.runs[1].counts, len(NAMES)))[number]
    assert f"mIoU {100 * own:.1f} %" in second and first != second


def test_the_list_is_saved_as_it_is_filtered(shown, tmp_path):
    shown.field("Name contains").send_keys("/04")
    shown.until(lambda: len(shown.rows()) == 10)
    script = """
        const make = URL.createObjectURL;
        return new Promise((done) => {
          URL.createObjectURL = (blob) => { blob.text().then(done); return make.call(URL, blob); };
          [...document.querySelectorAll("#images-body button")].find((b) => b.textContent.startsWith("Save")).click();
        });
    """
    rows = list(csv.DictReader(io.StringIO(shown.driver.execute_script(script))))
    assert [row["image"] for row in rows] == shown.rows()
    losses = [cell.text for cell in shown.all("#images-body .split > div:first-child tbody td:nth-child(2)")]
    assert [f"{100 * float(row['loss']):.3f}" for row in rows] == losses


def test_a_loss_opens_the_file_of_its_image(shown):
    links = [one.get_attribute("href") for one in shown.all("#images-body .split > div:first-child td:nth-child(2) a")]
    assert len(links) == 20 and all(link.startswith("file://") and link.endswith(".png") for link in links)


def test_a_pixel_is_named_and_a_class_stands_out(shown):
    shown.until(lambda: shown.one(".viewer canvas").is_displayed())
    canvas = shown.one(".viewer canvas")
    webdriver.ActionChains(shown.driver).move_to_element_with_offset(canvas, 0, canvas.size["height"] // 4).perform()
    assert shown.one(".viewer .reading").text == "truth: grass, prediction: sky (20 % sure)"
    switch = shown.one(".viewer .lists button")
    assert switch.get_attribute("aria-pressed") == "false"
    switch.click()
    assert switch.get_attribute("aria-pressed") == "true"


def test_filters_count_what_the_ledger_counts(shown):
    run = shown.runs[0]

    def with_error(truth, guess):
        return sum(((one.label == truth) & (one.predicted == guess)).any() for one in run.counts)

    shown.filter("True class", "grass")
    shown.filter("Predicted class", "road")
    assert shown.status().split(",")[0] == f"{with_error(1, 3)} images" and 0 < with_error(1, 3) < IMAGES
    shown.filter("Predicted class", "grass")  # twice the same: what was right
    assert shown.status().split(",")[0] == f"{with_error(1, 1)} images"
    shown.filter("Predicted class", "any")
    wrong = sum(((one.label == 1) & (one.predicted != 1)).any() for one in run.counts)
    assert shown.status().split(",")[0] == f"{wrong} images"
    shown.one("#images-body .tools button").click()
    shown.field("Name contains").send_keys("/04")
    assert shown.status() == "10 images" and all("/04" in name for name in shown.rows())
    shown.field("Name contains").clear()
    shown.one("#images-body input[type=checkbox]").click()
    assert shown.status() == f"{2 * PICTURES} images"  # the worst of both runs


def test_a_confusion_and_a_class_open_their_images(shown):
    row = shown.one("#confusions-body tbody tr")
    truth, guess, pixels = (row.find_elements(By.CSS_SELECTOR, "th, td")[n].text for n in range(3))
    row.find_element(By.TAG_NAME, "button").click()
    assert Select(shown.field("True class")).first_selected_option.text.strip() == truth
    assert Select(shown.field("Predicted class")).first_selected_option.text.strip() == guess
    shown.driver.find_element(By.XPATH, "//section[@id='images']//th/button[.='pixels']").click()
    found = sum(int(cell.text.replace(",", "")) for cell in shown.all("#images-body .split tbody td:nth-child(5)"))
    assert found == int(pixels.replace(",", "")) or "page" in shown.status()
    assert shown.driver.switch_to.active_element.tag_name in ("h2", "button")


def test_the_keyboard_turns_pages_and_chooses_images(shown):
    first = shown.rows()
    shown.driver.execute_script("document.querySelector('#images-body .split .scroll').focus()")
    shown.keys(Keys.PAGE_DOWN)
    assert shown.status() == "50 images, page 2 of 3" and not {*first} & {*shown.rows()}
    shown.keys(Keys.PAGE_DOWN)
    shown.keys(Keys.PAGE_DOWN)
    assert shown.status() == "50 images, page 3 of 3" and len(shown.rows()) == 10
    shown.keys(Keys.PAGE_UP)
    shown.keys(Keys.ARROW_DOWN)
    shown.keys(Keys.ARROW_DOWN)
    shown.keys(Keys.ENTER)
    assert shown.title() == shown.rows()[1]
    assert shown.driver.switch_to.active_element.text == shown.title()
    assert "No image" in shown.one(".viewer").text and not shown.one(".viewer canvas").is_displayed()
    next(b for b in shown.all(".viewer button") if b.text == "Next image").click()
    assert shown.title() == shown.rows()[2]


def test_columns_sort(shown):
    head = shown.driver.find_element(By.XPATH, "//section[@id='images']//th/button[.='image']")
    head.click()
    assert shown.rows()[0].endswith("/000")
    head.click()
    assert shown.rows()[0].endswith("/049")
    sorted_heads = [h.text for h in shown.all("#images-body th[aria-sort=descending]")]
    assert sorted_heads == ["image"]


def test_another_run_keeps_filters_and_image(shown):
    shown.field("Name contains").send_keys("/01")
    shown.rows()
    shown.all("#images-body .split tbody th button")[4].click()
    chosen = shown.title()
    Select(shown.one("#run")).select_by_value("1")
    shown.until(lambda: shown.driver.execute_script("return document.documentElement.dataset.shown") == "1")
    assert shown.title() == chosen and shown.status() == "10 images"
    assert shown.one("#summary tr[aria-current]").get_attribute("data-run") == "1"


def test_two_runs_are_compared_by_class_and_by_image(shown):
    Select(shown.one("#other")).select_by_value("1")
    shown.until(lambda: shown.driver.execute_script("return document.documentElement.dataset.shown") == "0-1")
    assert "minus clip on mini" in shown.one("#images .which").text
    first, second = ([row["iou"] for row in run.record["per_class"]] for run in shown.runs)
    cells = {row.find_element(By.TAG_NAME, "th").text: row.find_elements(By.TAG_NAME, "td")[3].text
             for row in shown.all("#classes-body tbody tr")}  # fmt: skip
    assert cells["grass"] == f"{100 * (first[1] - second[1]):+.2f}"
    head = shown.driver.find_element(By.XPATH, "//section[@id='images']//th/button[.='difference']")
    head.click()
    own = [image_iou(stack_counts(run.counts, len(NAMES))) for run in shown.runs]
    gained = max(own[0] - own[1])
    assert shown.one("#images-body .split tbody td:nth-child(4)").text == f"{100 * gained:+.1f}"
    Select(shown.one("#run")).select_by_value("1")
    shown.until(lambda: shown.driver.execute_script("return document.documentElement.dataset.shown") == "1")
    assert shown.one("#other").get_attribute("value") == ""


def test_every_control_has_a_name(shown):
    nodes = shown.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [n for n in nodes if n.get("role", {}).get("value") in
                ("button", "combobox", "slider", "textbox", "searchbox", "checkbox", "link", "region")]  # fmt: skip
    assert len(controls) > 50
    assert [n for n in controls if not n["ignored"] and not n.get("name", {}).get("value")] == []


def test_five_thousand_images_are_shown_twenty_at_a_time(chromium, tmp_path):
    counts = random_counts(np.random.default_rng(0), 5000, 150)
    path = write_run(tmp_path, counts, [f"class {n}" for n in range(150)])
    (tmp_path / "page.html").write_bytes(build.build_page(gather([path]), 0, RelabelOptions()))
    many = Shown(chromium, tmp_path / "page.html")
    assert many.status() == "5,000 images, page 1 of 250" and len(many.rows()) == 20
    many.filter("True class", "class 7")
    wrong = sum(((one.label == 7) & (one.predicted != 7)).any() for one in counts)
    assert many.status().startswith(f"{wrong} images") and len(many.all("tr")) < 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_the_colours_of_the_user(shown, scheme):
    driver = shown.driver
    feature = {"name": "prefers-color-scheme", "value": scheme}
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        width, back = driver.execute_script(
            "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
        )
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert 300 < width <= 390
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
