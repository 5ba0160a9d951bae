"""`ablations.run --dry_run`: what would be trained, and what it would cost."""

from __future__ import annotations

from ablations.grids.declared import widths
from ablations.plan import Plan
from ablations.report.comparison import duration


def preview(planned: Plan) -> str:
    """Return arms, costs, time and disk space of what a plan would train."""
    wide = max(16, *(len(arm.name) + 2 for arm in planned.arms))
    cells = planned.cells
    seeds = len({cell.seed for cell in cells})
    lines = [
        f"{planned.grid.title}: {len(cells)} cell{'s' * (len(cells) > 1)} "
        f"({seeds} seed{'s' * (seeds > 1)}), "
        f"data {planned.dataset.title}",
        f"{'arm':<{wide}}{'parameters':>14}{'MACs':>18}{'steps':>10}{'time a cell':>16}",
    ]
    for arm in planned.arms:
        if not any(cell.arm == arm.name for cell in cells):
            continue
        lines.append(
            f"{arm.name:<{wide}}{arm.parameters:>14,}{arm.macs:>18,}"
            f"{planned.steps(arm.name):>10,}{duration(planned.seconds(arm.name)):>16}"
            + (f"   width {widths(arm)}: {100 * arm.match['mismatch']:+.2f} %" if arm.match else "")
        )
    if planned.unmatched:
        lines += ["NOT MATCHED (allowed):", *(f"  {line}" for line in planned.unmatched)]
    left = planned.left()
    if len(left) < len(cells):
        lines.append(f"{len(cells) - len(left)} of {len(cells)} cells are done already")
    total = sum(planned.seconds(cell.arm) for cell in left) / planned.jobs
    lines += [
        f"about {duration(total)} with {planned.jobs} cells side by side, "
        f"{planned.platform.threads} thread{'s' * (planned.platform.threads > 1)} each, on "
        f"{planned.platform.device} (rough, before measuring)",
        f"about {planned.disk() / 1e6:.1f} MB in {planned.directory}",
    ]
    return "\n".join(lines)
