"""Pages in a real browser, Debian's chromium, with no network: opened, clicked, read, printed.

Run by `nox -s browser`. With TENTERHOOK_SCREENSHOTS=write the pictures of the docs are made anew.
"""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tenterhook_tiny
import tenterhook_view as view
from tenterhook_analysis import logit_lens
from tenterhook_store import Run
from tenterhook_view.colored_tokens import series_of_run

webdriver: Any = pytest.importorskip("selenium.webdriver")
IMAGES = Path(__file__).parents[3] / "docs/images"
TEXT = "And God said, Let there be light: and there was light."
HOSTILE = [
    "<script>window.hit=1</script>",
    "</script><script>window.hit=2</script>",
    "<img src=x onerror=window.hit=3>",
    '" onfocus="window.hit=4" autofocus="',
    "\u202egnirts\u202c",
    "\ud800",
    "x" * 1_000_000,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window and without a network."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_window_size(1000, 900)
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def lm() -> Any:
    """The small language model."""
    return tenterhook_tiny.load()


@pytest.fixture(scope="module")
def stored(lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the model over some text that it did not train on."""
    from tenterhook_store import LocalStore

    store = LocalStore(tmp_path_factory.mktemp("store"))
    documents = tenterhook_tiny.read("sample").first(8)
    layers = [f"resid_post.{at}" for at in range(4)]
    lm.activations.save(layers, documents, run_name="first", store=store)
    return store.run("first")


@pytest.fixture(scope="module")
def page(lm: Any, stored: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part."""
    with lm.capture("pattern.1") as captured:
        lm.inference.execute_inference([TEXT])
    made = view.page(
        stored,
        view.lens(logit_lens(lm, TEXT, k=5)),
        view.attention(lm.token_strings(TEXT), captured.last("pattern.1")[0]),
        view.diff("And God said, Let there be light.", "And God said, Let there be wrath."),
        title="A run of the small model",
        tokenizer=lm.tokenizer,
    )
    return made.save(tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    """The page in the browser; it has said nothing in the console when the test ends."""
    emulate(browser, "light")
    browser.get(page.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def emulate(browser: Any, scheme: str) -> None:
    """Have the reader's system be light or dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def all_of(browser: Any, selector: str) -> list[Any]:
    """Return the elements that a selector finds."""
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def choose(browser: Any, select: Any, text: str) -> None:
    """Choose an option, as a reader does."""
    (option,) = [each for each in select.find_elements("tag name", "option") if each.text == text]
    option.click()


def classes(browser: Any, kind: str) -> list[str]:
    """Return the colours of all tokens of a part."""
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.className)"
    found: list[str] = browser.execute_script(script, f"[data-kind={kind}] .text span")
    return [each.split()[0] for each in found]


def test_nothing_is_fetched(opened: Any) -> None:
    """From disk, with no network: the page is all there is."""
    script = "return performance.getEntriesByType('resource').map((each) => each.name)"
    assert opened.execute_script(script) == []
    assert opened.title == "A run of the small model"


def test_another_layer_colours_the_tokens(opened: Any, stored: Run, lm: Any) -> None:
    """As Python would have coloured them, token by token."""
    _, series = series_of_run(stored, tokenizer=lm.tokenizer)
    assert classes(opened, "tokens") == series[0].levels()

    _, layer = all_of(opened, "[data-kind=tokens] select")
    choose(opened, layer, series[3].layer)
    browsers = classes(opened, "tokens")
    differ = [one for one, other in zip(browsers, series[3].levels(), strict=True) if one != other]
    assert len(differ) <= len(browsers) // 100  # at the border of two colours, of 16 bits
    assert browsers != series[0].levels()


def test_a_token_is_read_by_click_and_by_keys(opened: Any, stored: Run) -> None:
    """Its text, its place and its number at each layer, in a region that is read aloud."""
    text = all_of(opened, "[data-kind=tokens] .text")[0]
    status = all_of(opened, "[data-kind=tokens] .status")[0]
    text.find_elements("tag name", "span")[2].click()
    norm = float(stored["resid_post.0"][2].norm())

    assert "document 0, token 2: norm" in status.text
    assert f"transformer.h.0 {norm:.4g}" in status.text
    text.send_keys("\ue014")  # arrow right
    assert "document 0, token 3: norm" in status.text
    text.send_keys("\ue011")  # home
    assert "document 0, token 0: norm" in status.text
    assert status.get_attribute("aria-live") == "polite"


def test_cells_are_read(opened: Any) -> None:
    """Of the logit lens: layer, token, the likeliest next tokens."""
    lens = all_of(opened, "[data-kind=cells]")[1]
    cells = lens.find_elements("css selector", "td")
    cells[5].click()
    status = lens.find_element("css selector", ".status").text

    assert "(token 5): “" in status
    assert status.count("%") == 5
    table = lens.find_element("css selector", "table")
    table.send_keys("\ue015")  # arrow down: the same token at the layer below
    below = lens.find_element("css selector", ".status").text
    assert "(token 5): “" in below
    assert below != status


def test_attention_of_a_head(opened: Any) -> None:
    """The token that is chosen attends to none after it; another head, other tokens."""
    part = all_of(opened, "[data-kind=attention]")[0]
    spans = part.find_elements("css selector", ".text span")
    spans[6].click()
    first = classes(opened, "attention")
    assert set(first[7:]) == {"s0"}
    assert "(token 6) attends to" in part.find_element("css selector", ".status").text
    (select,) = part.find_elements("tag name", "select")
    choose(opened, select, select.find_elements("tag name", "option")[2].text)
    assert classes(opened, "attention") != first


def test_everything_has_a_name(opened: Any) -> None:
    """Whatever can be focused or is a region, in the tree that screen readers are given."""
    tree = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    of_role: dict[str, list[str]] = {}
    for node in tree:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            of_role.setdefault(node["role"]["value"], []).append(name)

    for role in ("combobox", "group", "region", "heading", "image", "columnheader"):
        named = [each for each in of_role.get(role, []) if each or role == "columnheader"]
        assert named == of_role.get(role, []), role
        assert named or role == "image"
    assert len(of_role["main"]) == 1
    assert opened.execute_script("return document.documentElement.lang") == "en"
    read = "".join(of_role["StaticText"])
    assert "Now these are the generations" in read


def test_the_keyboard_reaches_everything(opened: Any) -> None:
    """Tab goes to every choice and text, in the page's order, and what has the focus shows it."""
    script = """
        const tops = [...document.querySelectorAll("select, [tabindex]")];
        return tops.map((each) => { each.focus(); return document.activeElement === each; });"""
    assert all(opened.execute_script(script))
    body = all_of(opened, "body")[0]
    body.click()
    body.send_keys("\ue004")  # tab
    focused = opened.switch_to.active_element
    assert focused.tag_name == "select"
    assert opened.execute_script(
        "return getComputedStyle(arguments[0]).outlineStyle", focused
    ) not in ("none", "")


CONTRAST = """
    const lightness = (colour) => {
      const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => {
        const share = part / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const behind = (element) => {
      const colour = getComputedStyle(element).backgroundColor;
      const isClear = /, 0\\)$/.test(colour) && element.parentElement;
      return isClear ? behind(element.parentElement) : colour;
    };
    const all = [...document.querySelectorAll("span, td, th, p, h1, h2, h3, label, select, li")];
    return Math.min(...all.filter((each) => each.textContent.trim()).map((each) => {
      const [one, other] = [lightness(getComputedStyle(each).color), lightness(behind(each))];
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    }));"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened: Any, scheme: str) -> None:
    """Every text has a contrast of 4.5 to 1 with what is behind it."""
    emulate(opened, scheme)

    assert opened.execute_script(CONTRAST) >= 4.5
    paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_it_prints(opened: Any) -> None:
    """On several sheets."""
    pdf = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 10_000


def test_it_says_as_much_without_a_script(browser: Any, page: Path) -> None:
    """Tokens are there, and coloured."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page.as_uri())
        text = all_of(browser, "[data-kind=tokens] .text")[0]
        assert "Now these are the generations" in text.text
        spans = text.find_elements("tag name", "span")
        colours = {each.value_of_css_property("background-color") for each in spans[:20]}
        assert len(colours) > 3
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_text_does_nothing(browser: Any, tmp_path: Path) -> None:
    """No script of it runs, no element is made of it, and what is hidden in it is written out."""
    numbers = torch.arange(len(HOSTILE)).float()
    pattern = torch.eye(len(HOSTILE))[None]
    made = view.page(
        view.tokens(HOSTILE, {each[:50]: numbers for each in HOSTILE}),
        view.attention(HOSTILE, pattern, heads=HOSTILE[:1]),
        view.grid(numbers[None], HOSTILE[:1], HOSTILE, name=HOSTILE[1]),
        view.diff(HOSTILE, HOSTILE[1:]),
        title=HOSTILE[0],
    )
    browser.get(made.save(tmp_path / "hostile.html").as_uri())
    for each in all_of(browser, ".text span, td"):
        each.click()

    assert browser.execute_script("return window.hit") is None
    assert all_of(browser, "img, iframe, object, embed, link") == []
    shown = [each.text for each in all_of(browser, "[data-kind=tokens] .text span")]
    assert shown[0] == HOSTILE[0]
    assert shown[4] == "\\u202egnirts\\u202c"
    assert shown[5] == "\\ud800"
    assert browser.get_log("browser") == []


def test_a_large_page_is_quick_to_use(browser: Any, tmp_path: Path) -> None:
    """10,000 tokens of 8 layers are coloured anew well before a reader wonders."""
    numbers = {f"norm {at}": torch.rand(10_000) for at in range(8)}
    path = view.page(view.tokens([" word"] * 10_000, numbers)).save(tmp_path / "large.html")
    assert path.stat().st_size < 2_000_000
    browser.get(path.as_uri())
    script = """
        const select = document.querySelector("select");
        const begin = performance.now();
        select.selectedIndex = 3;
        select.dispatchEvent(new Event("change"));
        return performance.now() - begin;"""
    assert browser.execute_script(script) < 2000


@pytest.mark.skipif(os.environ.get("TENTERHOOK_SCREENSHOTS") != "write", reason="not asked for")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(opened: Any, scheme: str) -> None:
    """The pictures of the docs, of few colours, so that they are small."""
    emulate(opened, scheme)
    all_of(opened, "[data-kind=tokens] .text")[0].find_elements("tag name", "span")[5].click()
    parts = {
        "tokens": "[data-kind=tokens]",
        "examples": "section:nth-of-type(2)",
        "grid": "section:nth-of-type(3)",
        "layers": "section:nth-of-type(4)",
        "lens": "section:nth-of-type(5)",
        "attention": "[data-kind=attention]",
        "diff": "section:nth-of-type(7)",
    }
    IMAGES.mkdir(exist_ok=True)
    for name, selector in parts.items():
        if scheme == "dark" and name != "tokens":
            continue
        (section,) = all_of(opened, selector)
        save(section.screenshot_as_png, IMAGES / f"view-{name}{'-dark' * (scheme == 'dark')}.png")


def save(png: bytes, path: Path) -> None:
    """Write a picture of at most 420 pixels high, with 48 colours."""
    from PIL import Image  # type: ignore[import-not-found,unused-ignore]

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.crop((0, 0, image.width, min(image.height, 420))).quantize(48).save(path, optimize=True)
