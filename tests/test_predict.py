"""``rlcore predict``: what an agent of a data set answers to files."""

import csv
import re
import sys

import numpy as np
import PIL.Image
import pytest
import torch

import rlcore
from rlcore import cli
from rlcore.supervised.reading import open_inputs

polars = pytest.importorskip("polars")

MLP = "agent.network={name: mlp, hidden: [8]}"
DROPOUT = "agent.network={name: mlp, hidden: [8], dropout: 0.5}"
RNG = np.random.default_rng(1)
X = RNG.normal(size=(40, 3)).astype(np.float32)


@pytest.fixture
def rlcore_(workdir, monkeypatch, capsys):
    """Runs the command line in this process: its output; or, where it refuses, its one line."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        if not caught.value.code:
            return out
        assert caught.value.code == 2
        assert re.fullmatch(r"rlcore: .*\n", err)
        return err

    return call


@pytest.fixture
def train(rlcore_, workdir):
    """Trains for an epoch on arrays, or on a file, and takes that away: the run's agent."""

    def call(*words, inputs=None, targets=None, agent="supervised", file="data.npz"):
        if inputs is not None:
            np.savez(file, inputs=inputs, targets=targets)
        words = (f"env.dataset={file}", "env.num_envs=8", "trainer.epochs=1", MLP, *words)
        rlcore_("train", agent, "env.name=supervised", *words, "--run-dir", "run")
        (workdir / file).unlink()
        return rlcore.load("run", device="cpu")

    return call


def read(name):
    with open(name, newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def softmax(logits):
    return torch.from_numpy(logits).double().softmax(1).numpy()


def numbers(columns, start):
    return np.stack([column.astype(np.float32) for key, column in columns.items() if key.startswith(start)], 1)


def test_classes_of_a_table_in_any_order_of_columns_and_any_batch(rlcore_, train):
    city, kind = RNG.choice(["Rom", "Oslo"], 40), RNG.choice(["yes", "no", "so so"], 40)
    table = polars.DataFrame({"city": city, "a": X[:, 0], "b": X[:, 1], "kind": kind})
    table.write_csv("data.csv")
    agent = train("env.target=kind", "env.scaling=standard", file="data.csv")
    table.write_csv("new.csv")
    table.with_columns(more=1).select("more", "b", "city", "a").write_parquet("other.parquet")
    assert rlcore_("predict", "run", "new.csv", "out.csv") == "out.csv: 40 rows\n"
    found = read("out.csv")
    assert list(found) == ["class", "p_no", "p_so so", "p_yes", "entropy"]
    rows = open_inputs("new.csv", agent.observation_space)[:]
    logits = agent(rows)
    assert found["class"].tolist() == [agent.spec.classes[k] for k in logits.argmax(1)]
    p = softmax(logits)
    np.testing.assert_allclose(numbers(found, "p_"), p, rtol=1e-5)
    np.testing.assert_allclose(numbers(found, "entropy")[:, 0], -(p * np.log(p)).sum(1), rtol=1e-5)
    rlcore_("predict", "run", "other.parquet", "other.csv", "--batch-size", 7)
    again = read("other.csv")
    assert again["class"].tolist() == found["class"].tolist()
    np.testing.assert_allclose(numbers(again, "p_"), numbers(found, "p_"), rtol=1e-5)
    for k in (0, 39):
        np.testing.assert_allclose(agent(rows[k]), logits[k], rtol=1e-5)


def test_an_unknown_category_is_told_and_a_missing_value_refused(rlcore_, train):
    polars.DataFrame({"city": ["a", "b"] * 20, "a": X[:, 0], "y": X[:, 1]}).write_csv("data.csv")
    agent = train("env.target=y", "env.action=values", file="data.csv")
    polars.DataFrame({"city": ["a", "c", "c"], "a": [1.0, 2, 3]}).write_csv("new.csv")
    out = rlcore_("predict", "run", "new.csv", "out.csv")
    assert "column 'city' has categories that training lacks (c) in 2 of 3 rows: all its inputs are 0 there\n" in out
    rows = np.array([[1.0, 0, 1], [0, 0, 2], [0, 0, 3]])
    np.testing.assert_allclose(numbers(read("out.csv"), "value"), agent(rows), rtol=1e-6)
    polars.DataFrame({"city": ["a", None], "a": [1.0, 2]}).write_csv("new.csv")
    message = "new.csv: column 'city' has no value in 1 of 2 rows, the first is row 1; fill it in, or train with env"
    assert message in rlcore_("predict", "run", "new.csv", "out.csv")
    polars.DataFrame({"town": ["a"], "a": [1.0]}).write_csv("new.csv")
    assert "new.csv has no column 'city'; it has town, a" in rlcore_("predict", "run", "new.csv", "out.csv")


def test_numbers_of_arrays_in_every_kind_of_file(rlcore_, train):
    agent = train("env.action=values", "env.scaling=standard", inputs=X, targets=X[:, :2])
    expected = agent(X)
    np.savez("new.npz", inputs=X, other=X[:2])
    np.savez("one.npz", X)
    np.save("new.npy", X.astype(np.float64))
    np.save("row.npy", X[0])
    polars.DataFrame(X, schema=["a", "b", "c"]).write_csv("new.csv")
    polars.DataFrame(X, schema=["a", "b", "c"]).write_parquet("new.parquet")
    for name in ("new.npz", "one.npz", "new.npy", "new.csv", "new.parquet"):
        rlcore_("predict", "run", name, "out.csv", "--batch-size", 9)
        found = read("out.csv")
        assert list(found) == ["value_0", "value_1"]
        np.testing.assert_allclose(numbers(found, "value"), expected, rtol=1e-5, atol=1e-6)
    assert "out.csv: 1 rows" in rlcore_("predict", "run", "row.npy", "out.csv")
    rlcore_("predict", "run", "new.npz", "out.parquet")
    assert np.array_equal(polars.read_parquet("out.parquet").to_numpy(), expected)
    rlcore_("predict", "run", "new.npz", "out.npz")
    assert np.array_equal(np.load("out.npz")["value_1"], expected[:, 1])


def test_dropout_and_ensembles_say_how_far_their_answers_differ(rlcore_, train, workdir):
    agent = train(DROPOUT, inputs=X, targets=np.arange(40) % 2)
    np.save("new.npy", X)
    rlcore_("predict", "run", "new.npy", "one.csv")
    assert list(read("one.csv")) == ["class", "p_0", "p_1", "entropy"]
    np.testing.assert_allclose(numbers(read("one.csv"), "p_"), softmax(agent(X)), rtol=1e-5)
    rlcore_("predict", "run", "new.npy", "out.csv", "--passes", 5)
    found = read("out.csv")
    assert list(found) == ["class", "p_0", "p_1", "entropy", "mutual_information"]
    assert (numbers(found, "mutual") > 0).any()
    assert (numbers(found, "mutual") <= numbers(found, "entropy")).all()
    rlcore_("predict", "run", "new.npy", "again.csv", "--passes", 5)
    assert (workdir / "again.csv").read_bytes() == (workdir / "out.csv").read_bytes()


def test_members_of_an_ensemble_differ_about_numbers(rlcore_, train):
    member = "agent={name: ensemble, members: 2, agent: {name: supervised, network: {name: mlp, hidden: [8]}}}"
    words = ["env.dataset=data.npz", "env.num_envs=8", "env.action=values", "trainer.epochs=1"]
    np.savez("data.npz", inputs=X, targets=X[:, 0])
    rlcore_("train", "ensemble", "env.name=supervised", *words, member, "--run-dir", "run")
    agent = rlcore.load("run", device="cpu")
    np.save("new.npy", X)
    rlcore_("predict", "run", "new.npy", "out.csv")
    found = read("out.csv")
    assert list(found) == ["value", "epistemic_std"]
    first, second = (member(torch.from_numpy(X)).detach().numpy()[:, 0] for member in agent.members)
    np.testing.assert_allclose(numbers(found, "value")[:, 0], (first + second) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numbers(found, "epistemic")[:, 0], abs(first - second) / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("action", ["values", "normal", "log_odds"])
def test_several_targets_of_a_table_are_named_as_its_columns(rlcore_, train, action):
    bits = (X > 0).astype(int)
    polars.DataFrame({"a": X[:, 0], "price": bits[:, 0], "b": X[:, 1], "days left": bits[:, 1]}).write_csv("data.csv")
    agent = train("env.target=[days left, price]", f"env.action={action}", file="data.csv")
    assert agent.spec.target_names == ("days left", "price")
    polars.DataFrame({"a": X[:, 0], "b": X[:, 1]}).write_csv("new.csv")
    rlcore_("predict", "run", "new.csv", "out.csv")
    found, answers = read("out.csv"), torch.as_tensor(agent(X[:, :2]))
    kinds = {"values": ["value"], "normal": ["value", "std"], "log_odds": ["p"]}[action]
    assert list(found) == [f"{kind}_{name}" for kind in kinds for name in ("days left", "price")]
    stated = answers.sigmoid() if action == "log_odds" else answers[:, 0] if action == "normal" else answers
    np.testing.assert_allclose(numbers(found, f"{kinds[0]}_"), stated, rtol=1e-4)


@pytest.mark.parametrize(
    ("agent", "words", "targets", "names"),
    [
        ("ppo", ["env.action=ask", "agent.horizon=1", "agent.minibatch_size=8"], np.arange(40) % 2,
         ["class", "p_0", "p_1", "p_ask", "entropy"]),
        ("supervised", ["env.action=log_odds"], np.arange(40) % 2, ["class", "p_0", "p_1", "entropy"]),
        ("supervised", ["env.action=log_odds"], (X > 0).astype(float), ["p_0", "p_1", "p_2"]),
        ("supervised", ["env.action=values", "env.classes=['2', '0']"], np.arange(40) % 3,
         ["class", "value_2", "value_0"]),
    ],
)  # fmt: skip
def test_every_kind_of_answer(rlcore_, train, agent, words, targets, names):
    agent = train(*words, inputs=X, targets=targets, agent=agent)
    np.save("new.npy", X)
    rlcore_("predict", "run", "new.npy", "out.csv")
    found = read("out.csv")
    assert list(found) == names
    answers = torch.as_tensor(agent(X))
    if "p_ask" in names:
        assert found["class"].tolist() == [["0", "1", "ask"][k] for k in answers]
    elif "p_2" in names:
        np.testing.assert_allclose(numbers(found, "p_"), answers.sigmoid(), rtol=1e-5)
    elif "p_1" in names:
        np.testing.assert_allclose(numbers(found, "p_1"), answers.sigmoid(), rtol=1e-5)
        assert found["class"].tolist() == [str(int(x > 0)) for x in answers]
    else:
        assert found["class"].tolist() == [["2", "0"][k] for k in answers.argmax(1)]


@pytest.mark.parametrize(("shape", "mode"), [((6, 5, 3), "RGB"), ((1, 6, 5), "L"), ((6, 5), "L")])
def test_images_are_answered_as_the_array_of_them(rlcore_, train, workdir, shape, mode):
    images = RNG.integers(256, size=(16, *shape), dtype=np.uint8)
    agent = train(inputs=images, targets=np.arange(16) % 2)
    (workdir / "new/more").mkdir(parents=True)
    for name, image in zip(("b.png", "a.bmp", "more/c.png"), images, strict=False):
        PIL.Image.fromarray(image.reshape(6, 5, -1).squeeze(), mode).save(workdir / "new" / name)
    (workdir / "new/notes.txt").write_text("no image")
    (workdir / "new/film.gif").write_text("of another format than those of training")
    rlcore_("predict", "run", "new", "out.csv")
    found = read("out.csv")
    assert found["input"].tolist() == ["a.bmp", "b.png", "more/c.png"]
    expected = softmax(agent(images[[1, 0, 2]]))
    np.testing.assert_allclose(numbers(found, "p_"), expected, rtol=1e-5)
    rlcore_("predict", "run", "new/b.png", "out.csv")
    assert read("out.csv")["input"].tolist() == ["b.png"]
    PIL.Image.new("RGBA", (5, 6), (10, 10, 10, 255)).save("new/b.png")  # of other channels
    rlcore_("predict", "run", "new/b.png", "out.csv")
    grey = np.full((1, *shape), 10, np.uint8)
    np.testing.assert_allclose(numbers(read("out.csv"), "p_"), softmax(agent(grey)), rtol=1e-5)
    PIL.Image.new("L", (6, 5)).save("new/b.png")
    assert "new/b.png is 6 x 5 pixels, the agent reads 5 x 6: resize it" in rlcore_("predict", "run", "new", "out.csv")
    PIL.Image.new("I;16", (5, 6)).save("new/b.png")
    assert "new/b.png has pixels of the mode I;16; expected eight" in rlcore_("predict", "run", "new", "out.csv")
    stored = PIL.Image.fromarray(images[0].reshape(6, 5, -1).squeeze(), mode).transpose(PIL.Image.Transpose.ROTATE_90)
    exif = stored.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise, as telephones write it
    stored.save("new/b.png", exif=exif)
    rlcore_("predict", "run", "new/b.png", "out.csv")
    np.testing.assert_allclose(numbers(read("out.csv"), "p_"), softmax(agent(images[:1])), rtol=1e-5)
    (workdir / "new/b.png").write_text("junk")
    assert "new/b.png cannot be read as an image" in rlcore_("predict", "run", "new", "out.csv")


def test_mistakes_are_one_line_and_leave_what_was_there(rlcore_, train, workdir):
    train(inputs=X, targets=np.arange(40) % 2)
    bad = X.copy()
    bad[13, 1] = np.nan
    np.save("nan.npy", bad)
    np.save("flat.npy", X[:, :2])
    np.savez("two.npz", a=X, b=X)
    np.save("text.npy", np.array([["a", "b", "c"]]))
    (workdir / "junk.npz").write_text("junk")
    (workdir / "notes.txt").write_text("no inputs")
    PIL.Image.new("L", (3, 1)).save("image.png")
    polars.DataFrame(X).write_csv("new.csv")
    polars.DataFrame({"a": [1.0], "b": ["x"], "c": [2.0]}).write_csv("text.csv")
    polars.DataFrame(X[:, :2]).write_csv("narrow.csv")
    (workdir / "out.csv").write_text("before")
    for source, message in {
        "none.csv": "there is no file none.csv",
        "notes.txt": "notes.txt is none of the files that inputs are read from: .csv, .parquet, .npz, .npy, an image",
        "nan.npy": "nan.npy: a number in row 13 is NaN, infinite or too large for float32",
        "flat.npy": "flat.npy has an array (40, 2); the agent reads inputs [n, *(3,)]",
        "two.npz": "two.npz holds a, b; inputs must be named so, or the only array",
        "junk.npz": "junk.npz holds no plain arrays, or is damaged",
        "text.npy": "observations must be numbers",
        "text.csv": "text.csv: column 'b' has numbers, but 'x' in row 0",
        "narrow.csv": "narrow.csv has 2 columns; the agent reads inputs of shape (3,)",
        "image.png": "image.png: images are bytes; the agent reads Inputs((3,), float32); give it an .npz file",
        ".": "images are bytes",
    }.items():
        assert message in rlcore_("predict", "run", source, "out.csv", "--batch-size", 5)
        assert (workdir / "out.csv").read_text() == "before"
    for out in ("out.txt", "nowhere/out.csv", "new.csv"):
        assert f"OUT must be another file, .csv, .parquet, .npz, in a folder that exists; got {out}" in rlcore_(
            "predict", "run", "new.csv", out
        )
    (workdir / "folder.csv").mkdir()
    assert "cannot write folder.csv" in rlcore_("predict", "run", "new.csv", "folder.csv")
    assert "pass through no dropout" in rlcore_("predict", "run", "new.csv", "out.csv", "--passes", 3)
    assert "is not a run" in rlcore_("predict", "nothing", "new.csv", "out.csv")


def test_other_agents_are_refused(rlcore_, workdir):
    words = ["env.name=cartpole", "env.num_envs=4", "agent.horizon=8", "trainer.total_steps=32"]
    rlcore_("train", "ppo", *words, MLP, "agent.minibatch_size=32", "--run-dir", "run")
    assert "predict: is for agents of data sets; this one observes Box" in rlcore_("predict", "run", "x.csv", "out.csv")


def test_a_run_of_another_device_answers_on_this_one(rlcore_, train, workdir):
    agent = train("device=cpu", "env.action=values", inputs=X, targets=X[:, 0])
    config = workdir / "run/config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    np.save("new.npy", X)
    rlcore_("predict", "run", "new.npy", "out.csv")
    np.testing.assert_allclose(numbers(read("out.csv"), "value"), agent(X), rtol=1e-5, atol=1e-6)
