"""The structure, as tests: layers, packaging, late imports, frozen options."""

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

from typer.main import get_command

from autodistill.cli import app

PACKAGE = Path(__file__).parents[1] / "autodistill"
SOURCES = sorted(PACKAGE.rglob("*.py"))

OPTIONS = {
    "compare": "--download --student --teacher --method --data --space --budget --study --seed --device --workers "
    "--ray --per-gpu --insecure --storage --set --timeout --cache-size --dry-run --offline --format --quiet",
    "search": "--download --student --teacher --data --space --budget --study --seed --device --workers "
    "--ray --per-gpu --insecure --storage "
    "--set --max-trials --audit-pruning --max-params --max-macs --max-size --max-latency --timeout "
    "--cache-size --dry-run --download --offline --format --quiet",
    "report": "--out",
    "show": "--format --all --sort --pareto --watch",
    "train": "--from --student --teacher --data --space --set --seed --device --out --with-validation --download "
    "--offline",
    "export": "--weights --format --out",
    "cluster slurm": "--nodes --gpus --cpus --time --sbatch",
    "env": "--format",
    "spaces list": "",
    "spaces ls": "",
    "spaces show": "",
    "spaces cp": "",
    "spaces check": "--set",
    "teachers list": "--teacher --data --space --set --download --offline --format",
    "teachers train": "--teacher --data --space --set --device --workers --offline --download",
    "teachers adapt": "--data --space --set --device --workers --download --offline",
    "teachers check": "--data --space --set --download --offline --format",
    "teachers inspect": "--data --space --set --device --workers --download --offline --format --out",
}


def test_layers_only_point_down(repository):
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=repository, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_every_package_is_packaged(repository):
    listed = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in SOURCES}
    expected = {".".join(folder.relative_to(PACKAGE.parent).parts) for folder in folders}
    assert expected | {"autodistill.search_spaces", "autodistill.report.templates"} == set(listed)


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['autodistill', '--help']\ntry:\n    import autodistill.__main__ as m; m.run()\n"
    heavy = {"torch", "optuna", "matplotlib", "sklearn", "scipy"}
    code += f"except SystemExit: pass\nprint(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_report_and_show_import_no_torch():
    code = "import sys, autodistill.cli.show, autodistill.report\n"
    code += "print('torch' in sys.modules, 'optuna' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"


def commands(group, *above: str):
    """Yield each command of a Typer application with its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *above, name)
        else:
            yield " ".join([*above, name]), command


def test_the_options_are_these():
    found = {
        name: {opt for param in command.params for opt in param.opts if opt.startswith("--")} - {"--help"}
        for name, command in commands(get_command(app))
    }
    assert found == {name: set(flags.split()) for name, flags in OPTIONS.items()}


def test_the_function_of_a_command_takes_its_parameters(monkeypatch):
    called = []
    monkeypatch.setattr("autodistill.cli.commands.call", lambda target, **given: called.append((target, given)))
    for name, command in commands(get_command(app)):
        if not name.startswith(("spaces", "cluster")):
            command.callback(**{param.name: param.default for param in command.params if param.name != "help"})
    assert len(called) == 12
    for target, given in called:
        module, function = target.split(".")
        inspect.signature(getattr(importlib.import_module(f"autodistill.cli.{module}"), function)).bind(**given)


def test_all_public_names_exist():
    for path in SOURCES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        if name == "autodistill.__main__":
            continue
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert hasattr(module, public), f"{name}.{public}"
