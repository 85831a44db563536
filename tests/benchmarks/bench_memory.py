"""Peak memory of a job must not grow with the model's depth: 8 against 32 equal blocks, each in a process of its own.

File mappings count against the files, not the job: what is compared is the peak of anonymous memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WIDTH, BLOCKS = 512, (8, 32)
SAMPLES, LENGTH = 16, 128


def make_pair(folder: Path, blocks: int) -> tuple[Path, Path]:
    """A Llama-shaped pair of random weights, the fine-tune about one per cent away from the base."""
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=1024, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=blocks, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2)).bfloat16()
    tokens = Tokenizer(models.BPE(vocab={chr(33 + i): i for i in range(94)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    base, tuned = folder / "base", folder / "tuned"
    for target in (base, tuned):
        model.save_pretrained(target)
        PreTrainedTokenizerFast(tokenizer_object=tokens).save_pretrained(target)
    weights = load_file(tuned / "model.safetensors")
    for name, weight in weights.items():
        if "_proj" in name:
            weight += (0.01 * weight.float().std() * torch.randn(weight.shape)).to(weight.dtype)
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})
    return base, tuned


_CHILD = """
import json, sys, threading, time
from pathlib import Path
peak = {"anonymous": 0, "all": 0}
def watch():
    while True:
        fields = dict(x.split(":") for x in Path("/proc/self/status").read_text().splitlines() if ":" in x)
        peak["anonymous"] = max(peak["anonymous"], int(fields["RssAnon"].split()[0]))
        peak["all"] = max(peak["all"], int(fields["VmRSS"].split()[0]))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
from core.job import Job
from core.request import Request
Job(Request(base=sys.argv[1], fine_tuned=sys.argv[2], output=sys.argv[3], calibration=sys.argv[4], samples=int(sys.argv[5]),
            tune_samples=8, sequence_length=int(sys.argv[6])), lambda event: None).run()
print(json.dumps(peak))
"""


def peak_memory(blocks: int) -> dict[str, int]:
    """Peak resident kilobytes of a whole job, {"anonymous", "all"}."""
    with tempfile.TemporaryDirectory() as work:
        base, tuned = make_pair(Path(work), blocks)
        text = Path(work) / "text.txt"
        text.write_text("\n\n".join(f"{i} the quick brown fox jumps over the lazy dog and {i * 7} more" for i in range(4000)))
        command = [sys.executable, "-c", _CHILD, *map(str, (base, tuned, Path(work) / "delta", text, SAMPLES, LENGTH))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        return result


def run() -> list[dict[str, Any]]:
    """Peak anonymous memory of 32 blocks over that of 8."""
    small, large = (peak_memory(blocks) for blocks in BLOCKS)
    beside = "; ".join(f"{n} blocks: {peak['anonymous'] / 1024:.0f} MB anonymous, {peak['all'] / 1024:.0f} MB with files"
                       for n, peak in zip(BLOCKS, (small, large), strict=True))
    return [{"name": "peak memory of a job, 32 blocks / 8 blocks", "value": round(large["anonymous"] / small["anonymous"], 4),
             "unit": "x", "reference": beside, "goal": 1.1, "better": "lower"}]


if __name__ == "__main__":
    for row in run():
        print(row)
