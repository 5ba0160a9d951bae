"""The command line shared by every command: absl flags, with absl's surprises mended once.

A command defines flags with absl as usual, and ends with

    cli.run(main, doc=__doc__, version=version, command="python -m ablations.run")

absl.app is not used: it serves only the global FLAGS, once in a process, and imports pdb. This
module imports the standard library, absl.flags and two small modules alone: start-up is felt.
"""

from __future__ import annotations

import io
import math
import os
import re
import select
import sys
import textwrap
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from absl import flags

from ablations.errors import UserError
from reszoo.errors import SpecError, choices, closest

EXIT_OK = 0
EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_FAILED_CELLS = 3
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # 128 + SIGPIPE, what a shell reports of any tool whose reader went away

PROJECT = ("ablations", "reszoo", "__main__")  # --help shows the flags of these packages
OWN_FLAGS = ("h", "?", "help", "helpshort", "helpfull", "version")
OWN_HELP = """\
-h, --help: show this help and exit
--helpfull: show every flag, those of absl included, and exit
--version: show the version and exit
--flagfile: read flags from this file, one --name=value to a line"""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _bad_value(flag: flags.Flag[Any], text: str, error: Exception) -> str:
    """Return the message for a refused value; absl's own rarely says what is allowed."""
    what, parser = f"--{flag.name}: bad value", flag.parser
    names = ("true", "false") if flag.boolean else getattr(parser, "enum_values", None)
    if names := names or getattr(parser, "member_names", None):
        return choices(what, text, names)
    if isinstance(parser, flags.IntegerParser | flags.FloatParser):
        return f'{what} "{text}"; expected {parser.syntactic_help}'
    return f'{what} "{text}"; ' + str(error).removeprefix(f"flag --{flag.name}={text}: ")


def _flag_name(arg: str) -> str:
    """Return "x" for "-x", "--x" and "--x=value", and "" for what is no flag."""
    return arg.removeprefix("-").removeprefix("-").partition("=")[0] if arg[:1] == "-" else ""


class _Parser:
    """Sets the flags of `values` from arguments, through absl's public methods.

    FlagValues.__call__ is of no use: once it returns, "--dry_run false" is a True and a stray
    "false", and its errors name neither flag nor value apart. --undefok is left out on purpose.
    """

    def __init__(self, values: flags.FlagValues) -> None:
        self.values = values
        self.given: dict[str, tuple[Any, str]] = {}
        self.arguments: list[str] = []

    def find(self, name: str) -> tuple[flags.Flag[Any] | None, bool]:
        """Return the flag called `name`, hyphens allowed, and whether this is its "no" form."""
        plain = name.replace("-", "_")
        for candidate in (name, plain):
            if candidate in self.values:
                return self.values[candidate], False
        rest = plain.removeprefix("no").removeprefix("_")
        if plain.startswith("no") and rest in self.values and self.values[rest].boolean:
            return self.values[rest], True
        return None, False

    def value_of(self, arg: str, queue: deque[str]) -> str:
        """Return the value in "--name=value", or take the one that follows "--name"."""
        option, equals, value = arg.partition("=")
        if equals:
            return value
        # absl would silently take "--dry_run" as the value in "--grid --dry_run".
        name = _flag_name(queue[0]) if queue else ""
        if not queue or queue[0] == "--" or name == "flagfile" or self.find(name)[0] is not None:
            raise UserError(f"{option} needs a value; write {option}=VALUE")
        return queue.popleft()

    def feed(self, args: Iterable[str], from_file: bool = False) -> None:
        """Set flags from `args`, and keep what is no flag in `arguments`."""
        queue = deque(args)
        bare = ""  # the boolean flag just seen, if it came without "="
        while queue:
            arg = queue.popleft()
            previous, bare = bare, ""
            name = _flag_name(arg)
            flag, negated = self.find(name)
            if arg == "--":
                self.arguments += queue
                return
            if not name:
                if previous and arg.lower() in ("true", "false", "0", "1", "yes", "no"):
                    raise UserError(
                        f'unexpected argument "{arg}": --{previous} takes no value here; write '
                        f"--{previous} or --no{previous}"
                    )
                self.arguments.append(arg)
            elif name == "flagfile" and not from_file:  # absl has expanded those inside the file
                path = self.value_of(arg, queue)
                self.feed(self.values.read_flags_from_files([f"--flagfile={path}"]), True)
            elif flag is None:
                negations = [f"no{f}" for f in self.values if self.values[f].boolean]
                known = [*self.values, *OWN_FLAGS, "flagfile"] + negations * (name[:2] == "no")
                close = closest(name.replace("-", "_"), known)
                hint = f"did you mean --{close}?" if close else "--help lists the flags"
                raise UserError(f"unknown flag {arg.partition('=')[0]}; {hint}")
            elif negated and "=" in arg:
                raise UserError(f"{arg}: write --{flag.name} or --no{flag.name}, without a value")
            elif flag.boolean and "=" not in arg:
                bare = flag.name
                self.assign(flag, "false" if negated else "true", from_file)
            else:
                self.assign(flag, self.value_of(arg, queue), from_file)

    def assign(self, flag: flags.Flag[Any], text: str, from_file: bool) -> None:
        """Set one flag, as absl does; refuse a second, different value."""
        try:
            flag.parse(text)
            if isinstance(flag.value, float) and math.isnan(flag.value):
                raise ValueError("not a number")  # NaN passes every bound
        except (flags.Error, ValueError, TypeError) as error:
            raise UserError(_bad_value(flag, text, error)) from error
        flag.using_default_value = False
        # A flagfile and the command line may overrule one another: the last one wins, as in absl.
        if not from_file and not isinstance(flag, flags.MultiFlag):
            value, first = self.given.setdefault(flag.name, (flag.value, text))
            if value != flag.value:
                raise UserError(f'--{flag.name} is given twice, as "{first}" and as "{text}"')


def _parse(
    args: Sequence[str],
    values: flags.FlagValues,
    positionals: bool,
    hint: Callable[[str], str],
) -> list[str]:
    for flag in (values[name] for name in values):
        if flag.present:  # set by an earlier run() in this process
            flag.unparse()
    parser = _Parser(values)
    try:
        parser.feed(args)
        if parser.arguments and not positionals:
            stray = parser.arguments[0]
            raise UserError(f'unexpected argument "{stray}"{hint(stray)}')
        values.mark_as_parsed()
        values.validate_all_flags()
    except (flags.Error, UnicodeDecodeError) as error:  # the latter from a binary flagfile
        missing = r"flag --\S+=None: Flag (--\S+) must have a value other than None\."
        message = re.sub(missing, r"\1 is required.", str(error))
        raise UserError(message.replace("ERROR:: ", "")) from error
    return parser.arguments


def _help(doc: str, values: flags.FlagValues) -> str:
    """Return `doc` and the flags of the project, each with its default."""
    lines = []
    for module, defined in values.flags_by_module_dict().items():
        # absl files the flags of __main__ under the path of the script.
        if module != sys.argv[0] and module.partition(".")[0] not in PROJECT:
            continue
        for flag in defined:
            short = f"-{flag.short_name}, " if flag.short_name else ""
            kind = f"{flag.parser.syntactic_help}; " if flag.parser.syntactic_help else ""
            default = (flag.default_as_str or "none").strip("'") or '""'
            name = f"[no]{flag.name}" if flag.boolean else flag.name
            lines.append((flag.name, f"{short}--{name}: {flag.help} ({kind}default: {default})"))
    texts = [_one_line(text) for _, text in sorted(lines)] + OWN_HELP.splitlines()
    wrap = textwrap.TextWrapper(88, initial_indent="  ", subsequent_indent=" " * 8)
    wrap.break_on_hyphens = wrap.break_long_words = False
    return "\n".join([doc.strip(), "", "Flags:", *map(wrap.fill, texts)])


def _closed_streams() -> list[int]:
    """Return which of stdout and stderr have lost their reader (on Windows none ever has)."""
    if not hasattr(select, "poll"):
        return []
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return [descriptor for descriptor, _ in poll.poll(0)]


def numbers(flag: str, texts: list[str] | None) -> list[int] | None:
    """Return the values of a list flag as integers, or None where it was not given.

    Raises:
        UserError: one of them is no integer.
    """
    if texts is None:
        return None
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise UserError(
            f"--{flag} takes numbers separated by commas, not {','.join(texts)!r}"
        ) from None


def run(
    main: Callable[..., int | None],
    *,
    doc: str,
    version: Callable[[], str],
    command: str,
    argv: Sequence[str] | None = None,
    flag_values: flags.FlagValues = flags.FLAGS,
    positionals: bool = False,
    hint: Callable[[str], str] = lambda argument: "",
) -> NoReturn:
    """Parse the flags in `argv` (sys.argv; program name first), run `main`, exit with its code.

    With `positionals`, `main` is given the list of arguments that are no flags; without, any such
    argument is a mistake, and `hint` says what it may have been meant for.
    """
    args = list(sys.argv if argv is None else argv)[1:]
    code = EXIT_OK
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a sign shows "?" for it
            stream.reconfigure(errors="replace")
    try:
        try:
            # Help is answered wherever it stands, also beside a mistake it would explain.
            before = args[: args.index("--")] if "--" in args else args
            asked = next((name for name in map(_flag_name, before) if name in OWN_FLAGS), None)
            if asked is None:
                arguments = _parse(args, flag_values, positionals, hint)
                code = (main(arguments) if positionals else main()) or EXIT_OK
            elif asked == "version":
                print(version())
            else:
                full = flag_values.get_help(include_special_flags=False)
                print(_help(doc, flag_values) + f"\n\nAll:\n{full}" * (asked == "helpfull"))
        except (UserError, SpecError) as error:
            print(f"error: {_one_line(str(error))}", file=sys.stderr)
            code = EXIT_USAGE
        except KeyboardInterrupt:
            print(f"{command}: interrupted", file=sys.stderr)
            code = EXIT_INTERRUPTED
        except Exception as error:
            # Only our own output may end quietly: a broken pipe to a worker process is a bug.
            if isinstance(error, BrokenPipeError) and _closed_streams():
                raise
            traceback.print_exc()
            print(f"{command}: this is a bug in {command}; please report it", file=sys.stderr)
            code = EXIT_BUG
        sys.stdout.flush()  # a lost reader can be handled here, but no more at exit
    except BrokenPipeError:
        for descriptor in _closed_streams():
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)  # no complaint at exit either
        code = EXIT_PIPE
    sys.exit(code)
