"""The command line that every command shares: what is accepted, refused, printed and returned."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl import flags

from ablations import cli

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python -m ablations.demo"
DOC = f"usage: {COMMAND} --grid NAME\n\nexample:\n  {COMMAND} --grid a\n"


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def make_flags() -> flags.FlagValues:
    """Flags of one imaginary command, apart from the global ones."""
    values = flags.FlagValues()
    flags.DEFINE_bool("dry_run", False, "print the plan and stop", flag_values=values)
    flags.DEFINE_string("grid", "shortcuts", "grid to run", short_name="g", flag_values=values)
    flags.DEFINE_string("data_dir", None, "where the data is", flag_values=values)
    flags.DEFINE_integer("epochs", 3, "epochs", 1, 9, flag_values=values)
    flags.DEFINE_float("rate", 0.1, "learning rate", 0.0, flag_values=values)
    flags.DEFINE_enum("mode", "fast", ["fast", "slow"], "mode", flag_values=values)
    flags.DEFINE_enum_class("color", Color.RED, Color, "color", flag_values=values)
    flags.DEFINE_list("names", [], "names", flag_values=values)
    flags.DEFINE_multi_integer("seed", [0], "seeds", flag_values=values)
    for name in list(values):  # as if a module of the project had defined them
        if name == values[name].name:
            values.register_flag_by_module("ablations.demo", values[name])
    return values


Outcome = tuple[int, str, str]
Call = Callable[..., Outcome]


@pytest.fixture
def values() -> flags.FlagValues:
    return make_flags()


@pytest.fixture
def call(values: flags.FlagValues, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run an imaginary command; return its exit code, stdout and stderr."""

    def call(*args: str, main: Callable[[], int | None] = lambda: None) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            cli.run(
                main,
                doc=DOC,
                version=lambda: "demo 1.2.3",
                command=COMMAND,
                argv=["demo", *args],
                flag_values=values,
            )
        assert isinstance(caught.value.code, int)
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


def never() -> int:
    raise AssertionError("main ran although the command line is wrong")


def refused(call: Call, *args: str) -> str:
    """Return the one line of a command line that is refused."""
    code, out, err = call(*args, main=never)
    assert (code, out) == (cli.EXIT_USAGE, "")
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def script(tmp_path: Path, body: str) -> list[str]:
    """Return the command that runs a script with `body` as its main."""
    path = tmp_path / "demo.py"
    path.write_text(
        "import signal, time\n"
        "from absl import flags, logging  # logging defines flags of its own\n"
        "from ablations import cli\n"
        "GRID = flags.DEFINE_string('grid', 'shortcuts', 'grid to run')\n"
        f"def main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "cli.run(main, doc='usage: demo', version=lambda: 'v1', command='demo')\n"
    )
    return [sys.executable, str(path)]


def spawn(
    args: list[str], stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE, **env: str
) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **env}
    return subprocess.Popen(args, stdout=stdout, stderr=stderr, text=True, env=env)


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


# --- names


@pytest.mark.parametrize("args", [["-h"], ["--help"], ["--gird", "x", "--help"], ["a", "-h"]])
def test_help(call: Call, args: list[str]) -> None:
    code, out, err = call(*args, main=never)
    assert (code, err) == (0, "")
    assert out.startswith(DOC.strip())
    assert "  --[no]dry_run: print the plan and stop (default: false)\n" in out
    assert "  -g, --grid: grid to run (default: shortcuts)\n" in out
    assert "(an integer in the range [1, 9]; default: 3)" in out
    assert "--data_dir: where the data is (default: none)" in out
    assert "-h, --help:" in out and "--version:" in out and "--flagfile:" in out
    assert "\x1b" not in out and all(len(line) <= 88 for line in out.splitlines())


def test_help_shows_each_flag_of_the_project_once(values: flags.FlagValues, call: Call) -> None:
    flags.DEFINE_string("zoo", "z", "of the zoo", values, module_name="reszoo.models")
    flags.DEFINE_string("own", "o", "of the main module", values, module_name=sys.argv[0])
    flags.DEFINE_string("log_to", "l", "of a library", values, module_name="absl.logging")
    out = call("--help")[1]
    assert out.count("--zoo:") == out.count("--own:") == out.count("--grid:") == 1
    assert "log_to" not in out


def test_helpfull(values: flags.FlagValues, call: Call) -> None:
    flags.DEFINE_string("log_to", "l", "of a library", values, module_name="absl.logging")
    code, out, err = call("--helpfull", main=never)
    assert (code, err) == (0, "")
    assert out.startswith(DOC.strip()) and "--log_to: of a library" in out


def test_version(call: Call) -> None:
    assert call("--version", main=never) == (0, "demo 1.2.3\n", "")


def test_help_after_two_hyphens_is_no_flag(call: Call) -> None:
    assert refused(call, "--", "--help") == 'unexpected argument "--help"'


# --- what is accepted


@pytest.mark.parametrize(
    ("args", "name", "expected"),
    [
        ([], "grid", "shortcuts"),
        (["--dry-run"], "dry_run", True),
        (["--dry_run"], "dry_run", True),
        (["-dry_run"], "dry_run", True),
        (["--no-dry-run"], "dry_run", False),
        (["--nodry-run"], "dry_run", False),
        (["--nodry_run"], "dry_run", False),
        (["--dry-run=false"], "dry_run", False),
        (["--data-dir=a-b_c"], "data_dir", "a-b_c"),
        (["--data-dir", "a-b_c"], "data_dir", "a-b_c"),
        (["--data_dir="], "data_dir", ""),
        (["--data_dir=x=--dry-run"], "data_dir", "x=--dry-run"),
        (["--data_dir", "--x-y"], "data_dir", "--x-y"),
        (["--data_dir", "-"], "data_dir", "-"),
        (["--data_dir=--grid"], "data_dir", "--grid"),
        (["-g", "depth"], "grid", "depth"),
        (["--rate", "1e-3"], "rate", 1e-3),
        (["--color=blue"], "color", Color.BLUE),
        (["--names=a,b"], "names", ["a", "b"]),
        (["--seed=1", "--seed", "-2"], "seed", [1, -2]),
        (["--grid=a", "--grid=a"], "grid", "a"),
        (["--epochs=1", "--epochs=01"], "epochs", 1),
        (["--grid=a", "--"], "grid", "a"),
    ],
)
def test_accepted(
    values: flags.FlagValues, call: Call, args: list[str], name: str, expected: object
) -> None:
    seen: list[object] = []
    assert call(*args, main=lambda: seen.append(getattr(values, name))) == (0, "", "")
    assert seen == [expected]
    assert values[name].using_default_value == (not args)


def test_a_later_run_starts_from_the_defaults(values: flags.FlagValues, call: Call) -> None:
    assert call("--grid=a", "--seed=5", "--dry_run")[0] == 0
    assert call("--grid=b", "--seed=6")[0] == 0
    assert (values.grid, values.seed, values.dry_run) == ("b", [6], False)


def test_flagfile(values: flags.FlagValues, call: Call, tmp_path: Path) -> None:
    (tmp_path / "inner.cfg").write_text("--rate=0.5\n")
    file = tmp_path / "run.cfg"
    file.write_text(f"# comment\n\n--grid=a\n--dry-run\n--flagfile={tmp_path / 'inner.cfg'}\n")
    assert call(f"--flagfile={file}")[0] == 0
    assert (values.grid, values.dry_run, values.rate) == ("a", True, 0.5)
    assert call("--flagfile", str(file), "--grid=b", "--no-dry-run") == (0, "", "")
    assert (values.grid, values.dry_run, values.rate) == ("b", False, 0.5)
    assert call("--grid=b", f"--flagfile={file}")[0] == 0
    assert values.grid == "a"


# --- what is refused


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["shortcuts"], 'unexpected argument "shortcuts"'),
        (["--grid=a", "b", "--dry_run"], 'unexpected argument "b"'),
        (["--", "b"], 'unexpected argument "b"'),
        (["-"], 'unexpected argument "-"'),
        ([""], 'unexpected argument ""'),
        (["--grid", "a", "false"], 'unexpected argument "false"'),
        (["--dry_run=true", "false"], 'unexpected argument "false"'),
        (["--dry_run", "shortcuts"], 'unexpected argument "shortcuts"'),
        (["--gird=a"], "unknown flag --gird; did you mean --grid?"),
        (["--gird", "a"], "unknown flag --gird; did you mean --grid?"),
        (["--Dry-Run"], "unknown flag --Dry-Run; did you mean --dry_run?"),
        (["--no-dry-rnu"], "unknown flag --no-dry-rnu; did you mean --nodry_run?"),
        (["--nogrid"], "unknown flag --nogrid; did you mean --grid?"),
        (["--versoin"], "unknown flag --versoin; did you mean --version?"),
        (["--qqqqq"], "unknown flag --qqqqq; --help lists the flags"),
        (["--undefok=gird"], "unknown flag --undefok; --help lists the flags"),
        (["--epochs=x"], '--epochs: bad value "x"; expected an integer in the range [1, 9]'),
        (["--epochs", "10"], '--epochs: bad value "10"; expected an integer in the range [1, 9]'),
        (["--rate=-1"], '--rate: bad value "-1"; expected a non-negative number'),
        (["--rate=nan"], '--rate: bad value "nan"; expected a non-negative number'),
        (["--seed=1.5"], '--seed: bad value "1.5"; expected an integer'),
        (
            ["--mode=fats"],
            '--mode: bad value "fats"; did you mean "fast"? Allowed: fast, slow',
        ),
        (["--color=9"], '--color: bad value "9". Allowed: red, blue'),
        (["--dry-run=maybe"], '--dry_run: bad value "maybe". Allowed: true, false'),
        (["--nodry_run=1"], "--nodry_run=1: write --dry_run or --nodry_run, without a value"),
        (["--grid"], "--grid needs a value; write --grid=VALUE"),
        (["--grid", "--dry-run"], "--grid needs a value; write --grid=VALUE"),
        (["--grid", "--flagfile=x"], "--grid needs a value; write --grid=VALUE"),
        (["--data-dir", "--"], "--data-dir needs a value; write --data-dir=VALUE"),
        (["--grid=a", "--grid=b"], '--grid is given twice, as "a" and as "b"'),
        (["-g", "a", "--grid", "b"], '--grid is given twice, as "a" and as "b"'),
        (["--dry-run", "--nodry_run"], '--dry_run is given twice, as "true" and as "false"'),
        (["--names=a", "--names=b"], '--names is given twice, as "a" and as "b"'),
        (["--flagfile"], "--flagfile needs a value; write --flagfile=VALUE"),
    ],
)
def test_refused(call: Call, args: list[str], message: str) -> None:
    assert refused(call, *args) == message


@pytest.mark.parametrize("word", ["true", "False", "0", "1", "yes", "no"])
@pytest.mark.parametrize("flag", ["--dry_run", "--dry-run", "--nodry_run"])
def test_a_value_after_a_boolean_flag(call: Call, flag: str, word: str) -> None:
    assert refused(call, flag, word) == (
        f'unexpected argument "{word}": --dry_run takes no value here; '
        "write --dry_run or --nodry_run"
    )


def test_bad_flagfiles(call: Call, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refused(call, f"--flagfile={tmp_path / 'none'}")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x80")
    refused(call, f"--flagfile={tmp_path / 'bytes'}")
    (tmp_path / "typo").write_text("--gird=a\n")
    message = refused(call, f"--flagfile={tmp_path / 'typo'}")
    assert message == "unknown flag --gird; did you mean --grid?"


def test_validators(values: flags.FlagValues, call: Call) -> None:
    flags.mark_flag_as_required("data_dir", values)
    flags.register_validator("epochs", lambda n: n != 4, "not four", values)
    assert refused(call) == "--data_dir is required."
    assert refused(call, "stray") == 'unexpected argument "stray"'
    assert refused(call, "--data_dir=x", "--epochs=4") == "flag --epochs=4: not four"
    assert refused(call, "--epochs=4") == "--data_dir is required. flag --epochs=4: not four"
    assert call("--data_dir=x")[0] == 0


# --- what main does


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3), (7, 7)])
def test_exit_code_of_main(call: Call, result: int | None, code: int) -> None:
    assert call(main=lambda: result) == (code, "", "")


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        print("partial")
        raise error

    return main


def test_user_error(call: Call) -> None:
    outcome = call(main=raising(cli.UserError("no grid\nof this name")))
    assert outcome == (cli.EXIT_USAGE, "partial\n", "error: no grid of this name\n")


def test_interrupt(call: Call) -> None:
    outcome = call(main=raising(KeyboardInterrupt()))
    assert outcome == (cli.EXIT_INTERRUPTED, "partial\n", f"{COMMAND}: interrupted\n")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("boom"), flags.UnparsedFlagAccessError("boom"), BrokenPipeError("boom")],
)
def test_bug(call: Call, error: Exception) -> None:
    code, out, err = call(main=raising(error))
    assert (code, out) == (cli.EXIT_BUG, "partial\n")
    assert err.startswith("Traceback ") and "boom" in err
    assert err.endswith(f"\n{COMMAND}: this is a bug in {COMMAND}; please report it\n")


# --- as a process


def test_process_help_and_flags(tmp_path: Path) -> None:
    command = script(tmp_path, "print(GRID.value); return cli.EXIT_FAILED_CELLS")
    helped, ran = spawn([*command, "--help"]), spawn([*command, "--grid", "a"])
    out, err = helped.communicate()
    assert (helped.returncode, err) == (0, "")
    assert "--grid: grid to run (default: shortcuts)" in out
    assert "verbosity" not in out and "stderrthreshold" not in out
    assert ran.communicate() == ("a\n", "") and ran.returncode == 3


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argument", ["", "--help"])
def test_process_broken_pipe(
    tmp_path: Path, broken_pipe: int, argument: str, unbuffered: str
) -> None:
    command = script(tmp_path, "print('x' * 100); return 0")
    process = spawn([*command, *argument.split()], broken_pipe, PYTHONUNBUFFERED=unbuffered)
    assert process.communicate()[1] == ""
    assert process.returncode == cli.EXIT_PIPE


@pytest.mark.parametrize("body", ["print('x')", "raise cli.UserError('x')", "1 / 0"])
def test_process_broken_pipe_of_both_streams(tmp_path: Path, broken_pipe: int, body: str) -> None:
    process = spawn(script(tmp_path, body), broken_pipe, broken_pipe)
    assert process.wait() == cli.EXIT_PIPE


def test_process_with_output_that_fails_after_a_user_error(
    tmp_path: Path, broken_pipe: int
) -> None:
    process = spawn(script(tmp_path, "print('x'); raise cli.UserError('y')"), broken_pipe)
    assert process.communicate()[1] == "error: y\n"
    assert process.returncode == cli.EXIT_PIPE


def test_process_interrupt(tmp_path: Path) -> None:
    body = """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job's shell may ignore it
        print("ready", flush=True)
        time.sleep(240)
    """
    process = spawn(script(tmp_path, body))
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "demo: interrupted\n")
    assert process.returncode == cli.EXIT_INTERRUPTED


def test_a_terminal_that_lacks_a_sign(tmp_path: Path) -> None:
    process = spawn(script(tmp_path, "print('1 ± 2')"), PYTHONIOENCODING="ascii")
    assert process.communicate() == ("1 ? 2\n", "")
    assert process.returncode == cli.EXIT_OK


def test_import_is_light() -> None:
    code = "import sys, ablations.cli; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(spawn([sys.executable, "-c", code]).communicate()[0].split())
    assert "absl" in loaded
    assert not loaded & {"keras", "numpy", "tensorflow", "jax", "torch", "pdb"}
