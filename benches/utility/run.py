#!/usr/bin/env python3
"""Runs a matrix of configurations, budgets, settings and repetitions, and tabulates their quality.

    python benches/utility/run.py benches/utility/matrix.toml --out results/utility [--only CASE]

The matrix is a TOML file: see README.md beside it. Every figure that is measured becomes a row of
OUT/results.csv at once; what is there is not run again, so the same command continues after an
interruption. OUT/table.md has mean and standard deviation over the repetitions, OUT/<case>.png the
curves over epsilon (with matplotlib, see requirements.txt).
"""

import argparse
import csv
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

COLUMNS = ["case", "setting", "epsilon", "repetition", "figure", "value"]
# `{0.5 sigma}` in a setting: so many times the noise multiplier, which is the standard deviation of
# the noise of a count where each image has one vote.
SIGMA = re.compile(r"\{([0-9.]+) sigma\}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dpsyn", default="target/release/dpsyn", help="the program")
    parser.add_argument("--only", action="append", help="run these cases (repeatable)")
    parser.add_argument("--keep", action="store_true", help="keep the result folders")
    arguments = parser.parse_args()
    matrix = tomllib.loads(arguments.matrix.read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.out / "results.csv")
    unknown = set(arguments.only or []) - {case["name"] for case in matrix["case"]}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    for case in matrix["case"]:
        if arguments.only and case["name"] not in arguments.only:
            continue
        for cell in cells(case):
            measure(cell, results, arguments)
            (arguments.out / "table.md").write_text(table(results.rows))
    plot(results.rows, arguments.out)


class Results:
    """Rows of a CSV file, each written at once."""

    def __init__(self, path):
        self.path = path
        self.rows = []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
        else:
            path.write_text(",".join(COLUMNS) + "\n")

    def has(self, cell, figure):
        return any(same_cell(row, cell) and row["figure"] == figure for row in self.rows)

    def remove(self, cell):
        """Removes the rows of a cell."""
        kept = [row for row in self.rows if not same_cell(row, cell)]
        if len(kept) == len(self.rows):
            return
        self.rows = kept
        unfinished = self.path.with_suffix(".tmp")
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        unfinished.replace(self.path)

    def add(self, cell, figure, value):
        row = dict(zip(COLUMNS, [*cell.key, figure, value]))
        self.rows.append({name: str(value) for name, value in row.items()})
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)


def same_cell(row, cell):
    return tuple(row[name] for name in COLUMNS[:4]) == cell.key


class Cell:
    """One run: a case, a setting, an epsilon and the number of the repetition."""

    def __init__(self, case, setting, epsilon, repetition):
        self.case = case
        self.setting = setting
        self.key = (case["name"], setting, str(epsilon), str(repetition))
        self.overrides = [
            f"privacy.epsilon={epsilon}",
            # Two repetitions differ by all random numbers, the noise included.
            f"evolution.seed={repetition}",
            *case.get("set", []),
            *case.get("settings", {"default": []})[setting],
        ]


def cells(case):
    for repetition in range(case.get("repetitions", 5)):
        for epsilon in case["epsilon"]:
            for setting in case.get("settings", {"default": []}):
                yield Cell(case, setting, epsilon, repetition)


def measure(cell, results, arguments):
    """Runs dpsyn and the evaluations of a cell, as far as they are missing."""
    missing = {n: e for n, e in cell.case["evaluate"].items() if not done(results, cell, n, e)}
    if not missing:
        return
    print("case {}, setting {}, epsilon {}, repetition {}".format(*cell.key), flush=True)
    folder = arguments.out / "runs" / "-".join(cell.key)
    config = [cell.case["config"]]
    for override in resolve(cell, config, arguments):
        config += ["--set", override]
    command = ["run", *config, "--set", f"output.folder={folder}"]
    is_new = not folder.exists()
    if is_new:
        # All figures of a cell are of one run.
        results.remove(cell)
        missing = cell.case["evaluate"]
    else:
        command.append("--resume")
    start = time.monotonic()
    dpsyn(arguments, command)
    if is_new:
        results.add(cell, "seconds", round(time.monotonic() - start, 1))
    last = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()))
    parents = re.findall(r"([0-9.]+) effective parents", (folder / "log.txt").read_text())
    if parents and not results.has(cell, "effective parents"):
        results.add(cell, "effective parents", parents[-1])
    for name, evaluation in missing.items():
        samples = folder / str(evaluation.get("population", last)) / "samples.npz"
        out = folder / f"evaluation-{name}"
        dpsyn(arguments, ["eval", samples, *evaluation["arguments"], "--public", "--out", out])
        with (out / "metrics.csv").open(newline="") as file:
            found = {row["figure"]: row["value"] for row in csv.DictReader(file)}
        for wanted in evaluation["figures"]:
            if wanted not in found:
                sys.exit(f"evaluation {name}: no figure {wanted}, but {', '.join(found)}")
            if not results.has(cell, figure(name, wanted, evaluation)):
                results.add(cell, figure(name, wanted, evaluation), found[wanted])
    if not arguments.keep:
        shutil.rmtree(folder)


def done(results, cell, name, evaluation):
    return all(results.has(cell, figure(name, f, evaluation)) for f in evaluation["figures"])


def figure(name, figure, evaluation):
    return name if len(evaluation["figures"]) == 1 else f"{name} {figure}"


def resolve(cell, config, arguments):
    """Replaces `{x sigma}` in the overrides by x standard deviations of the noise."""
    if not any(SIGMA.search(override) for override in cell.overrides):
        return cell.overrides
    plain = [override for override in cell.overrides if not SIGMA.search(override)]
    command = ["privacy", *config]
    for override in plain:
        command += ["--set", override]
    text = dpsyn(arguments, command).stdout
    found = re.search(r"noise multiplier ([0-9.]+)", text)
    if not found:
        sys.exit(f"no noise multiplier in the output of {command}:\n{text}")
    sigma = float(found[1])
    return [SIGMA.sub(lambda m: f"{float(m[1]) * sigma:.4g}", o) for o in cell.overrides]


def dpsyn(arguments, command):
    command = [arguments.dpsyn, *map(str, command)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr[-2000:]}")
    return done


def groups(rows):
    """Returns {(case, epsilon, setting): {figure: [values]}} in the order of the rows."""
    groups = {}
    for row in rows:
        key = (row["case"], row["epsilon"], row["setting"])
        groups.setdefault(key, {}).setdefault(row["figure"], []).append(float(row["value"]))
    return groups


def table(rows):
    """Formats one table a case: a line for each epsilon and setting, a column for each figure."""
    by_case = {}
    for (case, epsilon, setting), figures in groups(rows).items():
        by_case.setdefault(case, []).append((float(epsilon), setting, figures))
    text = ""
    for case, lines in by_case.items():
        names = list(dict.fromkeys(name for _, _, figures in lines for name in figures))
        text += f"## {case}\n\n| epsilon | setting | runs | {' | '.join(names)} |\n"
        text += "|---" * (3 + len(names)) + "|\n"
        for epsilon, setting, figures in sorted(lines, key=lambda line: line[0]):
            runs = max(len(values) for values in figures.values())
            values = " | ".join(summary(figures.get(name, [])) for name in names)
            text += f"| {epsilon:g} | {setting} | {runs} | {values} |\n"
        text += "\n"
    return text


def summary(values):
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{deviation}"


def plot(rows, out):
    """Draws each case: a panel for each figure, a curve for each setting, error bars of one s.d."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plots: matplotlib is missing (requirements.txt)")
        return
    all_groups = groups(rows)
    for case in dict.fromkeys(key[0] for key in all_groups):
        mine = {key[1:]: figures for key, figures in all_groups.items() if key[0] == case}
        names = list(dict.fromkeys(name for figures in mine.values() for name in figures))
        names = [name for name in names if name != "seconds"]
        if not names:
            continue
        _, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.6), squeeze=False)
        for axis, name in zip(axes[0], names):
            for setting in dict.fromkeys(key[1] for key in mine):
                points = sorted(
                    (float(epsilon), figures[name])
                    for (epsilon, of), figures in mine.items()
                    if of == setting and name in figures
                )
                means = [statistics.mean(values) for _, values in points]
                bars = [statistics.stdev(v) if len(v) > 1 else 0 for _, v in points]
                axis.errorbar([e for e, _ in points], means, bars, marker="o", capsize=3, label=setting)
            axis.set(xscale="log", xlabel="epsilon", title=name)
            axis.grid(alpha=0.3)
        axes[0][0].legend()
        plt.suptitle(case)
        plt.tight_layout()
        plt.savefig(out / f"{case}.png", dpi=120)
        plt.close()


if __name__ == "__main__":
    main()
