"""The LaTeX table compiles whatever users write, and says what the records say."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_run import compared, made_up

from ablations import grids
from ablations.report import latex

ERRORS = {"plain": [20.5, 22.25, 21.0], "A": [17.0, 18.75, 16.5], "B": [16.0, 17.5, 30.0]}
NASTY = [
    "50%_of $x^2$ & #1 {~} \\\\end{tabular}",
    "[brackets] first",
    "*star",
    "--dashes -- and---more",
    "\\input{/etc/passwd}\\undefined",
    "^^M^^41 %^",
    "<tag> \"quoted\" 'single' `back` |bar|",
    "naïve Łódź Čeština ñandú groß Ærø fiancée",
    "−3 ± 0.5 ≤ Δ × α ≥ λ → ∞ … “q” ‘s’ – —",
    "中文 \U0001f600 \u202e \x00\t\x1b\n\ud800 \u0301",
    "?` !` ,, << >> ff fi ffl",
    "]{}[",
]
needs_pdflatex = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="no pdflatex (Debian: apt-get install texlive-latex-base)",
)


def compiled(text: str, directory: Path) -> str:
    """Compile a document and return TeX's log; any error or unknown sign fails."""
    (directory / "report.tex").write_text(text, encoding="ascii")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report"],
        cwd=directory, capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    log = (directory / "report.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-2000:]
    assert "Missing character" not in log
    return log


def printed(directory: Path) -> str:
    """Return the words of the compiled document."""
    command = ["pdftotext", "-layout", "report.pdf", "-"]
    found = subprocess.run(command, cwd=directory, capture_output=True, check=True)
    return " ".join(found.stdout.decode().split())


def test_it_holds_the_table(tmp_path: Path) -> None:
    factors = {n: {"shortcut": n, "depth": 20} for n in ERRORS}
    comparison = compared(made_up(tmp_path, ERRORS, factors=factors, paper={"A": 8.75}))
    text = latex.table(comparison)
    plain = re.sub(r"[{}]", "", text.replace("$-$", "-").replace(r"$\pm$", "±"))
    for name, errors in ERRORS.items():
        assert f"{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f}" in plain
        assert " ".join(f"{error:.2f}" for error in errors) in plain
        if name != "plain":
            base = statistics.mean(ERRORS["plain"])
            assert f"& {statistics.mean(errors) - base:+.2f} &" in plain
    rows = text.split("\\midrule")[1].split("\\bottomrule")[0]
    assert "depth" not in rows  # all arms have one
    caption = plain.split("\\caption")[1].replace("\n", " ")
    for sentence in (*comparison.caption, *comparison.statistics):
        assert latex.escape(sentence)[:40] in caption
    assert "8.75" in text
    assert "Table 6" in caption


@pytest.mark.parametrize("problems", [(), ("B/seed1 saw other data",)])
def test_what_is_wrong_is_said(tmp_path: Path, problems: tuple[str, ...]) -> None:
    run = made_up(tmp_path, {"a": [9.0, 8.0], "b": [7.0, None]})
    text = latex.table(compared(run, problems))
    assert "UNFINISHED: 3 of 4" in text
    assert ("NOT MATCHED" in text) == bool(problems)
    assert ("B/seed1 saw other data" in text) == bool(problems)


#: What escaped text is made of: letters, signs that are nothing special, and these few forms.
INERT = re.compile(
    r"""([A-Za-z0-9 .,:;!?()/+=@]
    | -(?!-)
    | \{([*'\[\]]|'')\}
    | \\[{}$&%#_]
    | \$(\\[A-Za-z]+|[-<>|]|\^[123]|\^\\circ)\$
    | \\(text[a-z]+|ss|o|O|ae|AE|oe|OE|l|L|i|ldots|`)\{\}
    | \\[`'^~=u."rHvc]\{(\\[ij]|[A-Za-z])\}
    | \{\}(``?)? | ~ )*""",
    re.X,
)


@settings(max_examples=300)
@given(st.one_of(st.sampled_from(NASTY), st.text(), st.text("\\{}$&%#_^~[]*-`'\"<|?")))
def test_escaped_text_is_inert(text: str) -> None:
    assert INERT.fullmatch(latex.escape(text))


@needs_pdflatex
def test_it_compiles_whatever_users_write(tmp_path: Path) -> None:
    signs = "".join(map(chr, [*range(1, 0x250), *range(0x370, 0x400), *range(0x2010, 0x2040)]))
    run = made_up(
        tmp_path, {name: [9.0 + k, 8.5, 8.0 - k] for k, name in enumerate(NASTY)},
        title=" ".join(NASTY), paper={NASTY[0]: 6.5},
        factors={name: {"a_&%": str(k), "b": k % 2} for k, name in enumerate(NASTY)},
    )  # fmt: skip
    run.grid["data"]["notes"] = [*NASTY, *(signs[i : i + 50] for i in range(0, len(signs), 50))]
    comparison = compared(run, ["[x] 100 % of {these} & \\those"])
    compiled(latex.document(comparison), tmp_path)
    if shutil.which("pdftotext"):
        words = printed(tmp_path)
        for text in ("50%", "#1", "[brackets] first", "*star", "--dashes", "---more", "[U+4E2D]",
                     "|bar|", "<tag>"):  # fmt: skip
            assert text in words


@needs_pdflatex
def test_the_built_in_grids_fit_the_text_of_an_article(tmp_path: Path) -> None:
    """Five seeds each; the widest of each kind of column. TeX measures."""
    for name in grids.names():
        grid = grids.load(name, "quick")
        errors = {arm.name: [99.88 - k / 7 for k in range(5)] for arm in grid.arms}
        errors[grid.arms[-1].name] = [5.55 + k * k for k in range(5)]
        factors = {arm.name: arm.factors for arm in grid.arms}
        run = made_up(tmp_path, errors, factors=factors, paper=dict.fromkeys(errors, 28.54))
        body = latex.document(compared(run))
        assert "Overfull" not in compiled(body, tmp_path), name


@needs_pdflatex
@pytest.mark.parametrize("booktabs", ["", "[2020/01/12]"])
def test_twelve_arms_of_ten_seeds_fit_the_page(tmp_path: Path, booktabs: str) -> None:
    if booktabs:  # stands for the package, which is not part of texlive-latex-base
        (tmp_path / "booktabs.sty").write_text(
            f"\\ProvidesPackage{{booktabs}}{booktabs}\n\\def\\toprule{{\\hline}}"
            "\\def\\midrule{\\hline}\\def\\bottomrule{\\hline}"
            "\\def\\addlinespace{\\noalign{\\vskip 1pt}}"
        )
    errors = {f"residual-{20 + a}": [20 - a + s / 7 for s in range(10)] for a in range(12)}
    factors = {n: {"shortcut": "ABCD"[i % 4], "depth": 20 + i // 4} for i, n in enumerate(errors)}
    run = made_up(tmp_path, errors, factors=factors, paper=dict.fromkeys(errors, 6.97))
    log = compiled(latex.document(compared(run)), tmp_path)
    assert "Overfull" not in log
    assert "too large" not in log
    assert not booktabs or "Package: booktabs 2020/01/12" in log
