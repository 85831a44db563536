"""The model card of a delta: what it is, how large, how faithful, how to use it."""

from __future__ import annotations

from collections import Counter

from core.artifact import DeltaConfig


def model_card(config: DeltaConfig, full_bytes: int, weights_bytes: int) -> str:
    """README.md of a delta folder, in the hub's format for adapters; `full_bytes` are the fine-tune's weights."""
    codecs = Counter(r.codec for r in config.tensors)
    axes = Counter(s.axis for r in config.tensors if r.codec == "sign" for s in r.slices)
    f = config.fidelity
    unit = "KL, nats per token" if f["objective"] == "kl" else "squared logit error"
    lines = [
        "---", f"base_model: {config.base.name}", "library_name: deltadeck", "tags:", "- delta", "- deltadeck", "---", "",
        f"# {config.fine_tuned}, as a delta on {config.base.name}", "",
        f"This folder rebuilds **{config.fine_tuned}** from its base **{config.base.name}** ({config.base.architecture}). "
        f"It holds {weights_bytes / 1e6:,.2f} MB of weights in place of {full_bytes / 1e6:,.2f} MB "
        f"({full_bytes / max(1, weights_bytes):.1f} times smaller).", "",
        "## Fidelity", "",
        f"Measured on {f['tokens']:,} tokens of calibration text that no fit has seen ({unit} to the fine-tune):", "",
        "| | loss |", "|---|---|", f"| base | {f['base']:.5f} |", f"| fitted scales | {f['fitted']:.5f} |"]
    if f.get("tuned") is not None:
        lines.append(f"| tuned end to end | {f['tuned']:.5f} |")
    share = 1 - f["variant"] / f["base"] if f["base"] > 0 else 1.0
    lines += [f"| **recovery** | **{share:.4f}** |", "",
              f"The {f['kept']} scales are the ones stored. Run `deltadeck evaluate` for figures on text of your own.", "",
              "## How it is stored", "",
              "Method: " + ", ".join(f"{k} {v}" for k, v in config.method.items()) + ".",
              "Tensors by codec: " + ", ".join(f"{n} {k}" for k, n in sorted(codecs.items())) + "."]
    if axes:
        lines.append("Scales by axis: " + ", ".join(f"{n} {k}" for k, n in sorted(axes.items())) + ".")
    if f.get("methods"):
        counts = ", ".join(f"{n} {k}" for k, n in sorted(f["methods"].items(), key=lambda pair: -pair[1]))
        lines.append(f"Matrices by method, chosen for the size: {counts}.")
    if config.warnings:
        lines += ["", "## Warnings", "", *(f"- {w}" for w in config.warnings)]
    lines += ["", "## Use", "", "```", "deltadeck verify   THIS_FOLDER --base BASE",
              "deltadeck export   THIS_FOLDER --base BASE -o FOLDER", "```", "",
              "The exported folder loads in transformers as any other checkpoint."]
    return "\n".join(lines) + "\n"
