"""The service's page in a real browser: Chromium without a screen, over a small random bundle."""

import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.cli.browsing import COLOURS, PICTURE, WATCH, Page, needs_chromium
from tests.cli.serving import KEY, Server, serving

LONG = {"length": "8", "steps": "200"}
SHORT = {"length": "0.64", "steps": "6"}
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def server(bundle: Callable[[str], Path]) -> Iterator[Server]:
    with serving(bundle("plain"), "--warm-up", "0.64", "--api-key", KEY, "--max-duration", "20") as running:
        yield running
        assert running.stop() == (0, "")


def running(server: Server) -> int:
    """How many calls the service runs or keeps waiting."""
    lines = server.ask("GET", "/metrics")[2].decode().splitlines()
    return sum(
        int(float(line.split()[1]))
        for line in lines
        if line.startswith(("audioldm2_running_calls ", "audioldm2_waiting_calls "))
    )


def test_a_sound_by_keyboard_alone(page: Page, server: Server, tmp_path: Path) -> None:
    """Its progress, picture and player, and that the line for a shell makes the same file."""
    page.js(WATCH)
    page.js("document.activeElement.blur()")
    for name in ("prompt", "negative", "length", "steps", "fast", "seed"):
        while page.focused().get_attribute("id") != name:
            page.press(Keys.TAB)
            assert page.focused().get_attribute("id") or name == "prompt"
        page.press({"prompt": 'a dog\'s "bark", très fort', "negative": "music"}.get(name, ""))
        if name in SHORT:
            page.press(Keys.CONTROL + "a" + Keys.NULL, SHORT[name])
    page.make_by_keys()
    card = page.made()
    assert page.js("return values") == [1, 2, 3, 4, 5, 6]
    assert page["said"].text.startswith("Made in")
    assert page.js(COLOURS, "#newest canvas") > 50
    assert [tick.text for tick in page.all("#newest .seconds span")] == ["0", "0.2", "0.4", "0.6 s"]
    assert page.all("#newest .hertz span")[-1].text == "8 kHz"
    player = page.one("#newest audio")
    assert player.get_property("src").startswith("blob:")
    page.until(lambda: player.get_property("duration") == 0.64)
    seed = card.find_element(By.CLASS_NAME, "seed").text
    words = shlex.split(card.find_element(By.TAG_NAME, "code").text)
    assert words[:4] == ["curl", "-s", f"{page.address}v1/audio/generate", "-o"]
    status, headers, sound = server.ask("POST", "/v1/audio/generate", words[words.index("-d") + 1].encode())
    assert (status, headers["x-seed"]) == (200, seed)
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    while page.focused().text != "Download":
        page.press(Keys.TAB)
    page.press(Keys.ENTER)
    file = tmp_path / words[4]
    page.until(lambda: file.exists() and file.stat().st_size == len(sound))
    assert file.read_bytes() == sound


def test_it_plays_and_seeks(page: Page) -> None:
    page.fill(prompt="rain", length="5", steps="2")
    page["make"].click()
    card = page.made()
    player, screen, play = (card.find_element(By.CSS_SELECTOR, one) for one in ("audio", ".screen", ".play"))
    assert player.get_property("paused")
    ActionChains(page.browser).move_to_element(screen).click().perform()
    page.until(lambda: 2.4 < player.get_property("currentTime") < 2.6)
    page.press(Keys.TAB, Keys.SPACE)  # from the picture to the button
    page.until(lambda: player.get_property("currentTime") > 2.7)
    assert play.get_attribute("aria-label") == "Pause"
    page.press(Keys.SPACE)
    page.until(lambda: player.get_property("paused"))
    screen.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    page.until(lambda: screen.get_attribute("aria-valuetext") == "0.3 of 5.0 seconds")


def test_cancel_frees_the_service(page: Page, server: Server) -> None:
    page.fill(prompt="rain", **LONG)
    page["make"].click()
    page.until(lambda: page["status"].text.startswith("Step"))
    page.press(Keys.ESCAPE)
    page.until(lambda: page["status"].text == "Cancelled")
    page.until(lambda: running(server) == 0, seconds=2)
    assert page["make"].is_displayed()
    assert not page["progress"].is_displayed()
    page.fill(**SHORT)
    page["make"].click()
    page.made()


def test_a_place_in_the_queue(page: Page, server: Server) -> None:
    long = {"input": "rain", "num_inference_steps": 200, "timeout_s": 3}
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(server.generate, **long, audio_length=length) for length in (19, 20)]  # never one batch
        page.until(lambda: running(server) == 2)
        page.fill(prompt="a dog", **SHORT)
        page["make"].click()
        page.until(lambda: page["status"].text == "Waiting: 1 before yours")
        page["cancel"].click()
        page.until(lambda: page["status"].text == "Cancelled" and running(server) <= 2)
        assert [other.result()[0] for other in others] == [504, 504]


@pytest.mark.parametrize(
    ("values", "wrong", "field"),
    [
        ({"prompt": "  "}, "input is blank", "prompt"),
        ({"length": "99"}, "audio_length is 99 s, this service allows up to 20 s", "length"),
        ({"seed": "seven"}, "seed", "seed"),
        ({"negative": "x" * 10_001}, "negative_prompt has more than 10000 characters", "negative"),
    ],
)
def test_errors_are_in_the_services_words(page: Page, values: dict[str, str], wrong: str, field: str) -> None:
    for name, value in {"prompt": "rain", **SHORT, **values}.items():
        page.js("arguments[0].value = arguments[1]", page[name], value)
    page.make_by_keys()
    page.until(lambda: page.state() == "failed")
    assert wrong in page["wrong"].text
    assert page[field].get_attribute("aria-invalid") == "true"
    assert page.focused() == page[field]
    page.fill(prompt="rain", seed="1", negative="", **SHORT)
    page.make_by_keys()
    page.made()
    assert page["wrong"].text == ""


def test_a_service_that_goes_away(page: Page, bundle: Callable[[str], Path]) -> None:
    """In the middle of a call, and before one. This one asks for no key."""
    with serving(bundle("plain")) as server:
        mortal = Page(page.browser, f"http://127.0.0.1:{server.port}/")
        mortal.open(key="")
        mortal.fill(prompt="rain", **LONG)
        mortal["make"].click()
        mortal.until(lambda: mortal["status"].text.startswith("Step"))
        server.process.kill()
        server.process.communicate()
        mortal.until(lambda: mortal["wrong"].text == "The connection ended before the sound was done.")
        mortal["make"].click()
        mortal.until(lambda: mortal["wrong"].text == "The service cannot be reached: is it running?")


def test_a_model_that_speaks(page: Page, bundle: Callable[[str], Path]) -> None:
    assert not page["speech"].is_displayed()
    with serving(bundle("letters")) as server:
        speaking = Page(page.browser, f"http://127.0.0.1:{server.port}/")
        speaking.open(key="")
        speaking.fill(prompt="A woman speaks", **SHORT)
        speaking.make_by_keys()
        speaking.until(lambda: "transcription is missing" in speaking["wrong"].text)
        speaking.press("good day")  # the field has the focus
        speaking.make_by_keys()
        assert '"transcription": "good day"' in speaking.made().find_element(By.TAG_NAME, "code").text


def test_a_key_is_asked_for_and_kept_for_the_tab(page: Page) -> None:
    page.open(key=None)
    page.until(lambda: page["door"].is_displayed())
    assert not page["ask"].is_displayed()
    page.press("no", Keys.ENTER)
    page.until(lambda: page["refused"].text == "This key is not taken.")
    page.fill(key="schlüssel")
    page.press(Keys.ENTER)
    assert page["refused"].text.startswith("A key is of Latin letters")
    page.fill(key=KEY)
    page.press(Keys.ENTER)
    page.until(lambda: page["model"].text == "plain, 16 kHz")
    assert not page["door"].is_displayed()
    page.browser.refresh()
    page.until(lambda: page["model"].text)
    page.fill(prompt="rain", **SHORT)
    page.make_by_keys()
    command = page.made().find_element(By.TAG_NAME, "code").text
    assert '"Authorization: Bearer $KEY"' in command
    assert KEY not in command
    assert page.js("return [localStorage.length, document.cookie]") == [0, ""]


def test_history_and_use_again(page: Page) -> None:
    chip = page.all("#examples button")[0]
    prompt = chip.text
    chip.click()
    page.one("#more summary").click()
    page.fill(seed="18446744073709551615", guidance="2", **SHORT)  # more than a number of JavaScript holds
    page["make"].click()
    page.made()
    picture = page.js(PICTURE, "#newest canvas")
    page.fill(prompt="another <b>sound</b>", guidance="3.5")
    page["reseed"].click()
    page["make"].click()
    page.until(lambda: page.all("#history article"))
    assert page.js(PICTURE, "#newest canvas") != picture
    assert page.one("#newest .title").text == "another <b>sound</b>"
    assert page.one("#history .title").text == prompt
    page.one("#history .unfold").click()
    assert page.one("#history pre").is_displayed()
    page.one("#history .again").click()
    found = [page[name].get_property("value") for name in ("prompt", "length", "steps", "seed", "guidance")]
    assert found == [prompt, "0.64", "6", "18446744073709551615", "2"]
    page["make"].click()
    page.until(lambda: len(page.all("#history article")) == 2)
    assert page.js(PICTURE, "#newest canvas") == picture


def test_schemes_and_a_phone(page: Page) -> None:
    page.fill(prompt="rain " * 30, **SHORT)
    page["make"].click()
    page.made()
    pictures = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        pictures.append(page.until(lambda: (now := page.js(PICTURE, "#newest canvas")) not in pictures and now))
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert page.js("return document.documentElement.scrollWidth") == 360
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_is_served(server: Server) -> None:
    for path, kind in (("/", "text/html"), ("/page/page.css", "text/css"), ("/page/page.js", "text/javascript")):
        status, headers, body = server.ask("GET", path)
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b""), "it names no other host"
    assert server.ask("GET", "/page/../page.py")[0] == 404
    assert server.ask("PUT", "/")[0] == 405
