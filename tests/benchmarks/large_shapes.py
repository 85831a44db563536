"""Checkpoints in the shapes of large models, and a job on them whose memory is watched from inside.

Blocks are real-sized and random. Of embedding and head only the rows that the text's tokens use are written; the rest are
holes in the file, which cost no disk but as much memory as any weight once they are read.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

WORDS = 8192
"""Words of the text, and rows of the embedding that hold anything."""


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions. Vocabulary, width of the hidden state and of the feed-forward part, heads, key-value heads."""

    name: str
    vocabulary: int
    width: int
    inner: int
    heads: int
    groups: int
    depth: int

    @property
    def block(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one block's tensors by name inside it."""
        keys = self.width * self.groups // self.heads
        return {"input_layernorm.weight": (self.width,), "self_attn.q_proj.weight": (self.width, self.width),
                "self_attn.k_proj.weight": (keys, self.width), "self_attn.v_proj.weight": (keys, self.width),
                "self_attn.o_proj.weight": (self.width, self.width), "post_attention_layernorm.weight": (self.width,),
                "mlp.gate_proj.weight": (self.inner, self.width), "mlp.up_proj.weight": (self.inner, self.width),
                "mlp.down_proj.weight": (self.width, self.inner)}

    def tensors(self, blocks: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of a checkpoint with that many blocks."""
        whole: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for i in range(blocks):
            whole |= {f"model.layers.{i}.{name}": shape for name, shape in self.block.items()}
        return whole | {"model.norm.weight": (self.width,), "lm_head.weight": (self.vocabulary, self.width)}

    def config(self, blocks: int) -> dict[str, Any]:
        """What config.json says."""
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocabulary,
                "hidden_size": self.width, "intermediate_size": self.inner, "num_hidden_layers": blocks,
                "num_attention_heads": self.heads, "num_key_value_heads": self.groups, "tie_word_embeddings": False,
                "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
                "rope_theta": 500000.0, "bos_token_id": 0, "eos_token_id": 1}


LLAMA_8B = Shape("Llama-3.1-8B", 128256, 4096, 14336, 32, 8, 32)
QUARTER = Shape("a model of half its width", 128256, 2048, 7168, 16, 4, 32)
LLAMA_70B = Shape("Llama-3.1-70B", 128256, 8192, 28672, 64, 8, 80)


def make_pair(folder: Path, shape: Shape, blocks: int) -> tuple[Path, Path]:
    """A base and a fine-tune about one per cent away in every matrix of its blocks, embedding and head being the same."""
    base, tuned = folder / "base", folder / "tuned"
    for target in (base, tuned):
        target.mkdir()
        (target / "config.json").write_text(json.dumps(shape.config(blocks)))
        _tokenizer(target)
        _write(target / "model.safetensors", shape.tensors(blocks), 0.01 if target == tuned else 0.0)
    return base, tuned


def make_text(path: Path) -> Path:
    """Random words: more than any sample count here needs."""
    words = random.Random(0)
    path.write_text("\n\n".join(" ".join(f"w{words.randrange(2, WORDS)}" for _ in range(256)) for _ in range(400)))
    return path


def _tokenizer(target: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    tokens = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokens).save_pretrained(target)


def _write(path: Path, tensors: dict[str, tuple[int, ...]], moved: float) -> None:
    import torch
    sizes = {name: 2 * math.prod(shape) for name, shape in tensors.items()}
    header: dict[str, Any] = {}
    at = 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + sizes[name]]}
        at += sizes[name]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i, (name, shape) in enumerate(tensors.items()):
            begin = 8 + len(text) + header[name]["data_offsets"][0]
            if len(shape) == 1:
                weight = torch.ones(shape)
            else:
                rows = min(shape[0], WORDS) if "layers" not in name else shape[0]
                generator = torch.Generator().manual_seed(i)
                weight = torch.randn(rows, shape[1], generator=generator).mul_(0.02)
                if moved and "layers" in name:
                    weight = weight.bfloat16().float().add_(torch.randn(weight.shape, generator=generator), alpha=moved * 0.02)
            file.seek(begin)
            file.write(weight.bfloat16().view(torch.uint8).numpy().data)
        file.truncate(8 + len(text) + at)


def plan_of(shape: Shape, blocks: int, recipe: str = "chosen", *, embeddings_move: bool = False) -> Any:
    """The plan of a pair of that shape of which only names and shapes exist: every matrix of its blocks has changed."""
    from core.changes import Change
    from core.plan import Measured, PlanOptions, Survey, kind_of, plan_from
    from core.record import TensorRecord
    from core.skeleton import OUTER, Skeleton

    skeleton = Skeleton(shape.config(blocks))
    tensors = shape.tensors(blocks)
    measured = []
    for name, place in skeleton.place(tensors).items():
        dimensions = tensors[name]
        count, outer = math.prod(dimensions), place.stage == OUTER
        moves = len(dimensions) == 2 and (embeddings_move or not outer)
        record = TensorRecord(name=name, codec="full", shape=dimensions, dtype="BF16", base=name, base_shape=dimensions,
                              base_dtype="BF16", kind=kind_of(name, place, skeleton), block=None if outer else place.stage,
                              change=0.01 * moves, unchanged=float(not moves))
        change = Change(True, 0.01 * moves, 1.0, count, count * moves, dimensions[0] * moves, 0)
        measured.append(Measured(record, change, outer and len(dimensions) == 2, False, None))
    found = Survey(tuple(measured), shape.config(blocks), {}, (), 2 * sum(map(math.prod, tensors.values())))
    return plan_from(found, PlanOptions(recipe=recipe))


class Watched(msgspec.Struct, frozen=True):
    """What was seen of one job. Bytes of memory: peaks, by where the job stood."""

    anonymous: dict[str, int]
    """Of memory of its own (what must be there), by stage and kind of layer."""
    resident: int
    """With the pages of mapped files, which the system takes back as soon as anything else needs them."""
    blocks: list[float]
    """Seconds of each block: read, fitted, both streams carried through."""
    stages: dict[str, float]
    """Seconds of each stage."""
    predicted_memory: int
    predicted_disk: int
    predicted_bytes: int
    """Of the delta's weight files, by the plan."""
    predicted_block_seconds: float
    speed: float
    """Operations per second that the prediction counted with: the machine's before the job."""
    threads: int
    disk: int
    """Peak of the job's own folder and the delta."""
    bytes: int
    """Of the delta's weight files."""
    folder_bytes: int
    """Of the whole delta."""

    @property
    def peak(self) -> int:
        """Peak of the memory that must be there."""
        return max(self.anonymous.values())


def watched_job(request: dict[str, Any]) -> Watched:
    """Carry a request out in a process of its own."""
    done = subprocess.run([sys.executable, "-m", __name__, json.dumps(request)], check=True, stdout=subprocess.PIPE, text=True)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Watched)


def _memory() -> tuple[int, int]:
    fields = dict(x.split(":", 1) for x in Path("/proc/self/status").read_text().splitlines() if ":" in x)
    return int(fields["RssAnon"].split()[0]) * 1024, int(fields["VmRSS"].split()[0]) * 1024


def _child(request: dict[str, Any]) -> None:
    import threading

    import torch

    from core.estimate import estimate, machine_speed, sizes_of
    from core.events import LayerFitted, LayerStarted, Progress, StageStarted
    from core.job import Job
    from core.request import Request

    where, anonymous, resident, disk = ["plan"], {"plan": 0}, 0, 0
    stages: dict[str, float] = {}
    blocks: list[float] = []
    output = Path(request["output"])

    def watch() -> None:
        nonlocal resident, disk
        for count in range(1 << 60):
            own, everything = _memory()
            anonymous[where[0]] = max(anonymous.get(where[0], 0), own)
            resident = max(resident, everything)
            if count % 50 == 0:
                disk = max(disk, sum(f.stat().st_size for f in output.parent.glob(f"*{output.name}*/*") if f.exists()))
            time.sleep(0.005)

    stage, began, block_began = "plan", time.monotonic(), time.monotonic()

    def tell(event: Any) -> None:
        nonlocal stage, began, block_began
        now = time.monotonic()
        if isinstance(event, StageStarted):
            stages[stage] = now - began
            stage, began, block_began = event.stage, now, now
            where[0] = stage
        elif isinstance(event, LayerStarted):
            where[0] = f"fit {event.kind}"
        elif isinstance(event, LayerFitted) and stage == "fit":
            print(f"{event.kind} of block {event.block} after {now - began:.0f} s", file=sys.stderr)
        elif isinstance(event, Progress) and event.stage == "fit" and event.done == int(event.done) > len(blocks):
            blocks.append(now - block_began)
            block_began = now
            where[0] = "fit between blocks"
    threading.Thread(target=watch, daemon=True).start()
    speed = machine_speed(torch.device("cpu"))
    job = Job(Request(**request), tell)
    result = job.run()
    stages[stage] = time.monotonic() - began
    width = int(job.tuned.config["hidden_size"])
    cost = estimate(result.plan, sizes_of(job.request, job.length), job.device, width, speed)
    found = Watched(anonymous, resident, blocks, stages, cost.memory_bytes, cost.disk_bytes, result.plan.weights_bytes,
                    cost.block_seconds, speed, torch.get_num_threads(), disk, result.delta.weights_bytes,
                    sum(f.stat().st_size for f in result.folder.iterdir()))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
