"""The live page in a real Chromium: real trainer and scorer behind it, and made-up workers for what is rare."""

import itertools
import json
import re
import threading
import time

import pytest
from prometheus_client import CollectorRegistry
from workbench import FIELDS, SPEC, market_lines, post, scorer, trainer, wait_for

from ctr import spec as specification
from ctr.metrics import Metric
from ctr.page import Page, Subject
from ctr.serving.asgi import OpsApp
from ctr.serving.server import BackgroundServer, address_of, open_socket

pytestmark = [pytest.mark.browser, pytest.mark.redis]

EVENTS = 20_000
AWAY = re.compile(r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE)")
"""What Chromium's console says of a worker that is being restarted, and what no script can keep it from saying."""


@pytest.fixture(scope="module")
def workers(redis_server, tmp_path_factory):
    """A trainer that follows a growing file, and a scorer that follows it."""
    directory = tmp_path_factory.mktemp("workers")
    with redis_server.client() as client:
        client.flushdb()
    (directory / "ads.toml").write_text(SPEC)
    events = directory / "events.jsonl"
    lines = market_lines(EVENTS)
    events.write_bytes(b"\n".join(lines) + b"\n")
    learning = trainer(
        directory, directory / "ads.toml", "--from", events, "--follow", "--redis", redis_server.url, "--create",
        "--names", "1", "--window", "5000",
    )  # fmt: skip
    scoring = scorer(directory, "ads", "--redis", redis_server.url)
    ended = threading.Event()

    def grow():
        with events.open("ab", buffering=0) as file:
            for line in itertools.cycle(lines):
                if ended.wait(0.002):
                    return
                file.write(line + b"\n")

    growing = threading.Thread(target=grow, daemon=True)
    try:
        learning.start()
        growing.start()
        scoring.start()
        yield {"trainer": learning, "scorer": scoring}
    finally:
        ended.set()
        learning.stop()
        scoring.stop()


@pytest.fixture
def opened(chromium):
    """opened(address, width=1280, scheme="light", allowed=None) is a page; an error on its console fails the test."""
    contexts, said = [], []

    def open_page(address, *, width=1280, scheme="light", allowed=None, wait=True):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()

        def note(text):
            if allowed is None or not allowed.search(text):
                said.append(text)

        page.on("console", lambda message: message.type in {"error", "warning"} and note(message.text))
        page.on("pageerror", lambda error: note(str(error)))
        page.goto(address)
        if wait:
            page.locator("#main").wait_for()
            page.locator("#charts .curve").first.wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.fixture
def made_up():
    """made_up(numbers, declared, token=None) is the address of a worker of which only the page is there.

    To be asked for before `opened`: its pages are closed first, and see no worker go.
    """
    running = []

    def start(numbers, declared, *, token=None):
        spec = specification.parse('name = "ads"\nfields = [{name = "user"}]')
        app = OpsApp(CollectorRegistry(), lambda: None, lambda: None, role=lambda: "writer", token=token)
        subject = Subject("ads", lambda: spec, lambda: None, lambda _: {}, "page/explain")
        page = Page(app, "trainer", declared, lambda: numbers, [subject])
        sock = open_socket("127.0.0.1:0")
        address = f"http://{address_of(sock)}"
        running.extend((page, BackgroundServer(app, sock)))
        page.start()
        running[-1].start()
        return address

    yield start
    for one in running:
        one.stop()


def learned(page):
    """How many events the page says were learned."""
    text = page.locator("#throughput .facts").inner_text()
    number, unit = re.match(r"([\d.]+) ?([kM]?)", text).groups()
    return float(number) * {"": 1, "k": 1e3, "M": 1e6}[unit]


@pytest.mark.parametrize("which", ["trainer", "scorer"])
def test_loads_within_a_second(workers, opened, which):
    page, took = opened(workers[which].address), []
    for _ in range(10):  # of a loaded machine the best
        page.reload()
        page.locator("#charts .curve").first.wait_for(state="attached")
        page.wait_for_function("performance.getEntriesByName('drawn').length")
        took.append(page.evaluate("performance.getEntriesByName('drawn')[0].startTime"))  # ms since navigation began
        if took[-1] < 1000:
            break
    assert min(took) < 1000


def test_updates_while_learning_goes_on(workers, opened):
    page = opened(workers["trainer"].address)
    before, curve = learned(page), page.locator("#throughput .curve").first.get_attribute("d")
    assert before > 0
    wait_for(lambda: learned(page) > before and page.locator("#throughput .curve").first.get_attribute("d") != curve)
    assert page.locator("#model").inner_text() == "ads@1"
    assert page.locator("#role").inner_text() == "writer"
    assert page.locator("#connection").inner_text().startswith("live")
    for chart in ("entropy", "logloss", "auc", "calibration", "lag", "behind", "commits", "stages", "table"):
        assert page.locator(f"#{chart}").is_visible(), chart
    assert page.locator("#rmse").is_hidden()
    assert page.locator("#requests").is_hidden()


def test_a_reload_shows_what_was(workers, opened):
    page = opened(workers["trainer"].address)
    wait_for(lambda: page.evaluate("document.querySelector('#table .curve').getAttribute('d').split('L').length") > 4)
    page.reload()
    page.locator("#charts .curve").first.wait_for(state="attached")
    assert page.evaluate("document.querySelector('#table .curve').getAttribute('d').split('L').length") > 4


@pytest.mark.parametrize("which", ["trainer", "scorer"])
def test_scores_an_event_with_its_explanation(workers, opened, which):
    page = opened(workers[which].address)
    event = dict(zip(FIELDS, ("u3", "ad1", "site1", "phone"), strict=True))
    page.get_by_label("Features, as JSON").fill(json.dumps(event))
    page.get_by_role("button", name="Score").click()
    page.locator("#prediction").wait_for()
    shown = float(page.locator("#prediction").inner_text().rstrip(" %")) / 100
    served = post(f"{workers['scorer'].address}/v1/models/ads:predict", {"instances": [event]})["predictions"][0]
    assert shown == pytest.approx(served, rel=0.2)  # learning goes on between the two
    terms = [float(text.replace("\N{MINUS SIGN}", "-")) for text in page.locator("#answer td.term").all_inner_texts()]
    *parts, bias, logit = terms
    assert sum(parts) + bias == pytest.approx(logit, abs=0.0006 * len(terms))  # each is rounded to three digits
    assert 1 / (1 + 2.718281828 ** -logit) == pytest.approx(shown, rel=0.02)


def test_offers_an_example_and_the_top_features_in_words(workers, opened):
    page = opened(workers["trainer"].address)
    page.locator("#top tbody tr").first.wait_for()
    wait_for(lambda: re.search(r"device=\w+", page.locator("#top").inner_text()))
    example = json.loads(page.get_by_label("Features, as JSON").input_value())
    assert list(example) == list(FIELDS)
    assert all(example.values())
    assert page.locator("#by-updates tbody tr").count() > 5


def test_says_what_is_wrong_with_an_event(workers, opened):
    page = opened(workers["trainer"].address)
    field = page.get_by_label("Features, as JSON")
    for text in ("[1, 2]", '{"user": ', ""):
        field.fill(text)
        field.press("Control+Enter")
        assert page.locator("#event-error").inner_text().startswith("This is no event")
        assert field.get_attribute("aria-invalid") == "true"
    assert page.evaluate("document.activeElement.id") == "event"


def test_survives_a_restart(workers, opened):
    page = opened(workers["trainer"].address, allowed=AWAY)
    earlier = learned(page)
    workers["trainer"].stop()
    page.locator("#connection.away").wait_for()
    assert "not reachable since" in page.locator("#connection").inner_text()
    assert "has not answered since" in page.locator("#alert-list").inner_text()
    points = page.evaluate("document.querySelector('#table .curve').getAttribute('d').split('L').length")
    workers["trainer"].start()
    page.locator("#connection.live").wait_for()
    wait_for(lambda: "has not answered" not in page.locator("#alert-list").inner_text())
    before = learned(page)
    assert before < earlier  # of this process: never what the one before had said
    wait_for(lambda: learned(page) > before)
    drawn = page.locator("#table .curve").evaluate_all("all => all.map(one => one.getAttribute('d').split('L').length)")
    assert sum(drawn) >= points  # what was seen before it went is still there


def test_by_keyboard_alone(workers, opened):
    page = opened(workers["trainer"].address)
    page.locator("#top tbody tr").first.wait_for()
    focused = """() => { const e = document.activeElement;
        return e.closest('.chart')?.id ?? (e.id || e.name || e.textContent.trim()); }"""
    order = []
    for _ in range(60):
        page.keyboard.press("Tab")
        order.append(page.evaluate(focused))
        if order[-1] == "readyz":
            break
    assert order[0].startswith("Skip")
    charts = page.locator(".chart:visible:has(.plotbox)").evaluate_all("all => all.map(one => one.id)")
    assert order[1:] == [*charts, "event", "ask", "example", "metrics", "readyz"]
    page.locator("#entropy .plotbox").focus()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert re.fullmatch(r"\d\d:\d\d:\d\d: model \d\.\d+, base rate 1.000", page.locator("#readout").text_content())
    assert page.locator(".chart.pointed").count() > 3  # all charts show that moment
    page.keyboard.press("Escape")
    assert page.locator(".chart.pointed").count() == 0


def test_a_moment_is_shown_by_the_pointer(workers, opened):
    page = opened(workers["trainer"].address)
    wait_for(lambda: page.evaluate("document.querySelector('#table .curve').getAttribute('d').split('L').length") > 4)
    box = page.locator("#throughput .plotbox").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + 60)
    page.locator("#entropy.pointed").wait_for()
    page.mouse.move(5, 5)
    page.locator("#entropy.pointed").wait_for(state="detached")


@pytest.mark.parametrize("which", ["trainer", "scorer"])
def test_a_phone_scrolls_in_one_direction(workers, opened, which):
    page = opened(workers[which].address, width=360)
    page.locator("#top tbody tr").first.wait_for()
    page.get_by_role("button", name="Score").click()
    page.locator("#prediction").wait_for()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    beyond = page.evaluate("""[...document.querySelectorAll('main *, header *, footer *')]
        .filter(e => !e.closest('.unseen, .scroll') && e.getBoundingClientRect().right > 360.5)
        .map(e => e.outerHTML.slice(0, 90))""")
    assert beyond == []


POOR = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (v) => (v <= 10.31 ? v / 3294.6 : ((v / 255 + .055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const ground = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
  };
  return [...document.querySelectorAll('body *')]
    .filter((e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((e) => e.checkVisibility() && !e.closest('.unseen, .skip'))
    .map((e) => {
      const style = getComputedStyle(e);
      const ink = parse(e instanceof SVGElement ? style.fill : style.color);
      const [dark, light] = [luminance(ink), luminance(ground(e))].sort((a, b) => a - b);
      return [e.tagName, e.textContent.slice(0, 30), (light + .05) / (dark + .05)];
    })
    .filter(([, , contrast]) => contrast < 4.5);
}"""
"""Texts whose contrast with their ground is below what WCAG 2 asks for (AA), by its formula."""


def test_light_and_dark_can_be_read(workers, opened):
    grounds = []
    for scheme in ("light", "dark"):
        page = opened(workers["trainer"].address, scheme=scheme)
        page.locator("#top tbody tr").first.wait_for()
        page.get_by_role("button", name="Score").click()
        page.locator("#prediction").wait_for()
        assert page.evaluate(POOR) == []
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", ground))) for ground in grounds)
    assert light > 600
    assert dark < 120


def test_asks_for_the_token_and_keeps_it(made_up, opened):
    address = made_up({"ctr_commits": 1.0, "ctr_commit_rows": 5.0}, [], token="sesame")
    page = opened(address, wait=False, allowed=re.compile("401"))
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("That is not the token.").wait_for()
    assert page.locator("#main").is_hidden()
    page.get_by_label("Token").fill("sesame")
    page.keyboard.press("Enter")
    page.locator("#main").wait_for()
    page.reload()
    page.locator("#main").wait_for()
    assert "sesame" not in page.url
    assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"


HOSTILE = "<img src=x onerror=document.title='broken-in'>"
WINDOW = ("view", "window", "slice")
BINS = ("view", "window", "bin")
DECLARED = [
    Metric("ctr_source_lag", "gauge", "", ("partition",)),
    *(Metric(f"ctr_{name}", "gauge", "", WINDOW) for name in (
        "window_events", "base_rate_ratio", "logloss", "normalized_entropy_ratio", "auc_ratio", "calibration_ratio")),
    *(Metric(f"ctr_calibration_bin_{name}", "gauge", "", BINS)
      for name in ("prediction_ratio", "label_ratio", "weight")),
    Metric("ctr_guard_value", "gauge", "", ("check",)),
    Metric("ctr_guard_limit", "gauge", "", ("check",)),
    Metric("ctr_guard_refusals", "counter", "", ("reason",)),
    Metric("ctr_drift_detections", "counter", "", ("direction",)),
    Metric("ctr_join_answers", "counter", "", ("result",)),
    Metric("ctr_skew_fields", "counter", "", ("field",)),
]  # fmt: skip


def judged(whole, part):
    return {
        ("trainer", "events", "all"): whole, ("trainer", "time", "all"): 77.0, ("trainer", "events", HOSTILE): part,
    }  # fmt: skip


def test_quality_guard_and_drift_where_they_are(made_up, opened):
    numbers = {
        "ctr_source_lag": {(HOSTILE,): 7.0, ("b",): 1.0},
        "ctr_window_events": judged(50_000.0, 900.0),
        "ctr_base_rate_ratio": judged(0.04, 0.01),
        "ctr_logloss": judged(0.15, 0.2),
        "ctr_normalized_entropy_ratio": judged(0.9, 1.2),
        "ctr_auc_ratio": judged(0.7, float("nan")),
        "ctr_calibration_ratio": judged(1.0, 1.1),
        **{f"ctr_calibration_bin_{name}": {("trainer", "events", str(i)): value * (i + 1) for i in range(3)}
           for name, value in (("prediction_ratio", 0.01), ("label_ratio", 0.012), ("weight", 1000.0))},
        "ctr_guard_value": {("norm",): 3.0, ("finite",): 2.0}, "ctr_guard_limit": {("norm",): 50.0, ("finite",): 0.0},
        "ctr_guard_refusing": 1.0, "ctr_guard_refusals": {("finite",): 1.0}, "ctr_guard_armed": 1.0,
        "ctr_drift_detections": {("up",): 2.0, ("down",): 1.0}, "ctr_drift_last_seconds": time.time() - 120,
    }  # fmt: skip
    address = made_up(numbers, DECLARED)
    page = opened(address)
    assert page.locator("#entropy .legend").inner_text().split() == ["model", "0.900", "base", "rate", "1.000"]
    assert page.locator("#plot circle").count() == 3
    page.locator("#plot .plotbox").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#plot .legend").inner_text() == "predicted 1.00 %, clicked 1.20 % of 1.00 k"
    assert "the stream changed 3 \N{MULTIPLICATION SIGN}, last at" in page.locator("#guard .facts").inner_text()
    assert page.locator("#guard .b-three").count() == 1  # what spoke against the cut
    alerts = page.locator("#alert-list strong").all_inner_texts()
    assert alerts == ["The guard holds a cut back: nothing is published"]
    page.locator("#slices").wait_for()
    cells = page.locator("#slice-rows tr").first.locator("th, td").all_inner_texts()
    assert cells == [HOSTILE, "900", "1.00 %", "1.200", "\N{EN DASH}", "1.100"]
    assert HOSTILE in page.locator("#lag .facts").inner_text()
    assert page.locator("main img").count() == 0
    assert page.title() == "● ads@1 · trainer"
    for absent in ("throughput", "commits", "stages", "staleness", "latency"):
        assert page.locator(f"#{absent}").is_hidden()


def test_rates_and_quantiles_of_one_process_at_a_time(made_up, opened):
    page = opened(made_up({"ctr_table_rows": 5.0}, []))
    duration = "ctr_score_request_duration_seconds"

    def answer(boot, t, commits, buckets):
        series = [{"name": "ctr_commits", "labels": {}, "values": commits}] + [
            {"name": duration, "labels": {"le": bound}, "values": counts} for bound, counts in buckets.items()
        ]
        return {"boot": boot, "looked": t[-1], "metrics": {}, "models": [{"name": "ads"}],
                "points": {"t": t, "series": series}}  # fmt: skip

    # Ten commits a second; a new process at 30, whose counter is above the first one's from the beginning.
    first = answer("a", [0, 1, 2, 3, 4], [0, 10, 20, 30, 40], {
        "0.01": [0, 0, 0, 0, 30], "0.02": [0, 0, 0, 0, 90], "+Inf": [0, 0, 0, 0, 100]})  # fmt: skip
    second = answer("b", [30, 31], [500, 505], {"0.01": [0, 1], "0.02": [0, 1], "+Inf": [0, 1]})
    found = page.evaluate(
        """async (answers) => {
            const { State } = await import('/page/state.js');
            const state = new State();
            answers.forEach((answer) => state.take(answer));
            return { t: state.t, rate: state.rate('ctr_commits', {}, 2), half: state.quantile(0.5) };
        }""",
        [first, first, second],
    )
    assert found["t"] == [0, 1, 2, 3, 4, 30, 31]
    assert found["rate"] == [None, 10, 10, 10, 10, None, 5]
    # 30 of 100 below 10 ms, 90 below 20 ms: the 50th lies a third of the way between, as histogram_quantile has it
    assert found["half"] == [None, None, None, None, pytest.approx(0.01 + 0.01 / 3), None, pytest.approx(0.005)]


def test_what_was_served_is_judged_too(made_up, opened):
    served = {("served", "events", "all"): 0.95}
    counts = {("joined",): 0.0, ("expired",): 0.0}
    skewed = {("user",): 0.0}
    numbers = {
        "ctr_window_events": {("served", "events", "all"): 700.0}, "ctr_normalized_entropy_ratio": served,
        "ctr_join_answers": counts, "ctr_join_waiting": 12.0, "ctr_skew_compared": 0.0, "ctr_skew_fields": skewed,
    }  # fmt: skip
    page = opened(made_up(numbers, DECLARED))
    assert page.locator("#entropy .legend b").first.inner_text() == "0.950"
    assert page.locator("#waiting .legend").inner_text().split() == ["waiting", "12"]
    assert "12 wait" in page.locator("#tiles").inner_text()
    numbers["ctr_join_answers"] = {("joined",): 40.0, ("expired",): 4.0}
    numbers["ctr_skew_compared"], numbers["ctr_skew_fields"] = 40.0, {("user",): 10.0}
    page.locator("#skew b", has_text="25.0 %").wait_for()
    wait_for(lambda: page.locator("#joined .facts").inner_text() == "40 joined")


def test_a_worker_without_any_of_that(made_up, opened):
    address = made_up({"ctr_table_rows": 5.0}, [])
    page = opened(address)
    for absent in ("plot", "guard", "entropy", "slices"):
        assert page.locator(f"#{absent}").is_hidden()
    assert "Nothing is wrong" in page.locator("#alert-list").inner_text()
