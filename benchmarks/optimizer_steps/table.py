"""Medians, ratios and the table of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from optimizer_steps.clocks import PHASES, Seconds
from optimizer_steps.contender import Occasional
from optimizer_steps.field import ADAMW, FAST, GALORE, GALORE_RANDOMISED, LORA, PAPER, THREE

MIB = 2**20
# (contender, peer, at most this ratio of whole steps)
TARGETS = (
    (FAST, LORA, 1.2),
    (FAST, ADAMW, 0.85),
    (FAST, GALORE, 0.85),
    (PAPER, GALORE_RANDOMISED, 1.5),
    (FAST, THREE, 1 / 2.5),
)
PEERS = (LORA, ADAMW, GALORE, THREE)


def summary(rounds: list[dict[str, Seconds]], occasional: Mapping[str, Occasional]) -> dict[str, Any]:
    """Medians over the rounds of every phase, what only some steps do spread over all, and the whole step."""
    result: dict[str, Any] = {"rounds": len(rounds), "now_and_then": {n: asdict(o) for n, o in occasional.items()}}
    for clock in ("wall", "processor"):
        phases = {name: statistics.median(getattr(each[name], clock) for each in rounds) for name in PHASES}
        spread = {name: getattr(each.seconds, clock) / each.every for name, each in occasional.items()}
        rest = {"refresh": 0.0, "gate": 0.0} | spread
        steps = [sum(getattr(each[name], clock) for name in PHASES) for each in rounds]
        plain = statistics.median(steps)
        fastest = min(steps) + sum(spread.values())
        whole = {"step": plain + sum(spread.values()), "fastest_step": fastest}
        result[clock] = phases | rest | whole | {"plain_step": plain, "plain_steps": steps}
    return result


def ratios(times: Mapping[str, Mapping[str, Any]], clock: str) -> dict[str, dict[str, float]]:
    """Whole step over that of every peer."""
    steps = {name: row[clock]["step"] for name, row in times.items()}
    return {name: {peer: step / steps[peer] for peer in PEERS if peer in steps} for name, step in steps.items()}


def targets(times: Mapping[str, Mapping[str, Any]], clock: str) -> list[dict[str, Any]]:
    """Every target whose two contenders took part, and whether it is met."""
    found = []
    for name, peer, bound in TARGETS:
        if name in times and peer in times:
            ratio = times[name][clock]["step"] / times[peer][clock]["step"]
            fastest = times[name][clock]["fastest_step"] / times[peer][clock]["fastest_step"]
            target = {"step_of": name, "over": peer, "at_most": bound, "ratio": ratio, "met": ratio <= bound}
            found.append(target | {"ratio_of_fastest": fastest})
    return found


def markdown(key: str, record: Mapping[str, Any]) -> str:
    """The table of one run, with what it was measured on, and the targets."""
    clock = record["clock"]
    rows = []
    for name, row in record["contenders"].items():
        spent, memory = row[clock], row["memory"]
        rows.append(
            [name, *(spent[phase] for phase in (*PHASES, "refresh", "gate", "step"))]
            + [record["ratios"][clock][name].get(peer) for peer in PEERS]
            + [
                memory["peak"] / MIB,
                memory["state"] / MIB,
                "yes" if memory["state"] == memory["state_formula"] else "NO",
            ]
        )
    headers = ["method", *PHASES, "refresh", "gate", "step", *(f"/ {peer}" for peer in PEERS)]
    headers += ["peak MiB", "state MiB", "= formula"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=".3f", missingval="")
    lines = [
        f"- {item['step_of']} / {item['over']}: {item['ratio']:.2f} (fastest rounds: {item['ratio_of_fastest']:.2f}), "
        f"target at most {item['at_most']:.2f}: " + ("met" if item["met"] else "**not met**")
        for item in record["targets"][clock]
    ]
    lines += [f"- {line}" for line in memory_lines(record)]
    missing = [f"- {name} did not run: {why}" for name, why in record["missing"].items()]
    setting, machine = record["setting"], record["machine"]
    about = (
        f"Seconds ({clock} time, medians of {setting['repeats']} rounds in which the methods take turns), "
        f"{setting['tokens']} tokens a step, rank {setting['rank']}, refresh of bases spread over "
        f"{setting['update_gap']} steps, training of the gate over 10; {machine['processor']}, "
        f"{setting['threads']} thread(s), {setting['dtype']}, torch {record['versions']['torch']}."
    )
    return "\n".join([f"## {key}", "", about, "", table, "", *lines, *missing, ""])


def memory_lines(record: Mapping[str, Any]) -> list[str]:
    """What the peak of `fast` is made of, and its share of AdamW's."""
    rows = record["contenders"]
    if FAST not in rows:
        return []
    fast = rows[FAST]["memory"]
    lines = []
    if LORA in rows:
        lora = rows[LORA]["memory"]
        activations = lora["peak"] - lora["standing"] - lora["gradients_formula"]
        allowed = fast["weights"] + fast["state_formula"] + activations
        lines.append(
            f"Peak of {FAST}: {fast['peak'] / MIB:.0f} MiB; weights + state by formula + activations of LoRA: "
            f"{allowed / MIB:.0f} MiB; with its projected gradients by formula "
            f"{(allowed + fast['gradients_formula']) / MIB:.0f} MiB."
        )
    if ADAMW in rows:
        lines.append(f"Peak of {FAST} / peak of {ADAMW}: {fast['peak'] / rows[ADAMW]['memory']['peak']:.2f}.")
    made = ", ".join(f"{name} x {count}" for name, count in fast["full_size"].items()) or "none"
    lines.append(f"New tensors of the shape of a trained matrix in a step of {FAST}: {made}.")
    return lines
