"""The page of ``rlcore export --web``, in a browser where there is one, with onnxruntime-web from a local folder."""

import json
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlcore import EnvSpec, InputError
from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.random_search import RandomSearch
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.supervised import Supervised
from rlcore.envs.cartpole import CartPole
from rlcore.exporting.page import OF_RUNTIME, PAGE, export_page
from rlcore.spaces import Inputs, Logits, Positions

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RUNTIME = Path(os.environ.get("ONNXRUNTIME_WEB", "node_modules/onnxruntime-web"))
"""The npm package, by a path from the working folder."""
CPU = torch.device("cpu")
BALANCING = [[0.0, 0.0, 0.0, 0.0], [0.1, 0.5, 3.0, 1.0]]
"""A linear policy that keeps the pole up: to the right where the sum is positive."""


def balancer():
    """An agent that balances CartPole without having learned."""
    agent = RandomSearch(CartPole(CartPole.Settings(num_envs=1)))
    with torch.no_grad():
        weight, bias = agent.kept.parameters()
        weight.copy_(torch.tensor(BALANCING))
        bias.zero_()
    return agent


def rememberer():
    """An agent with a memory, of no page of its own."""
    settings = {"horizon": 4, "minibatch_size": None, "network": {"name": "gru", "size": 3}}
    env = EnvSpec(2, Box(-1, 1, (2,)), Box(-1, 1, (1,)), CPU)
    return RecurrentPPO(env, RecurrentPPO.Settings.model_validate(settings))


def halves():
    """A classifier that says in which half of an image there is more ink: of the rows, from the top."""
    spec = EnvSpec(1, Inputs((28, 28, 1), np.uint8, scale=255.0, channels="last"), Logits(2), CPU, ("tall", "wide"))
    agent = Supervised(spec, Supervised.Settings.model_validate({"network": {"name": "mlp", "hidden": []}}))
    with torch.no_grad():
        weight, bias = agent.network.parameters()
        places = torch.arange(784)
        middle = ((places // 28 - 13.5).abs() > (places % 28 - 13.5).abs()).float() * 2 - 1  # above and below: tall
        weight.copy_(torch.stack([middle, -middle]))
        bias.zero_()
    return agent


def player():
    """A player of connect four that has not learned: only its search is any good."""
    settings = {"network": {"name": "mlp", "hidden": [8]}, "replay_size": 600}
    return AlphaZero(EnvSpec(1, Positions("connect4"), Discrete(7), CPU), AlphaZero.Settings.model_validate(settings))


AGENTS = {
    "cartpole": (balancer, {"env": {"name": "cartpole"}}),
    "memory": (rememberer, {}),
    "drawing": (halves, {}),
    "connect_four": (player, {"env": {"name": "selfplay", "game": "connect4"}}),
}
"""Agents by the name of their page, and what the metadata of their runs would say besides."""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Serves the page of each agent below its name."""
    if not all((RUNTIME / "dist" / name).is_file() for name in OF_RUNTIME):
        pytest.skip("needs onnxruntime-web: npm install onnxruntime-web, or its folder in ONNXRUNTIME_WEB")
    folder = tmp_path_factory.mktemp("pages")
    for name, (make, besides) in AGENTS.items():
        export_page(make(), folder / name, RUNTIME, num_observations=20)
        file = folder / name / "programs.json"
        file.write_text(json.dumps([{**one, **besides} for one in json.loads(file.read_text())]))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page of an agent; an error of it fails the test, and so does a call to elsewhere."""
    window, errors = browser.new_context(), []
    window.set_default_timeout(120_000)  # the machine may be busy

    def open_one(name):
        page = window.new_page()
        page.on("pageerror", lambda error: errors.append(error))  # playwright takes no built-in function
        page.on("request", lambda request: None if request.url.startswith(address) else errors.append(request.url))
        page.goto(f"{address}/{name}/")
        return page

    yield open_one
    window.close()
    assert errors == []


@pytest.mark.browser
def test_the_pole_is_balanced(open_page):
    page = open_page("cartpole")
    page.locator("h1:has-text('CartPole')").wait_for()
    page.wait_for_function("Number(document.getElementById('page').dataset.steps) >= 60")
    assert page.locator("#status").text_content().startswith("balanced for ")  # it falls within 30 steps on its own
    page.locator("#picture").click(position={"x": 5, "y": 5})
    page.wait_for_function("Number(document.getElementById('page').dataset.steps) >= 90")
    page.locator("#pause").click()
    page.locator("#pause:has-text('Go on')").wait_for()
    before = page.locator("#page").get_attribute("data-steps")
    assert "rotate(" in page.locator("#picture line[stroke='var(--second)']").get_attribute("transform")
    page.wait_for_timeout(200)
    assert page.locator("#page").get_attribute("data-steps") == before


@pytest.mark.browser
def test_the_physics_are_those_of_the_environment(open_page):
    page = open_page("memory")  # whose page leaves the processor alone
    env = CartPole(CartPole.Settings(num_envs=1))
    env.reset(seed=3)
    state = env._state[:, 0].tolist()
    for action in (1, 0, 0, 1, 1, 1, 0):
        asked = "async ([state, action]) => (await import('./cartpole.js')).step(state, action)"
        state = page.evaluate(asked, [state, action])
        env.step(torch.tensor([action]))
        np.testing.assert_allclose(state, env._state[:, 0], rtol=0, atol=1e-12)


@pytest.mark.browser
def test_what_is_drawn_is_classified(open_page):
    page = open_page("drawing")
    page.locator("h1:has-text('Draw an image')").wait_for()
    box = page.locator("#canvas").bounding_box()
    for name, (dx, dy) in {"tall": (0, 0.3), "wide": (0.3, 0)}.items():
        page.locator("#clear").click()
        x, y = box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4  # which is moved to the middle
        page.mouse.move(x - dx * box["width"], y - dy * box["height"])
        page.mouse.down()
        page.mouse.move(x + dx * box["width"], y + dy * box["height"], steps=5)
        page.mouse.up()
        page.locator(f"#status:has-text('{name}')").wait_for()
        assert page.locator("#bars tr.best td").first.text_content() == name
    assert page.locator("#bars tr").count() == 2


@pytest.mark.browser
def test_connect_four_is_played_by_clicks(open_page):
    page = open_page("connect_four")
    page.locator("#simulations").select_option("25")
    for number in range(1, 4):
        page.locator("#status:has-text('Your move')").wait_for()
        page.locator(f"circle[data-column='{number + 1}']").first.click()
        page.wait_for_function(f"document.querySelectorAll('.stone').length === {2 * number}")
    page.locator("#second").click()
    page.locator("#status:has-text('Your move')").wait_for()
    assert page.locator(".stone").count() == 1
    assert page.locator("#bars tr").count() == 7


@pytest.mark.browser
def test_the_search_wins_and_forestalls(open_page):
    page = open_page("memory")
    asked = """async ([moves, simulations]) => {
        const { search, play, legal } = await import('./connect_four.js');
        const even = async () => ({ probabilities: Array(7).fill(1 / 7), value: [0] });
        const position = moves.reduce(play, [0n, 0n]);
        return { ...(await search(position, even, simulations)), legal: legal(position) };
    }"""
    for moves, best in (([3, 0, 3, 0, 3, 0], 3), ([3, 0, 3, 0, 3], 3), ([0, 6, 1, 6, 2], 3), ([0, 6, 1, 6, 2, 5], 3)):
        found = page.evaluate(asked, [moves, 100])
        assert int(np.argmax(found["shares"])) == best
        assert sum(found["shares"]) == pytest.approx(1)
    full = page.evaluate(asked, [[0, 0, 0, 0, 0, 0], 20])
    assert full["legal"] == [1, 2, 3, 4, 5, 6]
    assert full["shares"][0] == 0


@pytest.mark.browser
def test_any_other_agent_has_fields_and_remembers(open_page):
    page = open_page("memory")
    fields = page.locator(".numbers input")
    fields.nth(1).wait_for()
    assert fields.count() == 2
    fields.nth(0).fill("0.5")
    fields.nth(1).fill("-1")
    seen = []
    for _ in range(2):
        page.locator("button.run").click()
        page.wait_for_function(f"document.querySelector('output[name=action]').textContent !== '{(seen or [''])[-1]}'")
        seen.append(page.locator("output[name=action]").text_content())
    assert seen[0] != seen[1]  # the memory is another
    page.locator("button.forget").click()
    page.locator("button.run").click()
    page.wait_for_function(f"document.querySelector('output[name=action]').textContent === '{seen[0]}'")
    assert -1 <= float(seen[0]) <= 1


def test_a_page_needs_the_runtime_and_a_folder_of_its_own(tmp_path):
    with pytest.raises(InputError, match=r"needs onnxruntime-web; .* npm install onnxruntime-web, or name its folder"):
        export_page(balancer(), tmp_path / "page", tmp_path)
    (tmp_path / "dist").mkdir()
    for name in OF_RUNTIME:
        (tmp_path / "dist" / name).write_text("")
    with pytest.raises(InputError, match="holds other files; name a new folder for the page"):
        export_page(balancer(), tmp_path, tmp_path)
    export_page(balancer(), tmp_path / "page", tmp_path, num_observations=10)
    written = {str(path.relative_to(tmp_path / "page")) for path in (tmp_path / "page").rglob("*") if path.is_file()}
    of_runtime = {f"runtime/{name}" for name in OF_RUNTIME}
    assert written == {"agent.onnx", "programs.json", *of_runtime, *(path.name for path in PAGE.iterdir())}
    for path in PAGE.iterdir():  # nothing comes from elsewhere
        assert "//" not in path.read_text().replace("http://www.w3.org/2000/svg", "").replace("// ", "")


def test_what_was_refused_can_be_tried_again(tmp_path):
    runtime = tmp_path / "onnxruntime-web"
    (runtime / "dist").mkdir(parents=True)
    for name in OF_RUNTIME:
        (runtime / "dist" / name).touch()
    for _ in range(2):
        with pytest.raises(InputError, match="is not a run"):
            export_page(tmp_path / "none", tmp_path / "page", runtime)
