"""The page in Chromium: predictions, attention, keys, accessibility, privacy."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ham10000.data import CLASSES, open_folder, resize
from ham10000.errors import DownloadError
from ham10000.reporting import app
from ham10000.reporting.app import find_runtime, write_app
from ham10000.training import Run, open_run

VIEWS = pytest.mark.parametrize(
    ("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]
)


@pytest.fixture(scope="module")
def page(app_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the runtime itself."""
    try:
        runtime = find_runtime()
    except DownloadError as error:
        pytest.skip(f"needs network access once: {error}")
    out = tmp_path_factory.mktemp("page") / "app.html"
    write_app(open_run(app_run), out, runtime=runtime, examples=2)
    return out


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Callable[..., Any]]:
    """Open the page from disk. Messages and requests are collected."""
    contexts = []

    def opened(width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        shown = context.new_page()
        shown.complaints, shown.requests = [], []
        shown.on("console", lambda message: shown.complaints.append(message.text))
        shown.on("pageerror", lambda error: shown.complaints.append(str(error)))
        shown.on("request", lambda request: shown.requests.append(request.url))
        shown.goto(page.as_uri())
        shown.get_by_text("Ready. Choose an image.").wait_for(timeout=60_000)
        return shown

    yield opened
    for context in contexts:
        context.close()


def predict(shown: Any, image: Path) -> list[float]:
    """Choose a file and return the probabilities in the order of the classes."""
    shown.evaluate("document.querySelector('#probabilities tbody').replaceChildren()")
    shown.locator("input[type=file]").first.set_input_files(image)
    shown.locator("#probabilities tbody tr").first.wait_for(timeout=60_000)
    rows = shown.locator("#probabilities tbody tr").evaluate_all(
        "rows => rows.map(row => [row.dataset.name, Number(row.dataset.probability)])"
    )
    assert [value for _, value in rows] == sorted((value for _, value in rows), reverse=True)
    return [dict(rows)[name] for name in CLASSES]


def agree(shown: Any, run: Run, images: list[Path], tolerance: float) -> None:
    expected = run.predict_images(images, tta=1).to_numpy()
    found = [predict(shown, image) for image in images]
    assert np.abs(expected - np.array(found)).max() < tolerance


def test_the_page_predicts_as_the_run(
    opened: Callable[..., Any], app_run: Path, synthetic: Path, tmp_path: Path
) -> None:
    shown, run = opened(), open_run(app_run)
    images = open_folder(synthetic).paths()[:4]
    turned, large = tmp_path / "turned.jpg", tmp_path / "large.png"
    with Image.open(images[0]) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated by a quarter
        image.save(turned, exif=exif, quality=95)
        image.resize((1501, 997)).save(large)
    agree(shown, run, [*images, turned, large], 1e-4)
    assert shown.complaints == []


def test_the_page_predicts_real_images_as_the_run(
    opened: Callable[..., Any], app_run: Path, real: Path
) -> None:
    agree(opened(), open_run(app_run), open_folder(real).paths()[::2500], 1e-3)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(450, 600, 224), (48, 64, 40), (40, 40, 40), (7, 5, 40), (1, 3, 4), (1200, 37, 33)],
)
def test_resizing_in_javascript_is_that_of_pytorch(
    browser: Any, height: int, width: int, size: int
) -> None:
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (3, height, width), generator=generator).byte()
    image[:, : height // 2] = (image[:, : height // 2] > 127) * 255  # also full contrast
    rgba = torch.cat([image, torch.full((1, height, width), 255).byte()]).permute(1, 2, 0)
    shown = browser.new_page()
    shown.add_script_tag(content=app._template("preprocess.js"))
    found = shown.evaluate(
        """([text, width, height, size]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            return [...resizePixels(bytes, width, height, size)];
        }""",
        [base64.b64encode(rgba.contiguous().numpy().tobytes()).decode(), width, height, size],
    )
    shown.close()
    difference = torch.tensor(found).reshape(3, size, size) - resize(image, size).int()
    # PyTorch has the same arithmetic on CPUs with AVX2 only; others round once.
    exact = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    assert difference.abs().max() <= (0 if exact else 1)


@pytest.mark.slow
@VIEWS
def test_it_is_accessible_and_fits(
    opened: Callable[..., Any], synthetic: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright",
        reason="needs axe: pip install axe-playwright-python",
    )
    shown = opened(width, scheme)
    for image in (None, open_folder(synthetic).paths()[0]):
        if image is not None:
            predict(shown, image)
        found = axe.Axe().run(shown)
        assert found.violations_count == 0, found.generate_report()
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.complaints == []
    backgrounds = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 28, 34)"}
    background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == backgrounds[scheme]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_keys_alone_reach_every_part(
    opened: Callable[..., Any], synthetic: Path, width: int
) -> None:
    api = pytest.importorskip("playwright.sync_api")
    shown = opened(width)
    focused = "document.activeElement.%s"

    def tab_to(selector: str) -> None:
        for _ in range(20):
            shown.keyboard.press("Tab")
            if shown.evaluate(focused % f"matches({selector!r})"):
                return
        raise AssertionError(selector)

    tab_to("input[type=file]")
    for _ in range(3):  # Chromium drops the request if a busy machine is late after the key
        try:
            with shown.expect_file_chooser(timeout=10_000) as chooser:
                shown.keyboard.press("Enter")
            break
        except api.TimeoutError:
            continue
    chooser.value.set_files(open_folder(synthetic).paths()[0])
    shown.locator("#probabilities tbody tr").first.wait_for()
    status = shown.get_by_role("status").inner_text()
    assert status.startswith("Most probable of the seven classes: ")
    tab_to("#examples button")
    shown.keyboard.press("Enter")
    shown.locator("#picture[alt^='The image']").wait_for()
    tab_to("#opacity")
    shown.keyboard.press("Home")
    assert shown.locator("#layer").evaluate("it => getComputedStyle(it).opacity") == "0"
    caption = shown.locator("#caption")
    assert caption.inner_text().startswith("The sum of 10 attention maps.")
    tab_to("#maps button")
    assert caption.inner_text() == "Map 1 of 10, alone."
    shown.keyboard.press("ArrowRight")
    assert shown.evaluate(focused % "ariaLabel") == "Map 2 of 10"
    assert caption.inner_text() == "Map 2 of 10, alone."
    shown.keyboard.press("ArrowUp")  # no map above
    assert caption.inner_text() == "Map 2 of 10, alone."
    shown.keyboard.press("Escape")
    assert caption.inner_text().startswith("The sum of 10 attention maps.")
    tab_to("summary")
    shown.get_by_role("button", name="Map 5 of 10").hover()
    assert caption.inner_text() == "Map 5 of 10, alone."


def test_the_attention_is_that_of_the_run(
    opened: Callable[..., Any], app_run: Path, synthetic: Path
) -> None:
    shown, image = opened(), open_folder(synthetic).paths()[1]
    predict(shown, image)
    run = open_run(app_run)
    _, maps = run.load_model()(run.preprocess(image), return_maps=True)
    expected = maps[0].sum(0)
    expected = 0.7 * (1 - 1 / (expected / expected.mean()).clamp(min=1))
    shown.locator("#layer").wait_for()
    opaque = shown.locator("#layer").evaluate(
        """canvas => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return [width, height, data.filter((_, place) => place % 4 === 3).join(" ")];
        }"""
    )
    width, height, values = opaque
    alpha = torch.tensor([int(value) for value in values.split()]).reshape(1, 1, height, width)
    found = torch.nn.functional.interpolate(alpha / 255, expected.shape, mode="area")[0, 0]
    assert np.corrcoef(found.flatten(), expected.detach().flatten())[0, 1] > 0.95


def test_nothing_can_be_sent(opened: Callable[..., Any], page: Path, synthetic: Path) -> None:
    shown = opened()
    predict(shown, open_folder(synthetic).paths()[0])
    outside = [url for url in shown.requests if not url.startswith(("data:", "blob:null/"))]
    assert outside == [page.as_uri()]
    assert shown.complaints == []
    attempts = """async () => {
        const refused = [];
        document.addEventListener(
            "securitypolicyviolation", (event) => refused.push(event.effectiveDirective),
        );
        await fetch("https://example.org/").catch(() => {});
        new Image().src = "https://example.org/x.png";
        navigator.sendBeacon("https://example.org/", "x");
        await new Promise((resolve) => setTimeout(resolve, 200));
        return refused;
    }"""
    assert set(shown.evaluate(attempts)) == {"connect-src", "img-src"}


@pytest.mark.slow
def test_images_can_be_dropped_and_files_of_other_kinds_are_refused(
    opened: Callable[..., Any], synthetic: Path, tmp_path: Path
) -> None:
    shown, image = opened(), open_folder(synthetic).paths()[2]
    expected = predict(shown, image)
    other = tmp_path / "notes.jpg"
    other.write_text("no image")
    shown.locator("input[type=file]").first.set_input_files(other)
    message = "notes.jpg is not an image that this browser can open. Use a JPEG or PNG."
    shown.get_by_text(message).wait_for()
    shown.evaluate("document.querySelector('#probabilities tbody').replaceChildren()")
    shown.evaluate(
        """text => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        base64.b64encode(image.read_bytes()).decode(),
    )
    first = shown.locator("#probabilities tbody tr").first
    first.wait_for()
    assert float(first.get_attribute("data-probability")) == pytest.approx(max(expected))
    assert shown.locator("#picture").get_attribute("alt") == "The image dropped.jpg."
