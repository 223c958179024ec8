"""Modules and packages of a user's own, named by a config."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlcore import cli, config, registry
from rlcore.errors import InputError
from rlcore.imports import import_module

AGENT = """\
import rlcore
from rlcore.agents.ppo import PPO
from {where} import WIDTH

@rlcore.registry.agents.register({name!r})
class Mine(PPO):
    class Settings(PPO.Settings):
        width: int = WIDTH
        \"\"\"How wide it is.\"\"\"
"""
YAML = """\
env: {{name: cartpole, num_envs: 8}}
agent: {{name: {name}, horizon: 32}}
trainer: {{total_steps: 256}}
imports: [{imports}]
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    """What a test imports, and where, is forgotten."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - before:
        if not name.startswith("rlcore"):
            del sys.modules[name]


def make_package(folder, name="in_package", width=7):
    """A package ``my_pkg`` whose agents.py imports its neighbour."""
    package = folder / "my_pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text(f"WIDTH = {width}\n")
    (package / "agents.py").write_text(AGENT.format(where=".sizes", name=name))
    (package / "__main__.py").write_text("raise SystemExit(3)\n")
    return package


def write(folder, imports, name="in_package", file="mine.yaml"):
    (folder / file).write_text(YAML.format(imports=imports, name=name))
    return folder / file


@pytest.mark.parametrize(
    "named",
    ["my_pkg.agents", "my_pkg/agents.py", "./my_pkg/agents.py", "{here}/my_pkg/agents.py", "my_pkg", "./my_pkg",
     "my_pkg/__init__.py", "{here}/my_pkg"],
)  # fmt: skip
def test_a_package_is_found_by_name_and_by_path_and_its_relative_imports_work(workdir, tmp_path_factory, named):
    package = make_package(workdir)
    if "agents" not in named:
        (package / "__init__.py").write_text("from . import agents\n")
    loaded = config.load(write(workdir, named.format(here=workdir)))
    assert loaded.config.agent.settings.width == 7
    assert registry.agents["in_package"].__module__ == "my_pkg.agents"
    assert loaded.config.imports == [str(package / ("agents.py" if "agents" in named else "__init__.py"))]


@pytest.mark.parametrize("moved", [False, True])
def test_what_a_run_saves_is_found_from_another_folder(tmp_path, monkeypatch, moved):
    before = tmp_path / "before"
    make_package(before / "src")
    monkeypatch.chdir(before / "src")
    saved = config.dump(config.load(write(before, "my_pkg.agents")).config)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if moved:
        before.rename(tmp_path / "after")
        monkeypatch.chdir(tmp_path / "after")  # the file lies in src here
    (elsewhere / "config.yaml").write_text(saved)
    (found,) = config.load(elsewhere / "config.yaml").config.imports
    assert found == str(tmp_path / ("after" if moved else "before") / "src/my_pkg/agents.py")


def test_a_file_beside_the_config_imports_its_neighbours(workdir):
    (workdir / "sub").mkdir()
    (workdir / "sub/sizes_beside.py").write_text("WIDTH = 5\n")
    (workdir / "sub/alone.py").write_text(AGENT.format(where="sizes_beside", name="alone"))
    assert config.load(write(workdir / "sub", "alone", "alone")).config.agent.settings.width == 5


def test_packages_of_the_same_name_in_two_folders_are_told_apart(workdir):
    for number, folder in enumerate(("one", "two", "one"), 3):
        if not (workdir / folder).exists():
            make_package(workdir / folder, width=number)
        loaded = config.load(write(workdir / folder, "my_pkg.agents"))
        assert loaded.config.agent.settings.width == (4 if folder == "two" else 3)


def test_a_package_that_was_imported_is_not_imported_again(workdir):
    make_package(workdir)
    path = write(workdir, "my_pkg.agents")
    config.load(path)
    before = registry.agents["in_package"]
    config.load(path)
    assert registry.agents["in_package"] is before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random", "random.py is named like Python's own module random, which it would replace; rename it"),
        ("yaml", r"yaml.py is named like the installed .*site-packages/yaml/__init__.py, which it would"),
        ("tensorboard", r"tensorboard.py is named like the installed .*site-packages/tensorboard/__init__.py"),
        ("rlcore", r"rlcore.py is named like the installed .*rlcore/__init__.py, which it would replace; rename it"),
        ("__main__", r"__main__.py is named like Python's own module __main__"),
        ("no_pkg.agents", r"cannot import 'no_pkg.agents': No module named 'no_pkg'; looked in"),
        ("my_pkg.agnts", r"cannot import 'my_pkg.agnts': No module named 'my_pkg.agnts'; looked in"),
        ("no_pkg/agents.py", r"cannot import 'no_pkg/agents.py'"),
        (
            "loose",
            r"'loose' fails: ImportError: .*no known parent package.*; relative imports need a package, a folder",
        ),
        ("my_pkg.broken", r"'my_pkg.broken' fails: ZeroDivisionError: .*my_pkg/broken\.py:1\)"),
        ("my_pkg.gone", r"'my_pkg.gone' fails: ModuleNotFoundError: No module named 'my_pkg.nowhere'"),
        (".agents", r"imports: '.agents' fails: TypeError"),
        ("", r"imports: '' fails: ValueError: Empty module name"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing_behind(workdir, name, message):
    package = make_package(workdir)
    (package / "broken.py").write_text("1 / 0\n")
    (package / "gone.py").write_text("from . import agents\nfrom .nowhere import x\n")
    (workdir / "loose.py").write_text("from . import x\n")
    for taken in ("random", "yaml", "tensorboard", "rlcore", "__main__"):
        (workdir / f"{taken}.py").write_text("raise AssertionError\n")
    before = {key: module for key, module in sys.modules.items() if not key.startswith("my_pkg")}
    with pytest.raises(InputError, match=message) as caught:
        config.load(write(workdir, f"'{name}'"))
    assert "\n" not in str(caught.value)
    assert not any(key.startswith("my_pkg") for key in sys.modules if name != "my_pkg.agnts")
    assert all(sys.modules[key] is module for key, module in before.items())


def test_a_mended_package_is_imported_anew(workdir):
    package = make_package(workdir)
    (package / "sizes.py").write_text("1 / 0\n")
    path = write(workdir, "my_pkg.agents")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        config.load(path)
    (package / "sizes.py").write_text("WIDTH = 123\n")
    assert config.load(path).config.agent.settings.width == 123


def test_code_inside_a_strangers_run_is_not_imported(workdir):
    run = workdir / "run"
    (run / "checkpoints").mkdir(parents=True)
    make_package(run)
    (run / "my_env.py").write_text("raise AssertionError\n")
    path = write(run, "my_pkg.agents", file="config.yaml")
    with pytest.raises(InputError, match=r"my_pkg/agents.py is code inside a run that was trained elsewhere"):
        config.load(path)
    assert config.load(path, trust=True).config.agent.settings.width == 7


def test_a_strangers_run_reaches_no_code_by_the_name_of_an_environment_either(workdir, monkeypatch):
    run = workdir / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "evil_env.py").write_text("open('reached', 'w')\n")
    path = run / "config.yaml"
    path.write_text("env: {name: gym, id: evil_env:Evil}\nagent: {name: ppo}\ntrainer: {total_steps: 256}\n")
    monkeypatch.chdir(run)
    with pytest.raises(InputError, match="evil_env"):
        config.build(config.load("config.yaml").config)
    assert not Path("reached").exists()


def main(*words, module, cwd):
    """The command in a process of its own: by its script, or as a module."""
    start = [sys.executable, "-m", "rlcore"] if module else [str(Path(sys.executable).with_name("rlcore"))]
    return subprocess.run([*start, *words], capture_output=True, text=True, timeout=120, cwd=cwd)


@pytest.mark.parametrize("module", [False, True])
def test_files_in_the_working_folder_shadow_nothing_and_are_found(workdir, module):
    make_package(workdir)
    for name in ("random.py", "agents/__init__.py", "yaml.py", "torch.py", "envs.py", "gymnasium.py"):
        (workdir / name).parent.mkdir(exist_ok=True)
        (workdir / name).write_text("raise AssertionError('shadowed')\n")
    (workdir / "configs").mkdir()
    write(workdir / "configs", "my_pkg.agents")
    result = main("train", "configs/mine.yaml", "--run-dir", "run", module=module, cwd=workdir)
    assert result.returncode == 0, result.stderr
    result = main("resume", "../run", "trainer.total_steps=512", module=module, cwd=workdir / "configs")
    assert result.returncode == 0, result.stderr


def test_the_settings_of_ones_own_agent_are_listed(workdir, monkeypatch, capsys):
    make_package(workdir, name="listed")
    monkeypatch.setattr(sys, "argv", ["rlcore", "list", "listed", "--imports", "my_pkg.agents"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert not caught.value.code
    assert "How wide it is." in capsys.readouterr().out


def test_an_installed_module_keeps_its_name(workdir):
    assert import_module("rlcore.agents.reinforce", workdir / "x.yaml") == "rlcore.agents.reinforce"
