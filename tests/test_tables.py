"""Tables as data sets: columns by name, categories, missing values, and how they are kept with an agent."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compare import same

import rlcore
from rlcore import InputError, Trainer, checkpoint, cli
from rlcore.agents.supervised import Supervised
from rlcore.env_spec import EnvSpec
from rlcore.spaces import Column
from rlcore.supervised import tables
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv

polars = pytest.importorskip("polars")

CITIES = {"city": ["Rom", "Oslo", None, "Rom", "Bonn"], "area": [1.0, None, 3.0, 8.0, 0.0], "price": [1.0, 2, 3, 4, 5]}


def write(name="t.csv", /, **columns):
    frame = polars.DataFrame(columns)
    frame.write_csv(name) if name.endswith(".csv") else frame.write_parquet(name)
    return name


def make(kind=SupervisedEnv, spec=None, **settings):
    settings = {"dataset": "t.csv", "action": "values", "num_envs": 1, "test_fraction": 0, **settings}
    return kind(kind.Settings(**settings), spec=spec)


def refused(**settings):
    with pytest.raises(InputError) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def columns_of(env):
    return env.single_observation_space.columns


pytestmark = pytest.mark.usefixtures("workdir")


# Columns


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_rows_in_closed_form(name):
    write(name, size=[1.5, 2.0, 4.0], new=[True, False, True], city=["b", "a", "b"], price=[1.0, 2, 3])
    env = make(dataset=name, target="price", missing="refuse")
    assert columns_of(env) == (Column("size"), Column("new", ("false", "true")), Column("city", ("a", "b")))
    assert env.dataset.train.inputs.tolist() == [[1.5, 0, 1, 0, 1], [2, 1, 0, 1, 0], [4, 0, 1, 0, 1]]
    assert env.dataset.train.targets.tolist() == [1, 2, 3]
    assert env.dataset.train.inputs.dtype == torch.float32


def test_columns_are_those_named_or_all_but_those_ignored():
    write(id=[1, 2], a=[1, 2], b=[3, 4], y=[0.0, 1])
    assert [column.name for column in columns_of(make(target="y"))] == ["id", "a", "b"]
    assert [column.name for column in columns_of(make(target="y", ignore=["id"]))] == ["a", "b"]
    assert make(target="y", features=["b", "a"]).dataset.train.inputs.tolist() == [[3, 1], [4, 2]]


def test_numbers_that_float32_would_round_stay_float64():
    write(date=[1.7e9 + 1, 1.7e9 + 2], y=[0.0, 1])
    env = make(target="y", scaling="standard")
    assert env.single_observation_space.dtype == np.float64
    assert env.scaled(env.dataset.train.inputs).flatten().tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("missing", "fills", "rows"),
    [
        ("mean", [None, 3], [[0, 0, 1, 1], [0, 1, 0, 3], [1, 0, 0, 3], [0, 0, 1, 8]]),
        ("median", [None, 2], [[0, 0, 1, 1], [0, 1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 8]]),
        ("most_common", ["Rom", 0], [[0, 1, 1], [1, 0, 0], [0, 1, 3], [0, 1, 8]]),
    ],
)
def test_missing_values_in_closed_form(missing, fills, rows):
    write(city=[*CITIES["city"][:4], "Rom"], area=CITIES["area"], price=CITIES["price"])
    env = make(target="price", missing=missing)
    found = columns_of(env)
    assert found[0].fill == (tables.OF_ITS_OWN if fills[0] is None else fills[0])
    assert found[1].fill == {"mean": 3.0, "median": 2.0, "most_common": 0.0}[missing]
    assert env.dataset.train.inputs[:4].tolist() == rows


def test_what_is_fitted_is_fitted_to_the_training_rows_alone():
    num = 40
    area = [None if k % 4 == 0 else float(k) ** 2 for k in range(num)]
    write(
        row=list(range(num)), area=area, city=[f"c{k % 20}" for k in range(num)], price=[float(k) for k in range(num)]
    )
    env = make(target="price", missing="mean", test_fraction=0.25, validation_fraction=0.2)
    rows = env.dataset.train.inputs[:, 0].long().tolist()
    assert len(rows) == 24
    expected = np.mean([area[k] for k in rows if area[k] is not None])
    _, fitted, cities = columns_of(env)
    assert fitted.fill == pytest.approx(expected, rel=1e-12)
    assert set(cities.categories) == {f"c{k % 20}" for k in rows}
    held = env.dataset.test.inputs
    filled = held[:, 0] % 4 == 0
    assert filled.any()
    assert (held[filled, 1] == np.float32(expected)).all()
    unknown = [f"c{int(k) % 20}" not in cities.categories for k in held[:, 0]]
    assert (held[:, 2:].sum(1) == 1 - torch.tensor(unknown).float()).all()


def test_a_test_table_of_its_own_takes_no_part_in_what_is_fitted():
    write(city=["a", "b"], area=[1.0, 3.0], price=[1.0, 2])
    write("test.csv", price=[3.0, 4, 5], area=[None, 100.0, 7], city=["a", "z", None])
    env = make(target="price", missing="mean", test_dataset="test.csv")
    assert env.dataset.train.inputs.tolist() == [[1, 0, 1], [0, 1, 3]]
    assert env.dataset.test.inputs.tolist() == [[1, 0, 2], [0, 0, 100], [0, 0, 7]]
    assert env.dataset.test.targets.tolist() == [3, 4, 5]
    assert env.remarks == (
        "column 'city' has categories that training lacks (no value, z) in 2 of 5 rows: all its inputs are 0 there",
    )
    assert make(target="price", missing="mean").remarks == ()


def test_files_are_read_as_they_are_written_elsewhere(workdir):
    write("t.parquet", a=[1.0, 2.5, 4.0], new=[True, False, None], city=["x y", None, "z"], price=[1.0, 2, 3])
    expected = make(dataset="t.parquet", target="price", missing="mean")
    header, lines = ["a", "new", "city", "price"], [["1", "True", "x y", "1"], ["2.5", "FALSE", "?", "2"]]
    for separator in (",", ";", "\t", ", "):
        text = "\n".join(separator.join(line) for line in [header, *lines, ["4e0", "NA", "z", "3.0"]])
        (workdir / "t.csv").write_text(text)
        env = make(target="price", missing="mean")
        assert columns_of(env) == columns_of(expected)
        assert torch.equal(env.dataset.train.inputs, expected.dataset.train.inputs)


# Targets


def test_texts_and_booleans_are_classes_in_alphabetical_order():
    write(x=[1.0, 2, 3, 4], y=["elm", "oak", "ash", "elm"][:2] * 2, z=[True, False, False, True])
    assert make(target="y", action="logits").classes == ("elm", "oak")
    env = make(target="z", action="label", features=["x"])
    assert env.classes == ("false", "true")
    assert env.targets.tolist() == [1, 0, 0, 1]
    assert make(target="z", action="values", features=["x"]).single_action_space.shape == (2,)


def test_integers_are_classes_of_any_numbers_or_numbers():
    write(x=[1.0, 2, 3, 4, 5, 6, 7, 8], y=[10, 2, 30, 2, 10, 30, -1, 2])
    env = make(target="y", action="logits")
    assert env.classes == ("-1", "2", "10", "30")
    assert env.targets.tolist() == [2, 1, 3, 1, 2, 3, 0, 1]
    numbers = make(target="y", action="values")
    assert numbers.classes is None
    assert numbers.targets.tolist() == [10, 2, 30, 2, 10, 30, -1, 2]
    write(x=[1.0, 2], y=[1, 2])
    assert make(target="y", action="log_odds").classes == ("1", "2")


def test_several_targets_are_numbers():
    write(x=[1.0, 2], y=[1, 2], z=[0.5, 0.25])
    env = make(target=["z", "y"])
    assert env.targets.tolist() == [[0.5, 1], [0.25, 2]]
    assert env.single_action_space.shape == (2,)
    assert env.single_observation_space.shape == (1,)


def test_classes_may_be_left_out():
    write(x=[1.0, 2, 3, 4, 5, 6], y=["c", "a", "b", "a", "b", "c"])
    env = make(target="y", action="logits", classes=["b", "a"])
    assert env.dataset.train.inputs.flatten().tolist() == [2, 3, 4, 5]
    assert env.dataset.train.targets.tolist() == [1, 0, 1, 0]
    assert env.dataset.foreign.flatten().tolist() == [1, 6]
    again = make(target="y", action="logits", classes=["b", "a"], spec=EnvSpec.of(env))
    assert torch.equal(again.dataset.train.inputs, env.dataset.train.inputs)


def test_a_table_is_reconstructed_without_a_target():
    write(x=[1.0, 2], city=["a", "b"])
    env = make(ReconstructionEnv, action="gaussian")
    obs, _ = env.reset(seed=1)
    assert obs.shape == (1, 3)
    assert env.step(obs)[1].item() == pytest.approx(-1.5 * np.log(2 * np.pi))


# With an agent


def test_columns_are_saved_with_an_agent(tmp_path):
    write(**CITIES)
    spec = EnvSpec.of(make(target="price", missing="mean"))
    checkpoint.save(tmp_path / "spec.pt", {"spec": spec.plain()})
    plain = checkpoint.load(tmp_path / "spec.pt")["spec"]
    again = EnvSpec.from_plain(plain, torch.device("cpu"))
    assert again.single_observation_space.columns == spec.single_observation_space.columns
    assert spec.single_observation_space.of_dtype(np.float64).columns == again.single_observation_space.columns
    del plain["observation_space"]["columns"]  # as it was saved before
    assert EnvSpec.from_plain(plain, torch.device("cpu")).single_observation_space.columns is None


def test_another_table_is_read_as_in_training():
    write(**CITIES)
    spec = EnvSpec.of(make(target="price", missing="mean"))
    write("other.parquet", note=["n", "m"], area=[None, 5], price=[1.0, 2], city=["Oslo", "Paris"])
    env = make(dataset="other.parquet", target="price", spec=spec)
    assert env.dataset.train.inputs.tolist() == [[0, 0, 1, 0, 3], [0, 0, 0, 0, 5]]
    assert "(Paris) in 1 of 2 rows" in env.remarks[0]
    write("other.csv", area=[1.0], price=[1.0], town=["Oslo"])
    message = refused(dataset="other.csv", target="price", spec=spec)
    assert "has no column 'city'; it has area, price, town" in message


def test_a_category_is_text_even_where_a_table_has_only_numbers():
    write(code=["01", "2", "A", "2"], y=["1", "1", "2", "2"], x=[1.0, 2, 3, 4])
    env = make(target="y", action="logits")
    assert columns_of(env)[0].categories == ("01", "2", "A")
    write("one.csv", code=["2", "01"], y=["1", "1"], x=[1.0, 2])
    again = make(dataset="one.csv", target="y", action="logits", spec=EnvSpec.of(env))
    assert again.dataset.train.inputs.tolist() == [[0, 1, 0, 1], [1, 0, 0, 2]]
    assert (again.classes, again.dataset.train.targets.tolist()) == (("1", "2"), [0, 0])
    write("one.csv", code=["2"], y=["3"], x=[1.0])
    message = refused(dataset="one.csv", target="y", action="logits", spec=EnvSpec.of(env))
    assert message == "env.dataset: the agent knows 2 classes, 1, 2; the data set also has 3"


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(1)
    area = [None if k % 5 == 0 else k for k in rng.normal(size=50)]
    write(city=rng.choice(["a", "b", "c"], 50), area=area, price=rng.normal(size=50))
    settings = {"target": "price", "missing": "median", "num_envs": 8, "test_fraction": 0.2, "scaling": "standard"}

    def trainer(spec=None):
        torch.manual_seed(1)
        env = make(spec=spec, **settings)
        return Trainer(Supervised(env), env, total_steps=160)

    whole = trainer()
    for _ in range(7):
        whole.update()
    checkpoint.save(tmp_path / "at.pt", whole.checkpoint())
    for _ in range(9):
        whole.update()
    saved = checkpoint.load(tmp_path / "at.pt")
    rest = trainer(EnvSpec.from_plain(saved["spec"], torch.device("cpu")))
    assert rest.restore(saved) == []
    for _ in range(9):
        rest.update()
    same(whole.checkpoint(), rest.checkpoint())


# Mistakes


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({}, {"target": None}, "env.target: missing; which column of * is to be predicted?"),
        ({}, {"target": "prize"}, "has no column 'prize' (did you mean 'price'?); it has city, area, price"),
        ({}, {"features": ["aria"]}, "has no column 'aria' (did you mean 'area'?)"),
        ({}, {"ignore": ["town"]}, "has no column 'town'"),
        ({}, {"features": ["price"]}, "env.features: 'price' is the target"),
        ({}, {"features": []}, "env.features: must be one column or more, each once; got none"),
        ({}, {"features": ["area", "area"]}, "each once; got area, area"),
        ({}, {"features": ["area"], "ignore": ["city"]}, "env.ignore: leaves out of all columns"),
        ({}, {}, "column 'city' has no value in 1 of 5 rows, the first is row 2; set env.missing to mean, median or"),
        ({"price": [1.0, None, 2, 3, 4]}, {"missing": "mean"}, "column 'price' has no value in 1 of 5 rows"),
        ({"area": [None] * 5}, {"missing": "mean"}, "column 'area' has no value in the training split; leave it out: "
         "env.ignore=[area]"),
        ({"area": [1.0, 2, 3, float("inf"), 5]}, {"missing": "mean"}, "column 'area' has inf in row 3, which is inf"),
        ({"area": ["2020-01-02"] * 5}, {"missing": "mean"}, "column 'area' holds dates or times; write what matters"),
        ({"city": list("abcde")}, {"target": ["price", "city"]}, "several targets must all be numbers; got price"),
        ({}, {"missing": "mean", "action": "logits"}, "env.action: logits needs classes, but this data set names none"),
        ({"price": [1, 2, 3, 4, 5]}, {"missing": "mean", "action": "logits"}, "logits needs classes, but the target "
         "'price' has 5 different integers in 5 rows; for numbers use values"),
        ({"price": list("abcde")}, {"missing": "mean"}, "the target 'price' has 5 different texts in 5 rows; classes"),
        ({"price": list("aaaaa")}, {"missing": "mean"}, "the target 'price' has 1 different texts in 5 rows; classes"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(columns, settings, message):
    write(**{**CITIES, **columns})
    found = refused(**{"target": "price", **settings})
    for part in message.split(" * "):
        assert part in found


def test_other_mistakes_are_one_line(workdir, monkeypatch):
    assert "no such file" in refused(dataset="none.csv", target="y")
    for content, message in (
        ("", "cannot be read as a table"),
        ("a,b\n1,2,3\n", "cannot be"),
        ("a,y\n", "has no rows"),
    ):
        (workdir / "t.csv").write_text(content)
        assert message in refused(target="y")
    (workdir / "t.csv").write_bytes("a,y\nü,1\n".encode("latin-1"))
    assert "cannot be read as a table: invalid utf-8" in refused(target="y")
    (workdir / "t.parquet").write_text("junk")
    assert "t.parquet cannot be read as a table" in refused(dataset="t.parquet", target="y")
    write("t.parquet", a=[[1], [2]], y=[1.0, 2])
    assert "column 'a' holds List(Int64), it must be numbers, texts or booleans" in refused(
        dataset="t.parquet", target="y"
    )
    write(name=[f"name {k}" for k in range(1100)], y=[float(k) for k in range(1100)])
    assert "has 1,100 different texts, each of which would be an input, at most 1,000" in refused(target="y")
    write(x=[*map(str, range(30)), "x"], y=[float(k) for k in range(31)])
    assert "column 'x' has numbers, but 'x' in row 30; mend it, or leave its cell empty" in refused(target="y")
    write(x=[1.0, 2], y=["a", "b"])
    write("test.csv", x=[1.0], y=["c"])
    assert "the target 'y' has c, which training lacks" in refused(target="y", test_dataset="test.csv")
    write("test.csv", x=["x"], y=["a"])
    assert "test.csv: column 'x' has numbers, but 'x' in row 0" in refused(target="y", test_dataset="test.csv")
    assert refused(dataset="iris", target="y") == "env.target: is for tables, .csv or .parquet; env.dataset is iris"
    monkeypatch.setitem(sys.modules, "polars", None)
    assert "a table needs polars" in refused(target="y")
    assert "pip install polars" in refused(target="y")


def test_labels_that_begin_at_1_are_told():
    def remarks(labels, **settings):
        dataset = from_arrays(np.zeros((len(labels), 1)), np.array(labels))
        return SupervisedEnv(SupervisedEnv.Settings(num_envs=1, test_fraction=0, **settings), dataset=dataset).remarks

    hint = "; labels are counted from 0, so subtract 1 from labels that begin at 1"
    assert remarks([1, 2, 3, 3])[0] == f"the training split has no example of 0{hint}"
    assert remarks([0, 2, 4, 4, 2])[0] == "the training split has no example of 1, 3"
    assert remarks([0, 1, 2, 2]) == remarks([1, 2, 3, 3], action="values") == ()


# The command line


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["rlcore", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    return capsys.readouterr().out


def test_a_table_is_trained_on_evaluated_and_shown(monkeypatch, capsys):
    rng = np.random.default_rng(1)
    x, city = rng.normal(size=60), rng.choice(["a", "b"], 60)
    write("train.csv", x=x, city=city, kind=np.where((x > 0) == (city == "a"), "yes", "no"))
    words = ["supervised", "env.name=supervised", "env.dataset=train.csv", "env.target=kind", "env.num_envs=16"]
    assert "kind" in run(monkeypatch, capsys, "show", *words)
    assert "env.target" not in run(monkeypatch, capsys, "list", "datasets")
    run(monkeypatch, capsys, "train", *words, "agent.learning_rate=0.01", "trainer.epochs=60", "--run-dir", "run")
    assert json.loads(run(monkeypatch, capsys, "eval", "run", "--json"))["accuracy"] > 0.8
    write("new.csv", kind=["no", "yes"], more=[1, 2], city=["a", "b"], x=[-2.0, -2.0])
    changed = ["--set", "env.dataset=new.csv", "--set", "env.test_fraction=0"]
    assert json.loads(run(monkeypatch, capsys, "eval", "run", "--json", *changed))["accuracy"] == 1
    with pytest.raises(InputError, match=r"^env.missing: is 'refuse' for good"):
        rlcore.commands.evaluate("run", None, None, True, None, [], ["env.missing=mean"])


def test_several_columns_of_one_name_and_decimal_commas_are_refused(workdir):
    Path("twice.csv").write_text("a,a,k\n1,2,x\n3,4,y\n")
    with pytest.raises(InputError, match=r"twice\.csv has several columns 'a'; give each a name of its own"):
        tables.read("twice.csv")
    Path("commas.csv").write_text("a;k\n1,5;x\n2,5;y\n")
    with pytest.raises(InputError, match=r"commas\.csv: column 'a' has decimal commas \(1,5\); write points"):
        tables.read("commas.csv")


@pytest.mark.parametrize("target", [[], ["y", "y"]])
def test_a_target_of_nothing_or_twice_is_refused(target):
    with pytest.raises(ValueError, match="must be one or more columns, each once"):
        SupervisedEnv.Settings(dataset="x.csv", target=target)
