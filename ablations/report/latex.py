"""The comparison as a LaTeX table in the style of booktabs, and a document around it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ablations.report.comparison import Comparison, Row, duration, each, interval, percent
from ablations.report.table import (
    budget,
    macs,
    matching_head,
    mean,
    planned_of,
    sections,
    sentences,
    state,
    tests,
)

#: What TeX reads otherwise than it is written, or has no letter for. "[" and "*" would be taken for
#: arguments where they follow \\ or a rule.
_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$",
    ">": "$>$", "|": "$|$", "[": "{[}", "]": "{]}", "*": "{*}", "`": r"\`{}",
    '"': "{''}", "'": "{'}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "∞": r"$\infty$",
    "→": r"$\rightarrow$", "–": r"\textendash{}", "—": r"\textemdash{}",
    "…": r"\ldots{}", "‘": "{}`", "’": "{'}",
    "“": "{}``", "”": "{''}", "¹": "$^1$", "²": "$^2$", "³": "$^3$", "°": r"$^\circ$",
    "ø": r"\o{}", "Ø": r"\O{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "§": r"$\S$", "ß": r"\ss{}", "\u00a0": "~",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi  pi rho  sigma tau"
)
_GREEK += " upsilon phi chi psi omega"
_SIGNS |= {
    chr(0x3B1 + place): rf"$\{name}$" for place, name in enumerate(_GREEK.split(" ")) if name
}
_SIGNS |= {
    name: rf"$\{unicodedata.name(name).split()[-1].capitalize()}$" for name in "ΓΔΘΛΞΠΣΦΨΩ"
} | {"Λ": r"$\Lambda$", "µ": r"$\mu$"}
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip

#: Seeds on one line below a mean.
_SEEDS = 5

_DOCUMENT = r"""\documentclass{article}
\usepackage[paperwidth=%(width)scm,paperheight=%(height)scm,margin=1.5cm]{geometry}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{%% the rules that the table uses
  \newcommand{\toprule}{\noalign{\vskip2pt}\hline\noalign{\vskip3pt}}
  \newcommand{\midrule}{\noalign{\vskip2pt}\hline\noalign{\vskip3pt}}
  \newcommand{\bottomrule}{\noalign{\vskip2pt}\hline}
  \newcommand{\addlinespace}{\noalign{\vskip4pt}}}
\pagestyle{empty}
\makeatletter\setlength{\@fptop}{0pt}\makeatother
\renewcommand{\labelitemi}{$\bullet$}
\begin{document}
%(body)s
\end{document}
"""


def table(comparison: Comparison) -> str:
    """Return a `table` environment of plain ASCII; its document needs the package booktabs.

    One row an arm: the factors that vary, n, errors with each seed below, differences with their
    interval and word below, size and speed; below the caption what a reader needs to judge it.
    """
    several = len(comparison.rows) > 1
    matched = any(row.mismatch for row in comparison.rows)
    columns = [("arm", "l"), *((name, "l") for name in comparison.factors)]
    columns += [("parameters", "r"), ("MACs", "r"), *[("budget", "r")] * matched, ("n", "r")]
    columns += [("train error, %", "r"), ("test error, %", "r")]
    columns += [("Δ train, points", "r"), ("Δ test, points", "r")] * several
    columns += [
        ("images/s", "r"),
        ("wall a cell", "r"),
        *[("paper ¹", "r")] * bool(comparison.paper),
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[tp]",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{4pt}",
        f"\\begin{{tabular}}{{@{{}}{''.join(place for _, place in columns)}@{{}}}}",
        "\\toprule",
        _row([name for name, _ in columns]),
        "\\midrule",
    ]
    for number, row in enumerate(comparison.rows):
        lines += ["\\addlinespace"] * (number > 0)
        first, below = _cells(row, comparison, several, matched)
        lines.append(_row(first))
        lines += [_row(line) for line in below]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines.append(f"\\caption{{{escape(comparison.title)}}}")
    # Not in the caption itself: LaTeX first sets that on one line, which TeX limits to 5.7 m.
    lines += [
        "\\par\\medskip\\begin{minipage}{\\linewidth}\\footnotesize",
        *map(escape, _notes(comparison)),
    ]
    lines += ["\\end{minipage}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def document(comparison: Comparison) -> str:
    """Return a whole document: the table, and below it tests, audit and differences."""
    parts = [table(comparison), "\\clearpage\\footnotesize\\raggedright"]
    for title, head, body in tests(comparison):
        parts.append(f"\\section*{{{title}}}")
        parts.append(f"\\begin{{tabular}}{{@{{}}l{'r' * (len(head) - 1)}@{{}}}}")
        parts += ["\\toprule", _row(head), "\\midrule", *map(_row, body)]
        parts += ["\\bottomrule", "\\end{tabular}"]
    for title, lines in sections(comparison):
        parts += [f"\\section*{{{escape(title.rstrip('.:'))}}}", "\\begin{itemize}"]
        parts += [f"\\item {escape(line)}" for line in lines]
        parts.append("\\end{itemize}")
    # A float is never broken over pages: the page grows with it.
    rows = sum(2 + row.planned // _SEEDS for row in comparison.rows)
    height = 8 + 0.45 * rows + 0.45 * sum(map(len, _notes(comparison))) / 150
    return _DOCUMENT % {
        "width": max(30, 24 + 2 * len(comparison.factors)),
        "height": f"{max(21.0, height):.0f}",
        "body": "\n".join(parts),
    }


def escape(text: str) -> str:
    """Return text for LaTeX, in ASCII: what TeX has no sign for is named, as in [U+4E2D]."""
    signs = "".join(map(_sign, unicodedata.normalize("NFC", text)))
    return re.sub("-(?=-)", "-{}", signs)  # two of them would become a dash


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isascii():
        return sign if sign.isprintable() else " "
    parts = unicodedata.normalize("NFD", sign)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        letter = {"i": "\\i", "j": "\\j"}.get(parts[0], parts[0])
        return f"\\{_ACCENTS[parts[1]]}{{{letter}}}"
    return f"{{[}}U+{ord(sign):04X}{{]}}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + " \\\\"


def _cells(
    row: Row, comparison: Comparison, several: bool, matched: bool
) -> tuple[list[str], list[list[str]]]:
    """Return the cells of an arm, and those of the lines below it."""
    stacks = [[row.arm.name], *([row.factors.get(name, "–")] for name in comparison.factors)]
    stacks += [[f"{row.arm.parameters:,}"], [macs(row.arm.macs)]]
    stacks += [[budget(row)]] * matched
    stacks.append([planned_of(row)])
    for summary in (row.train_error, row.test_error):
        seeds = each(summary).split() if summary.n > 1 else []
        below = [" ".join(seeds[i : i + _SEEDS]) for i in range(0, len(seeds), _SEEDS)]
        stacks.append([percent(summary), *below])
    if several:
        for difference, word in (
            (row.train_difference, row.train_word), (row.test_difference, row.word)
        ):  # fmt: skip
            stacks.append([interval(difference), *[word] * bool(word)])
    stacks += [[mean(row.images_per_second.mean)], [duration(row.wall_seconds.mean)]]
    stacks += [[row.paper or "–"]] * bool(comparison.paper)
    lines = [
        [stack[i] if i < len(stack) else "" for stack in stacks]
        for i in range(max(map(len, stacks)))
    ]
    return lines[0], lines[1:]


def _notes(comparison: Comparison) -> list[str]:
    """Return the sentences below the caption: what is wrong first."""
    lines = [line for line in state(comparison) if line]
    if not comparison.audit.matched:
        lines += [matching_head(comparison), *(f"{line}." for line in comparison.audit.problems)]
    lines += [*comparison.caption, *sentences(comparison)]
    return [*lines, f"¹ The paper's {comparison.paper}"] if comparison.paper else lines
