"""Games between a person and an agent: the session, the engine, the terminal; the page is in test_play_page.py."""

import sys

import pytest
import torch
from nim import Nim

from rlcore import InputError, cli, registry
from rlcore.agents.alphazero import AlphaZero
from rlcore.agents.ppo import PPO
from rlcore.envs.games import ConnectFour, TicTacToe
from rlcore.envs.games.engine import LEVELS, Engine, Strength, draw
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.envs.games.session import Session, place
from rlcore.envs.games.terminal import Terminal, drawing, watch
from rlcore.envs.games.versus import VersusEnv
from rlcore.game import Cell, random_moves

SMALL = {"network": {"name": "policy_value", "hidden": [16]}, "eval_simulations": 20}
WON = [0, 4, 1, 5, 2]
"""Tic-tac-toe: the first player's upper row."""


def alphazero(game="tictactoe", **settings):
    env = SelfPlayEnv(SelfPlayEnv.Settings(num_envs=2, game=game))
    return AlphaZero(env, AlphaZero.Settings.model_validate({**SMALL, **settings}))


def versus(agent="ppo"):
    settings = {"num_envs": 2, "game": "tictactoe", "pool": [{"name": "random"}]}
    env = VersusEnv(VersusEnv.Settings.model_validate(settings))
    kind = registry.agents[agent]
    return kind(env, kind.Settings())


# The board


def test_a_click_anywhere_in_a_column_drops_a_stone_to_where_it_lies():
    session = Session(ConnectFour())
    assert [cell.action for cell in session.board()] == [*range(7)] * 6
    for height in range(6):
        where = place(session.board(), 3)
        assert (session.board()[where].x, session.board()[where].y) == (3, 5 - height)
        session.play(3)
        assert session.last == where
        assert session.board()[where].owner == height % 2


@pytest.mark.parametrize(
    ("game", "moves", "line"),
    [
        (TicTacToe(), WON, {(0, 0), (1, 0), (2, 0)}),
        (TicTacToe(), [2, 0, 4, 1, 6], {(2, 0), (1, 1), (0, 2)}),
        (ConnectFour(), [3, 0, 3, 0, 3, 0, 3], {(3, 2), (3, 3), (3, 4), (3, 5)}),
        (ConnectFour(), [0, 1, 1, 2, 2, 3, 2, 3, 3, 6, 3], {(0, 5), (1, 4), (2, 3), (3, 2)}),
        (ConnectFour(), [1, 6, 2, 6, 4, 5, 5, 6, 3], {(1, 5), (2, 5), (3, 5), (4, 5)}),
        (TicTacToe(), WON[:4], set()),
    ],
)
def test_the_cells_of_the_winning_line_decided(game, moves, line):
    assert {(cell.x, cell.y) for cell in Session(game, moves).board() if cell.decisive} == line


@pytest.mark.parametrize("game", [TicTacToe(), ConnectFour()])
def test_there_is_a_line_exactly_where_one_has_won(game):
    state, won = game.initial(500), []
    for _ in range(game.max_moves):
        after, reward, over = game.step(state, random_moves(game.legal(state)))
        line = game.line_of(after[:, 1])
        assert ((line != 0) == (reward > 0)).all()
        assert (line & ~after[:, 1] == 0).all()
        assert (game.has_line(line) == (reward > 0)).all()
        won.append(reward > 0)
        state = after[~over]
    assert torch.cat(won).sum() > 100


def test_a_move_without_a_cell_has_no_place():
    board = [Cell(0, 0, 0, label="3"), Cell(1, 0), Cell(2, 0, 0, label="4")]
    assert place(board, 0) == 2  # where all are taken the last one, as the tile that is moved
    assert place(board, 1) is None
    assert Nim().board(Nim().initial(1)[0]) == ()


# The session


def test_moves_are_made_and_taken_back():
    session = Session(TicTacToe(), WON)
    assert (session.outcome, session.legal, session.player) == (1, [], 1)
    assert session.undo([1])  # the second player's last move, and what came after it
    assert (session.moves, session.player, session.outcome) == ([0, 4, 1], 1, None)
    assert session.legal == [2, 3, 5, 6, 7, 8]
    assert session.undo()
    assert session.moves == [0, 4]
    assert torch.equal(session.state, Session(TicTacToe(), [0, 4]).state)
    assert Session(TicTacToe(), [0]).undo([1]) is False
    assert Session(TicTacToe(), [8, 0, 4, 1, 3, 2]).outcome == -1
    assert Session(TicTacToe(), [0, 1, 2, 4, 3, 5, 7, 6, 8]).outcome == 0


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ([4, 4], "5 cannot be played now; legal: 1 2 3 4 6 7 8 9"),
        ([9], "the move number 9 cannot be played now; legal: 1 2"),
        ([-1], "the move number -1 cannot be played now"),
        ([*WON, 8], "9 cannot be played now; legal: none, the game has ended"),
    ],
)
def test_a_move_that_cannot_be_made_is_one_line(moves, message):
    with pytest.raises(InputError, match=message):
        Session(TicTacToe(), moves)


def test_moves_are_read_by_their_names():
    session = Session(TicTacToe())
    assert session.parse(" 5, 1 9 ") == [4, 0, 8]
    with pytest.raises(InputError, match="'x' is not a move; moves are named as 1 2 3"):
        session.parse("5 x")


# The engine


def test_an_analysis_is_what_the_search_found():
    agent = alphazero()
    session = Session(agent.game, [0, 4, 1, 5])
    found, analysis = agent.search(session.state, 40), Engine(agent).analyse(session.state, Strength(40))
    assert analysis.action == int(found.action)
    assert sum(analysis.visits.values()) == 40
    assert [*analysis.visits] == session.legal
    assert analysis.shares == pytest.approx({a: n / 40 for a, n in analysis.visits.items()})
    assert analysis.value == pytest.approx(float(found.value))
    assert analysis.values[2] == 1  # it wins at once, and a win is exact
    assert (analysis.action, analysis.variation) == (2, [2])


def test_the_principal_variation_is_played_by_both_sides():
    agent = alphazero(eval_simulations=2000)
    session = Session(agent.game, [0, 4, 8, 2])  # the first player must block at 6, and then has a line of its own
    analysis = Engine(agent).analyse(session.state)
    assert analysis.variation[0] == analysis.action == 6
    ahead = Session(agent.game, [*session.moves, *analysis.variation])
    assert len(ahead.moves) > 6
    assert ahead.outcome in (None, 1)


@pytest.mark.parametrize("agent", [versus(), alphazero()])
def test_the_policy_alone_is_the_agents_distribution(agent):
    engine, session = Engine(agent), Session(TicTacToe(), [4])
    analysis = engine.analyse(session.state, Strength(0))
    expected = agent.distribution(engine.observe(session.state)).log_probs.exp()[0]
    assert analysis.shares == pytest.approx({a: float(expected[a]) for a in session.legal}, abs=1e-6)
    assert analysis.action == int(expected.argmax())
    assert (analysis.value, analysis.values, analysis.visits) == (None, {}, {})
    assert engine.searches == isinstance(agent, AlphaZero)


def test_an_agent_without_a_distribution_is_sure_of_its_move():
    agent = versus("dqn")
    engine, session = Engine(agent), Session(TicTacToe(), [4])
    analysis = engine.analyse(session.state)
    assert analysis.action == int(agent.predict(engine.observe(session.state)).action)
    assert analysis.shares[analysis.action] == 1


def test_temperature_sharpens_the_shares():
    shares = torch.tensor([0.6, 0.3, 0.1, 0.0])
    for temperature, expected in ((1.0, shares), (0.5, shares**2 / (shares**2).sum()), (1e-3, torch.eye(4)[0])):
        drawn = torch.bincount(torch.tensor([draw(shares, temperature) for _ in range(2000)]), minlength=4) / 2000
        assert (drawn - expected).abs().max() < 0.04
        assert drawn[3] == 0
    assert {draw(shares, temperature) for temperature in (1e-40, 1e-300)} == {0}
    session = Session(TicTacToe())
    actions = {Engine(alphazero()).analyse(session.state, Strength(20, 50.0)).action for _ in range(30)}
    assert len(actions) > 3


def test_agents_of_no_game_or_with_a_memory_are_refused():
    env = registry.envs["cartpole"](registry.envs["cartpole"].Settings(num_envs=2))
    with pytest.raises(InputError, match="play: mine: needs positions of a game"):
        Engine(PPO(env), "mine")
    with pytest.raises(InputError, match="play: mine remembers what it saw"):
        Engine(versus("recurrent_ppo"), "mine")


# The terminal


@pytest.fixture
def play(monkeypatch, capsys):
    """Plays in the terminal with some answers, then Ctrl-D: what was printed."""

    def run(agent, answers, first=True, **settings):
        left = iter(answers)

        def answer(prompt):
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", answer)
        Terminal(agent, **{"simulations": 10, **settings}).run(first)
        return capsys.readouterr().out

    return run


def test_a_game_in_the_terminal(play):
    out = play(alphazero(), ["5", "5", "x", "hint", "undo", "undo", "1", "help"])
    assert out.startswith("You are X and begin; I am O: the agent, 10 simulations\n")
    assert "5 cannot be played now; legal: " in out
    assert "'x' is not a move" in out
    assert "I would play" in out
    assert "you have no move to take back" in out
    assert "expected" in out
    assert out.rstrip().endswith("Goodbye.")
    out = play(alphazero(), [], first=False)
    assert out.startswith("You are O and move second; I am X")
    assert "I play" in out


def test_a_game_in_the_terminal_ends(play):
    out = play(alphazero(), [str(cell) for cell in range(1, 10)] * 3)
    assert any(words in out for words in ("A draw.", "You win.", "I win."))
    assert "Another game." in out
    assert "You are O and move second" in out


def test_a_move_after_undo_is_made_where_undo_led(monkeypatch):
    answers = iter(["5", "undo", "9", "quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    played = Terminal(alphazero(), 10)
    played.run(person_begins=True)
    assert [int(played.session.game.legal(state).sum()) for state in played.session.states] == [9, 8, 7]
    assert played.session.moves[0] == 8


def test_who_wins_is_told_from_either_side(play):
    assert "You win." in play(alphazero(), ["position 1 5 2 6", "3"])
    assert "A draw." in play(alphazero(), ["position 1 2 3 5 4 6 8 7", "9"])
    assert "I win." in play(alphazero(), ["position 1 5 2 6 9", "hint"], simulations=50)  # 4 wins for the agent


def test_levels_analysis_and_positions_in_the_terminal(play):
    out = play(alphazero(), ["level 1", "level 9", "position 1 5", "position 1 1", "position 1 4 2 5 3", "analysis"])
    assert "from now on level 1, the policy alone, temperature 1" in out
    assert "level: must be 1 to 5, got 9" in out
    assert "[O]" in out
    assert "1 cannot be played now" in out
    assert "the game has ended there" in out
    assert "visits" in out.split("the game has ended there")[1]
    out = play(versus(), ["5", "analysis", "hint"], simulations=None)
    assert "level 4, the policy alone" in out
    assert "(policy: " in out
    assert "expected" not in out


def test_the_drawn_board():
    assert drawing(Session(TicTacToe(), [4, 0])).plain == "[O] 2  3 \n 4  X  6 \n 7  8  9 "
    assert drawing(Session(TicTacToe(), WON)).plain == "*X**X**X*\n .  O  O \n .  .  . "
    assert drawing(Session(ConnectFour(), [3])).plain.splitlines()[-2:] == [
        " .  .  .  4  .  .  . ",
        " 1  2  3 [X] 5  6  7 ",
    ]
    assert drawing(Session(Nim())).plain == "|\n||\n|||"


@pytest.mark.parametrize(("variables", "coloured"), [({}, False), ({"FORCE_COLOR": "1"}, True)])
def test_colours_are_for_terminals(play, monkeypatch, variables, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[1;36mX" in play(alphazero(), [])) == coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "36mX" not in play(alphazero(), [])


def test_two_agents_play_each_other_in_the_terminal(capsys):
    watch(Engine(alphazero(), "one"), Engine(versus(), "two"), LEVELS[1])
    out = capsys.readouterr().out
    assert out.startswith("X is one, the policy alone, temperature 1\nO is two, the policy alone, temperature 1\n")
    assert "X plays" in out
    assert "O plays" in out
    assert out.rstrip().endswith(("A draw.", "X wins.", "O wins."))


# The command


@pytest.fixture
def rlcore_(workdir, monkeypatch, capsys):
    """Runs the command line in this process: exit status, output, errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return call


def test_the_command_plays_runs_by_their_checkpoints(rlcore_, monkeypatch):
    small = ("trainer.total_steps=64", "env.num_envs=8", "agent.network.hidden=[8]")
    assert rlcore_("train", "tictactoe_alphazero", "--run-dir", "runs/a", "env.positions=null", *small)[0] == 0
    versus = ("env.name=versus", "env.game=tictactoe", "env.pool=[{name: random}]", "agent.minibatch_size=32")
    assert rlcore_("train", "ppo", "--run-dir", "runs/b", *versus, *small[:2])[0] == 0
    assert (
        rlcore_("train", "ppo", "--run-dir", "runs/c", "env.name=cartpole", "agent.minibatch_size=32", *small[:2])[0]
        == 0
    )
    monkeypatch.setattr("builtins.input", lambda prompt: "quit")

    code, out, _ = rlcore_("play", "runs/b", "--second", "--level", 1, "--checkpoint", "last")
    assert (code, out.splitlines()[0]) == (
        0,
        "You are O and move second; I am X: runs/b (last), level 1, the policy alone, temperature 1",
    )
    code, out, _ = rlcore_("play", "runs/a", "runs/b", "--simulations", 2)
    assert out.startswith("X is runs/a, 2 simulations\nO is runs/b, the policy alone\n")
    assert code == 0
    for words, message in (
        (("runs/c",), "play: runs/c: needs positions of a game (env.name=selfplay or versus), got "),
        (("runs/a", "--checkpoint", "beste"), "there is no checkpoint beste"),
        (
            ("runs/a", "--checkpoint", "last", "--checkpoint", "last"),
            "play: --checkpoint is given 2 times, more often than runs (1)",
        ),
        (("runs/a", "--level", 2, "--simulations", 3), "play: --level sets --simulations and --temperature"),
        (("runs/a", "--level", 6), "Invalid value for '--level'"),
    ):
        code, _, err = rlcore_("play", *words)
        assert code == 2
        assert message in err
        assert len(err.splitlines()) == 1


def test_agents_of_two_games_do_not_play_each_other(rlcore_):
    small = ("trainer.total_steps=64", "env.num_envs=8", "env.positions=null")
    for name, game in (("a", "tictactoe"), ("b", "connect4")):
        words = (f"env.game={game}", "agent.network={name: policy_value, hidden: [8]}", "agent.simulations=2")
        assert rlcore_("train", "tictactoe_alphazero", "--run-dir", f"runs/{name}", *words, *small)[0] == 0
    code, _, err = rlcore_("play", "runs/a", "runs/b")
    assert code == 2
    assert "play: runs/a plays TicTacToe, runs/b plays ConnectFour; two agents of one game can play each other" in err


def test_the_former_session_is_the_terminal():
    from rlcore.envs.games import play

    with pytest.warns(DeprecationWarning, match="Session is now"):
        assert play.Session is Terminal


# Every game


@pytest.mark.parametrize("name", registry.games.names())
def test_every_game_is_drawn_and_played_and_taken_back(name):
    """What is drawn may be clicked, what is the same stays the same, whoever is to move, with dice or alone."""
    game, torch_draws = registry.games[name](), torch.Generator().manual_seed(0)
    session = Session(game, seed=5)
    while not session.ended:
        board, legal = session.board(), torch.tensor([session.legal])
        clicked = {cell.action for cell in board} - {None}
        assert clicked <= set(range(game.num_actions))
        places = [place(board, action) for action in session.legal if action in clicked]
        assert len(set(places)) == len(places)
        assert session.player == game.to_move(session.state).item()
        chosen = torch.randint(legal.shape[1], (), generator=torch_draws)
        session.play(int(legal[0, chosen]))
    assert session.legal == []
    again = Session(game, session.moves, seed=5)
    assert torch.equal(again.state, session.state)
    assert again.outcome == session.outcome
    assert len(session.movers) == len(session.moves) == len(session.rewards)
    drawing(session)
    while session.undo([0]):
        assert session.outcome is None
    assert session.player == 0
    for text in map(game.action_name, Session(game, seed=5).legal):
        assert Session(game, seed=5).parse(text) == [game.parse_action(text)]


def test_who_moves_again_takes_back_one_of_several_moves():
    session = Session(registry.games["dots_and_boxes"](), [0, 3, 12, 13])  # the second player closes a box
    assert session.movers == [0, 1, 0, 1]
    assert session.player == 1
    assert next(cell.owner for cell in session.board() if cell.filled) == 1
    session.play(1)
    assert session.undo([1])
    assert session.moves == [0, 3, 12, 13]
    assert session.undo([0])
    assert session.moves == [0, 3]


def test_dice_are_those_of_the_seed_and_of_the_number_of_moves():
    game = registry.games["einstein"]()
    thrown = set()
    for seed in range(40):
        session = Session(game, seed=seed)
        die = int(session.state[0, 12])
        thrown.add(die)
        session.play(session.legal[0])
        first = session.state
        session.undo()
        assert int(session.state[0, 12]) == die
        session.play(session.legal[0])
        assert torch.equal(session.state, first)
    assert thrown == {1, 2, 3, 4, 5, 6}


def test_a_puzzle_is_played_alone_in_the_terminal(monkeypatch, capsys):
    asked = iter(["hint", "analysis", *["up", "down", "left", "right"] * 60, "quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(asked))
    torch.manual_seed(1)
    Terminal(alphazero("eight_puzzle"), 5).run(person_begins=False)
    printed = capsys.readouterr().out
    assert "You play; I can be asked for a hint" in printed
    assert "I would play" in printed
    assert "The game has ended with " in printed
    assert "I play" not in printed
