"""The service's page takes a sound: it is changed, made anew in a part, or gone on from."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.cli.browsing import COLOURS, PICTURE, WATCH, Page, needs_chromium
from tests.cli.serving import KEY, Server, serving

pytestmark = needs_chromium
RATE, SAMPLES = 16_000, 18_000  # 1.125 s
FEW = {"prompt": "rain", "steps": "5"}


@pytest.fixture(scope="module")
def server(bundle: Callable[[str], Path]) -> Iterator[Server]:
    with serving(bundle("plain"), "--warm-up", "0.64", "--api-key", KEY, "--max-duration", "4") as running:
        yield running
        assert running.stop() == (0, "")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A file of noise, whose name needs care in a shell, and in a form."""
    path = tmp_path / 'it\'s; "noise", très bien.wav'
    soundfile.write(path, np.random.default_rng().uniform(-0.3, 0.3, SAMPLES), RATE, subtype="PCM_16")
    return path


def drop(page: Page, path: Path) -> None:
    """What a mouse does with a file from elsewhere."""
    box = page["prompt"].rect
    place = {"x": box["x"] + 20, "y": box["y"] + 20}
    files = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver"):
        page.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **place, "data": files})
    assert page["ask"].get_attribute("class") == "dropping"
    page.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": "drop", **place, "data": files})
    assert page["ask"].get_attribute("class") == ""


def give(page: Page, path: Path, deed: str = "strength") -> None:
    """Choose a file, and what is to become of it."""
    page["file"].send_keys(str(path))
    page.until(lambda: page["whole"].text != "Its own")
    page.one(f"[value={deed}]").click()
    page.fill(**FEW)


def made(page: Page, folder: Path) -> np.ndarray:
    """Samples of the newest sound, which is downloaded."""
    page.made()
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    link = page.one("#newest .download")
    link.click()
    path = folder / link.get_attribute("download")
    page.until(path.exists)
    return soundfile.read(path, dtype="int16")[0].astype(np.int64)


def command(page: Page) -> str:
    text: str = page.one("#newest code").text
    return text


def test_a_file_is_dropped_and_changed(page: Page, sound: Path, tmp_path: Path) -> None:
    """With its progress; the result has the file's length, and depends on the strength."""
    page.js(WATCH)
    drop(page, sound)
    assert page["start-name"].text == sound.name
    page.until(lambda: page["start-time"].text == "0.00 / 1.13 s")
    assert page.js(COLOURS, "#start-picture") > 50
    assert (page["whole"].text, page["length"].is_displayed()) == ("1.13", False)
    sound.unlink()  # what is in it was read
    page.fill(**FEW, seed="3")
    assert page.focused() == page["seed"]
    page.one("[value=strength]").send_keys(Keys.TAB, Keys.ARROW_LEFT * 4)  # from 0.8, by keyboard
    assert page["strength-value"].text == "0.6"
    page.make_by_keys()
    found = made(page, tmp_path / "made")
    assert len(found) == SAMPLES
    assert page.js("return values") == [1, 2, 3]
    assert page.one("#newest .origin").text == f"{sound.name}, changed with strength 0.6"
    assert page.one("#newest .made").text.startswith("3 steps in")
    page.one("[value=strength]").send_keys(Keys.TAB, Keys.END)
    page.make_by_keys()
    page.until(lambda: page.all("#history article"))
    other = made(page, tmp_path / "made")
    assert len(other) == SAMPLES
    assert (other != found).any()
    page["away"].click()
    assert page.focused() == page["file"]
    assert page["length"].is_displayed()


def test_a_part_is_made_anew(page: Page, sound: Path, tmp_path: Path) -> None:
    """By numbers and by drawing over the picture; the rest comes back sample by sample."""
    give(page, sound, "inpaint_seconds")
    assert [page[end].get_property("value") for end in ("from", "to")] == ["0.37", "0.75"]
    width = page["range"].rect["width"]
    middle = ActionChains(page.browser).move_to_element_with_offset(page["range"], int(width / 6), 0)
    middle.click_and_hold().move_by_offset(-int(width / 3), 0).release().perform()
    start, stop = (float(page[end].get_property("value")) for end in ("from", "to"))
    assert (start, stop) == pytest.approx((1.125 / 3, 1.125 / 1.5), abs=0.02)
    page.fill(**{"from": "0.5", "to": "0.8"})
    mark = page.one("#range b").rect
    assert mark["width"] / width == pytest.approx(0.3 / 1.125, abs=0.01)
    page.make_by_keys()
    given, found = soundfile.read(sound, dtype="int16")[0], made(page, tmp_path / "made")
    assert len(found) == SAMPLES
    anew = slice(int(0.5 * RATE), int(0.8 * RATE))
    assert (found[: anew.start] == given[: anew.start]).all()
    assert (found[anew.stop :] == given[anew.stop :]).all()
    assert (found[anew] != given[anew]).mean() > 0.5
    page.fill(to="")
    page.make_by_keys()
    page.until(lambda: page["wrong"].text == "to second is not a number.")
    assert page.focused() == page["to"]
    page.fill(to="9")
    page.make_by_keys()
    page.until(lambda: "is outside of the audio" in page["wrong"].text)
    assert page.focused() == page["from"]


def test_it_goes_on_and_on(page: Page, sound: Path, tmp_path: Path) -> None:
    """By keyboard: the result is longer, and is what the next one begins with."""
    give(page, sound)
    page.one("[value=strength]").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.TAB)
    assert page.focused() == page["extend"]
    page.fill(extend="0.5")
    assert page["whole"].text == "1.63"
    assert not page["loops"].is_displayed()
    page.make_by_keys()
    first = made(page, tmp_path / "made")
    assert len(first) == SAMPLES + RATE // 2
    page.one("#newest .onward").click()
    page.until(lambda: page.focused() == page.one("[value=extend_s]"))
    page.until(lambda: page["whole"].text == "2.13")
    page.make_by_keys()
    page.until(lambda: page.all("#history article"))
    second = made(page, tmp_path / "made")
    assert len(second) == len(first) + RATE // 2
    assert (second[: len(first)] == first).all()
    page.fill(extend="60")
    page.make_by_keys()
    page.until(lambda: "this service allows up to 4 s" in page["wrong"].text)


def test_what_is_no_sound(page: Page, sound: Path, tmp_path: Path) -> None:
    """The service says so; a sound in its place is taken."""
    wrong = tmp_path / "words.wav"
    wrong.write_text("no sound")
    page["file"].send_keys(str(wrong))
    page.until(lambda: page["start-time"].text.startswith("This browser cannot play it"))
    assert not page["start-picture"].is_displayed()
    page.fill(**FEW)
    page["make"].click()
    page.until(lambda: "no sound file that can be read" in page["wrong"].text)
    assert page.focused() == page["away"]
    assert page["begin"].get_attribute("class") == "wide refused"
    drop(page, tmp_path)
    page.until(lambda: page["wrong"].text == f"{tmp_path.name} cannot be read.")
    drop(page, sound)
    page.until(lambda: page["start-picture"].is_displayed())
    assert page["begin"].get_attribute("class") == "wide"
    page["make"].click()
    page.made()


def test_it_is_cancelled(page: Page, sound: Path) -> None:
    give(page, sound)
    page.fill(steps="200")
    page["make"].click()
    page.until(lambda: page["status"].text.startswith("Step"))
    page.press(Keys.ESCAPE)
    page.until(lambda: page["status"].text == "Cancelled")
    assert page["start-name"].text == sound.name


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
@pytest.mark.parametrize("deed", ["strength", "inpaint_seconds", "extend_s"])
def test_the_line_for_a_shell_makes_the_same_file(page: Page, sound: Path, deed: str, tmp_path: Path) -> None:
    give(page, sound, deed)
    page.fill(prompt=f"@rain;type=x 'and'{Keys.SHIFT}{Keys.ENTER}{Keys.NULL}<thunder", negative="[music]")
    page.make_by_keys()
    found = made(page, tmp_path / "made")
    line = command(page)
    assert KEY not in line
    subprocess.run(["sh", "-c", line], cwd=tmp_path, env={"PATH": os.environ["PATH"], "KEY": KEY}, check=True)
    again = soundfile.read(tmp_path / shlex.split(line)[4], dtype="int16")[0]
    assert (again == found).all()


def test_use_again_brings_the_sound_back(page: Page, sound: Path) -> None:
    page.one("#more summary").click()
    give(page, sound)
    page["loop"].click()
    page.js("arguments[0].value = 0.5", page["strength"])
    page.make_by_keys()
    page.made()
    assert "loop=true" in command(page)
    picture = page.js(PICTURE, "#newest canvas")
    page["loop"].click()
    page["away"].click()
    page.fill(length="0.64")
    page.make_by_keys()
    page.until(lambda: page.all("#history article"))
    assert "-d" in shlex.split(command(page))
    page.one("#history .again").click()
    page.until(lambda: page["start-name"].text == sound.name and page["whole"].text == "1.13")
    assert (page["strength"].get_property("value"), page["loop"].is_selected()) == ("0.5", True)
    page.make_by_keys()
    page.until(lambda: len(page.all("#history article")) == 2)
    assert page.js(PICTURE, "#newest canvas") == picture
    page.one("#newest .again").click()
    page.all("#history .again")[0].click()
    assert page["length"].get_property("value") == "0.64"
    assert not page["start"].is_displayed()
    give(page, sound)
    page.make_by_keys()
    page.until(lambda: len(page.all("#history article")) == 3)


def test_a_loop_of_words_alone(page: Page, server: Server) -> None:
    page.fill(**FEW, length="0.64", seed="1")
    page.one("#more summary").click()
    page.one("label[for=loop]").click()
    page.make_by_keys()
    page.made()
    words = shlex.split(command(page))
    assert json.loads(words[words.index("-d") + 1])["loop"] is True


def test_schemes_and_a_phone(page: Page, sound: Path) -> None:
    give(page, sound)
    pictures = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        pictures.append(page.until(lambda: (now := page.js(PICTURE, "#start-picture")) not in pictures and now))
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    for deed in ("strength", "inpaint_seconds", "extend_s"):
        page.one(f"[value={deed}]").click()
        assert page.js("return document.documentElement.scrollWidth") == 360
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_bundle_without_an_encoder(page: Page, bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Nothing of all this is there."""
    folder = Path(shutil.copytree(bundle("plain"), tmp_path / "old"))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["engines"]["vae_encoder"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with serving(folder) as server:
        old = Page(page.browser, f"http://127.0.0.1:{server.port}/")
        old.open(key="")
        assert not old["begin"].is_displayed()
        old.fill(**FEW, length="0.64")
        old.make_by_keys()
        assert not old.made().find_element(By.CLASS_NAME, "onward").is_displayed()
