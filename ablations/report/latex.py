"""The comparison as a LaTeX table in the style of booktabs, and a document around it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ablations.report.comparison import Comparison, Row, each, interval, percent
from ablations.report.table import (
    budget,
    macs,
    matching_head,
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
_SEEDS = 3

_DOCUMENT = r"""\documentclass{article}
%% The text of a plain article on A4; only the height grows, as a float is never broken over pages.
\usepackage[paperwidth=21cm,textwidth=345pt,paperheight=%(height)scm,vmargin=1.5cm]{geometry}
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

    One row an arm, narrow enough for the text of an article: MACs below the parameters; each seed,
    difference, interval and word below the errors. Below the caption what a reader needs to judge
    it, the arms' factors first.
    """
    several = len(comparison.rows) > 1
    columns = [("arm", "l"), ("parameters", "r"), ("n", "r")]
    columns += [("train error, %", "r"), ("test error, %", "r")]
    columns += [("paper ¹", "r")] * bool(comparison.paper)
    second = ["", "MACs", "", *["Δ, points"] * (2 * several)]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[tp]",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{@{{}}{''.join(place for _, place in columns)}@{{}}}}",
        "\\toprule",
        _row([name for name, _ in columns]),
        _row(second + [""] * (len(columns) - len(second))),
        "\\midrule",
    ]
    for number, row in enumerate(comparison.rows):
        lines += ["\\addlinespace"] * (number > 0)
        lines += map(_row, _cells(row, comparison, several))
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines.append(f"\\caption{{{escape(comparison.title)}}}")
    # Not in the caption itself: LaTeX first sets that on one line, which TeX limits to 5.7 m.
    lines += [
        "\\par\\medskip\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright",
        *map(escape, _notes(comparison)),
    ]
    lines += ["\\end{minipage}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def document(comparison: Comparison) -> str:
    """Return a whole document: the table, and below it tests, audit and differences."""
    parts = [table(comparison), "\\clearpage\\footnotesize\\raggedright"]
    for title, head, body in tests(comparison):
        parts.append(f"\\section*{{{title}}}")
        parts.append("\\begin{itemize}")
        for row in body:
            entries = zip(head[1:], row[1:], strict=True)
            parts.append(f"\\item {escape(row[0])}: ")
            parts.append(escape("; ".join(f"{name} {value}" for name, value in entries)))
        parts.append("\\end{itemize}")
    for title, lines in sections(comparison):
        parts += [f"\\section*{{{escape(title.rstrip('.:'))}}}", "\\begin{itemize}"]
        parts += [f"\\item {escape(line)}" for line in lines]
        parts.append("\\end{itemize}")
    rows = sum(6 + row.planned // _SEEDS for row in comparison.rows)
    height = 8 + 0.45 * rows + 0.45 * sum(map(len, _notes(comparison))) / 90
    return _DOCUMENT % {"height": f"{max(29.7, height):.1f}", "body": "\n".join(parts)}


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


def _cells(row: Row, comparison: Comparison, several: bool) -> list[list[str]]:
    """Return the lines of an arm, each with a cell a column."""
    stacks = [[row.arm.name], [f"{row.arm.parameters:,}", macs(row.arm.macs)]]
    if any(other.mismatch for other in comparison.rows):
        stacks[-1] += budget(row).split(", ")
    stacks.append([planned_of(row)])
    for summary, difference, word in (
        (row.train_error, row.train_difference, row.train_word),
        (row.test_error, row.test_difference, row.word),
    ):
        seeds = each(summary).split() if summary.n > 1 else []
        below = [" ".join(seeds[i : i + _SEEDS]) for i in range(0, len(seeds), _SEEDS)]
        shown = interval(difference, summary.n).replace(" [", "\n[").replace(" (", "\n(")
        compared = [*shown.split("\n"), *[word] * bool(word)] if several else []
        stacks.append([percent(summary), *below, *compared])
    stacks += [[row.paper or "–"]] * bool(comparison.paper)
    return [
        [stack[i] if i < len(stack) else "" for stack in stacks]
        for i in range(max(map(len, stacks)))
    ]


def _notes(comparison: Comparison) -> list[str]:
    """Return the sentences below the caption: what is wrong first."""
    lines = [line for line in state(comparison, mismatches=False) if line]
    if not comparison.audit.matched:
        lines += [matching_head(comparison), *(f"{line}." for line in comparison.audit.problems)]
    arms = [f"{row.arm.name} ({row.differs})" for row in comparison.rows if row.factors]
    lines += [f"Arms: {'; '.join(arms)}."] * bool(arms)
    lines += [*comparison.caption, *sentences(comparison)]
    return [*lines, f"¹ The paper's {comparison.paper}"] if comparison.paper else lines
