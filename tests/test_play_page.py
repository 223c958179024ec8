"""The page of ``rlcore play --web``: its calls, over HTTP; and the page itself, in a browser where there is one."""

import json
import shutil
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from nim import Nim
from test_play import WON, alphazero, versus

from rlcore import InputError, registry
from rlcore.envs.games.engine import LEVELS, Engine, Strength
from rlcore.envs.games.server import Guard, hostname, listen, make_app, title
from rlcore.envs.games.session import Session

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def serving(*engines, **settings):
    """Serves a page; its port."""
    with listen("127.0.0.1", 0) as listening:
        app = make_app(engines, **settings)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port():
    with serving(Engine(alphazero(), "searcher"), Engine(versus(), "policy"), strength=LEVELS[2]) as port:
        yield port


def ask(port, what, question=None, body=None, **headers):
    """Status, answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps(question) if body is None and question is not None else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", what, body, named)
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    is_json = answer.headers["content-type"] == "application/json"
    return answer.status, json.loads(content) if is_json else content


# Its calls


def test_a_whole_game_is_played_by_calls(port):
    status, facts = ask(port, "/api/game")
    assert (status, facts["title"], facts["names"][4], facts["person"]) == (200, "Tic tac toe", "5", 0)
    assert [agent["searches"] for agent in facts["agents"]] == [True, False]
    assert facts["strength"] == {"simulations": 16, "temperature": 0.5}
    moves, over = [], None
    while over is None:
        position = ask(port, "/api/position", {"moves": moves})[1]
        session = Session(alphazero().game, moves)
        assert (position["legal"], position["player"]) == (session.legal, len(moves) % 2)
        assert [cell["owner"] for cell in position["cells"]] == [cell.owner for cell in session.board()]
        assert position["last"] == (moves[-1] if moves else None)
        over = position["outcome"]
        if over is None:
            analysis = ask(port, "/api/analysis", {"moves": moves, "agent": len(moves) % 2, "simulations": 8})[1]
            assert [*map(int, analysis["shares"])] == session.legal
            assert sum(analysis["visits"].values()) == (8 if len(moves) % 2 == 0 else 0)
            moves.append(analysis["action"])
    assert over == session.outcome


def test_the_variation_says_where_its_moves_go(port):
    analysis = ask(port, "/api/analysis", {"moves": [0, 4, 1, 5], "agent": 0, "simulations": 30})[1]
    assert analysis["variation"] == [{"action": 2, "player": 0, "place": 2}]


@pytest.mark.parametrize(
    ("what", "question", "message"),
    [
        ("position", {"moves": [4, 4]}, "5 cannot be played now; legal: 1 2 3 4 6 7 8 9"),
        ("position", {"moves": [99]}, "the move number 99 cannot be played now; legal: 1 2"),
        ("position", {"moves": [*WON, 8]}, "9 cannot be played now; legal: none, the game has ended"),
        ("position", {"moves": "4"}, "moves: must be a valid array, got '4'"),
        ("position", {"moves": [4.5]}, "moves.0: must be a valid integer"),
        ("position", {}, "moves: missing"),
        ("position", [], "the request: must be a mapping"),
        ("position", {"moves": [], "agent": 0}, "agent: unknown key"),
        ("analysis", {"moves": WON, "agent": 0}, "the game has ended: there is nothing to analyse"),
        ("analysis", {"moves": [], "agent": 2}, "agent: must be 0 to 1, got 2"),
        ("analysis", {"moves": [], "agent": 0, "simulations": 10**9}, "simulations: must be less than or equal to"),
        ("analysis", {"moves": [], "agent": 0, "temperature": -1}, "temperature: must be greater than or equal to 0"),
    ],
)
def test_a_mistake_is_one_line(port, what, question, message):
    status, answer = ask(port, f"/api/{what}", question)
    assert status == 400
    assert answer["error"].startswith(message)
    assert "\n" not in answer["error"]


def test_what_is_no_json_and_what_is_too_long_is_refused(port):
    status, answer = ask(port, "/api/position", body="{")
    assert (status, len(answer["error"].splitlines())) == (400, 1)
    assert ask(port, "/api/position", body=" " * 70_000)[0] == 413
    assert ask(port, "/api/position")[0] == 404  # calls are POSTs
    assert ask(port, "/../server.py")[0] == 404


def test_only_this_page_is_answered(port):
    own = f"127.0.0.1:{port}"
    question = {"moves": []}
    assert ask(port, "/api/position", question, Origin=f"http://{own}")[0] == 200
    for headers in (
        {"Host": f"evil.example:{port}"},  # whose name was made to point here
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{port + 1}"},  # another program on this machine
        {"Origin": f"https://{own}"},
    ):
        status, answer = ask(port, "/api/position", question, **headers)
        assert status == 403
        assert answer.startswith("refused: ")
        assert ask(port, "/", **headers)[0] == 403


@pytest.mark.parametrize(
    ("host", "meant", "not_meant"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost", "::1"], ["evil.example", "192.168.0.7", ""]),
        ("Box.local", ["box.local", "localhost"], ["evil.example", "192.168.0.7"]),
        ("0.0.0.0", ["192.168.0.7", "localhost", "fe80::1"], ["evil.example", "192.168.0.7.evil.example"]),
    ],
)
def test_the_hosts_that_are_meant(host, meant, not_meant):
    guard = Guard(None, host)
    assert all(map(guard.is_meant, meant))
    assert not any(map(guard.is_meant, not_meant))


def test_a_host_is_named_with_or_without_a_port():
    given = ("127.0.0.1:80", "LOCALHOST", "[::1]:8000", "[::1]", "")
    assert [*map(hostname, given)] == ["127.0.0.1", "localhost", "::1", "::1", ""]


def test_a_port_that_is_taken_is_one_line(port):
    with pytest.raises(InputError, match=rf"play: cannot serve at 127.0.0.1, port {port}: .*; --port 0 takes one"):
        listen("127.0.0.1", port)
    assert title(alphazero("connect4").game) == "Connect four"


def test_nothing_of_the_page_comes_from_elsewhere(port):
    connection = HTTPConnection("127.0.0.1", port)
    for name in ("/", "/play.js", "/play.css"):
        connection.request("GET", name)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    connection.close()


# In a browser


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
def open_page(browser):
    """Opens tabs of one window; an error of the page fails the test."""
    window, errors = browser.new_context(), []

    def open_one(port):
        page = window.new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"http://127.0.0.1:{port}")
        return page

    yield open_one
    window.close()
    assert errors == []


@pytest.fixture(scope="module")
def against_one():
    with serving(Engine(alphazero(), "the agent"), strength=Strength(8)) as port:
        yield port


def cell(page, index):
    return page.locator(f"[data-index='{index}']")


def moves(page, number):
    """The names of the moves, once there are so many."""
    page.locator(f"#record li:nth-child({number})").wait_for()
    return page.locator("#record li").all_text_contents()


def playable(page, number):
    """Waits until so many moves were made and the person is to move."""
    moves(page, number)
    page.locator("#status:has-text('Your move')").wait_for()


@pytest.mark.browser
def test_a_whole_game_by_clicks(open_page, against_one):
    page = open_page(against_one)
    page.locator("h1:has-text('Tic tac toe')").wait_for()
    for number in range(5):
        page.locator(".playable[role=button]").first.click()
        page.locator(f"#record li:nth-child({2 * number + 1})").wait_for()
        page.locator("#status:not(:has-text('thinking'))").wait_for()
        if "Your move" not in page.locator("#status").text_content():
            break
    over = page.locator("#status").text_content().strip()
    assert over in ("A draw.", "You win.", "the agent wins.")
    assert page.locator(".decisive").count() == (0 if over == "A draw." else 3)
    assert page.locator(".last").count() == 1
    assert page.locator(".playable").count() == 0
    before = page.locator("#record li").count()
    cell(page, 0).click()
    page.locator("#message:has-text('The game has ended.')").wait_for()
    page.locator("#undo").click()
    page.locator("#status:has-text('Your move')").wait_for()
    assert page.locator("#record li").count() < before
    page.locator("#new").click()
    page.locator("#record:not(:has(li))").wait_for(state="attached")
    assert page.locator(".playable").count() == 9


@pytest.mark.browser
def test_an_illegal_click_changes_nothing(open_page, against_one):
    page = open_page(against_one)
    cell(page, 4).click()
    playable(page, 2)
    cell(page, 4).click()
    page.locator("#message:has-text('5 cannot be played now.')").wait_for()
    assert len(moves(page, 2)) == 2


@pytest.mark.browser
def test_two_tabs_have_a_game_each_and_keep_it_when_loaded_again(open_page, against_one):
    one, two = open_page(against_one), open_page(against_one)
    cell(one, 4).click()
    cell(two, 0).click()
    playable(one, 2)
    playable(two, 2)
    before = moves(one, 2), moves(two, 2)
    assert [names[0] for names in before] == ["5", "1"]
    one.reload()
    playable(one, 2)
    assert (moves(one, 2), moves(two, 2)) == before
    one.locator("#undo").click()
    one.locator("#record:not(:has(li))").wait_for(state="attached")
    assert moves(two, 2) == before[1]


@pytest.mark.browser
def test_a_position_is_set_up_hinted_and_analysed(open_page, against_one):
    page = open_page(against_one)
    page.locator("#setup").click()
    page.locator("#moves").fill("1 5 2 6")
    page.locator("#moves").press("Enter")
    moves(page, 4)
    page.locator("#hint").click()
    page.locator("#message:has-text('Hint: 3, ')").wait_for()
    assert page.locator(".hinted").count() == 1
    page.locator(".switch").click()
    page.locator("#variation:has-text('Best play: 3')").wait_for()
    assert page.locator("#bars tr.best td").first.text_content() == "3"
    assert page.locator("#bars tbody tr").count() == 5
    page.locator("#moves").fill("1 5 x")
    page.locator("#moves").press("Enter")
    page.locator("#message:has-text('x is not a move.')").wait_for()
    page.locator("#moves").fill("1 1")
    page.locator("#moves").press("Enter")
    page.locator("#message:has-text('1 cannot be played now; legal: 2 3')").wait_for()
    assert moves(page, 4) == ["1", "5", "2", "6"]
    page.locator("#setup").click()
    page.locator("#status:has-text('Your move')").wait_for()
    cell(page, 2).click()
    page.locator("#status:has-text('You win.')").wait_for()


@pytest.mark.browser
def test_the_agent_begins_after_sides_are_swapped(open_page, against_one):
    page = open_page(against_one)
    page.locator("#swap").click()
    playable(page, 1)
    page.locator(".seat .level").first.select_option("1")
    assert page.locator(".seat .temperature").first.input_value() == "1"


@pytest.mark.browser
def test_two_agents_play_each_other_until_they_are_stopped(open_page, port):
    page = open_page(port)
    moves(page, 2)
    page.locator("#setup:has-text('Pause')").click()
    page.locator("#status:has-text('agents wait')").wait_for()
    page.locator("#setup:has-text('Go on')").click()
    page.locator("#status:has-text('wins.'), #status:has-text('A draw.')").wait_for()
    assert page.locator("#record li").count() >= 5


@pytest.mark.browser
def test_a_game_without_a_board_is_played_by_buttons(open_page, monkeypatch):
    monkeypatch.setitem(registry.games._registered, "nim", Nim)
    with serving(Engine(alphazero("nim"), "the agent"), strength=Strength(8)) as port:
        page = open_page(port)
        page.locator("#text:has-text('|||')").wait_for()
        assert page.locator("#others button").count() == 6
        page.locator("#others button").first.click()
        moves(page, 2)
