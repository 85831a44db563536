from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import save_file

import core.checkpoint
import core.checkpoint_source
from core.checkpoint import CheckpointSummary, TensorInfo, open_checkpoint
from core.checkpoint_source import is_offline
from core.errors import BadSafetensors, CheckpointNotFound, UnsupportedDtype, WeightsMissing

WriteCheckpoint = Callable[..., Path]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def awkward_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "model.z.weight": torch.randn(60, 173, dtype=torch.bfloat16),
        "model.a.weight": torch.randn(1, 7, dtype=torch.float16),
        "model.scale": torch.tensor(1.5),
        "model.none": torch.empty(0, 3),
        "model.norm": torch.randn(33),
    }


def shard(folder: Path, parts: dict[str, dict[str, torch.Tensor]]) -> None:
    """Replace a folder's weights by shards with an index."""
    (folder / "model.safetensors").unlink()
    for name, tensors in parts.items():
        save_file(tensors, folder / name)
    weight_map = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_lists_tensors_by_name_with_their_stored_type(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(awkward_tensors())
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.tensors) == [
            "model.a.weight", "model.none", "model.norm", "model.scale", "model.z.weight"
        ]  # fmt: skip
        info = checkpoint.tensors["model.z.weight"]
        assert info == TensorInfo(info.name, torch.bfloat16, (60, 173), folder / "model.safetensors")
        assert (info.numel, info.nbytes) == (10380, 20760)
        assert checkpoint.tensors["model.scale"].shape == ()
        assert checkpoint.folder == folder and checkpoint.source == str(folder)
        with pytest.raises(TypeError):
            checkpoint.tensors["new"] = info  # type: ignore[index]


def test_view_and_read_give_the_stored_values(write_checkpoint: WriteCheckpoint) -> None:
    tensors = awkward_tensors()
    with open_checkpoint(write_checkpoint(tensors)) as checkpoint:
        for name, expected in tensors.items():
            assert checkpoint.view(name).dtype == checkpoint.read(name).dtype == expected.dtype
            assert torch.equal(checkpoint.view(name), expected)
            assert torch.equal(checkpoint.read(name), expected)
            assert torch.equal(checkpoint.read(name, torch.float32), expected.float())


def test_view_maps_and_read_copies(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(awkward_tensors())
    before = (folder / "model.safetensors").read_bytes()
    with open_checkpoint(folder) as checkpoint:
        name = "model.z.weight"
        view = checkpoint.view(name)
        assert view.data_ptr() == checkpoint.view(name).data_ptr()
        copy = checkpoint.read(name)
        assert copy.data_ptr() % 64 == 0
        copy.fill_(7)
        assert torch.equal(checkpoint.read(name), view) and not torch.equal(copy, view)
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("padding", range(4))
def test_tensors_at_odd_addresses_come_aligned(write_checkpoint: WriteCheckpoint, padding: int) -> None:
    folder = write_checkpoint({"x": torch.ones(1)})
    header = {
        "a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
    }
    raw = json.dumps(header).encode() + b" " * padding
    data = torch.tensor([3.0], dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    data += torch.tensor([1.5, -2.5]).view(torch.uint8).numpy().tobytes()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    with open_checkpoint(folder) as checkpoint:
        for tensor in (checkpoint.view("b"), checkpoint.read("b")):
            assert tensor.tolist() == [1.5, -2.5] and tensor.data_ptr() % 4 == 0
        assert checkpoint.view("a").tolist() == [3.0] and checkpoint.view("a").data_ptr() % 2 == 0


def test_a_file_that_cannot_be_mapped_is_copied(
    write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unable to mmap: Cannot allocate memory")

    tensors = awkward_tensors()
    monkeypatch.setattr(core.checkpoint, "safe_open", refuse)
    with open_checkpoint(write_checkpoint(tensors)) as checkpoint:
        assert torch.equal(checkpoint.view("model.norm"), tensors["model.norm"])


def test_views_outlive_the_checkpoint_and_reads_end_with_it(write_checkpoint: WriteCheckpoint) -> None:
    tensors = awkward_tensors()
    checkpoint = open_checkpoint(write_checkpoint(tensors))
    view = checkpoint.view("model.norm")
    checkpoint.close()
    assert torch.equal(view, tensors["model.norm"])
    for call in (checkpoint.view, checkpoint.read, checkpoint.sha256):
        with pytest.raises(ValueError, match="closed"):
            call("model.norm")


def test_hash_is_that_of_the_stored_bytes(write_checkpoint: WriteCheckpoint) -> None:
    tensors = awkward_tensors()
    with open_checkpoint(write_checkpoint(tensors)) as checkpoint:
        for name, tensor in tensors.items():
            raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
            assert checkpoint.sha256(name) == hashlib.sha256(raw).hexdigest()


def test_hash_is_kept(write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_checkpoint(write_checkpoint(awkward_tensors())) as checkpoint:
        first = checkpoint.sha256("model.z.weight")
        monkeypatch.setattr(hashlib, "sha256", None)
        assert checkpoint.sha256("model.z.weight") == first
        with pytest.raises(TypeError):
            checkpoint.sha256("model.norm")


def test_threads_read_the_right_tensors(write_checkpoint: WriteCheckpoint) -> None:
    tensors = {f"layer.{i}.weight": torch.full((64, 65), float(i)) for i in range(20)}
    names = list(tensors) * 5
    with open_checkpoint(write_checkpoint(tensors)) as checkpoint, ThreadPoolExecutor(8) as pool:
        for name, view, copy in zip(
            names, pool.map(checkpoint.view, names), pool.map(checkpoint.read, names), strict=True
        ):
            assert torch.equal(view, tensors[name]) and torch.equal(copy, tensors[name])


@pytest.mark.parametrize("how", ["shorter", "longer", "gone", "replaced"])
def test_a_file_changed_since_is_refused_instead_of_read(write_checkpoint: WriteCheckpoint, how: str) -> None:
    folder = write_checkpoint(awkward_tensors())
    file = folder / "model.safetensors"
    with open_checkpoint(folder) as checkpoint:
        checkpoint.read("model.norm")
        raw = file.read_bytes()
        if how == "gone":
            file.unlink()
        elif how == "replaced":
            file.write_bytes(raw[:-1] + b"?")
            os.utime(file, ns=(1, 1))
        else:
            file.write_bytes(raw[:-9] if how == "shorter" else raw + b"more")
        for call in (checkpoint.view, checkpoint.read, checkpoint.sha256):
            with pytest.raises(BadSafetensors, match=r"changed|gone"):
                call("model.norm")


def test_shards_with_an_index(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint({"a": torch.ones(2)})
    second = {"b": torch.ones(3), "c": torch.full((1,), 9.0)}
    shard(folder, {"model-1.safetensors": {"a": torch.zeros(2)}, "model-2.safetensors": second})
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b", "c"]
        assert checkpoint.read("c").item() == 9 and checkpoint.tensors["c"].file.name == "model-2.safetensors"
        assert checkpoint.describe().files == 2


def test_files_of_other_names_without_an_index(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint({"a": torch.ones(2)})
    (folder / "model.safetensors").rename(folder / "part-one.safetensors")
    save_file({"b": torch.zeros(2)}, folder / "part-two.safetensors")
    save_file({"a": torch.zeros(2)}, folder / "consolidated.safetensors")
    save_file({"lora": torch.zeros(2)}, folder / "adapter_model.safetensors")
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.tensors) == ["a", "b"] and checkpoint.read("a").tolist() == [1, 1]


def test_one_file_comes_before_an_index_as_in_transformers(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint({"a": torch.ones(2)})
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"b": "gone.safetensors"}}')
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


def test_computed_buffers_are_no_weights(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint(
        {
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(float("-inf"), dtype=torch.float16),
            "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
            "embeddings.position_ids": torch.arange(4),
            "layers.0.attn.bias": torch.ones(4),
        }
    )
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.tensors) == ["layers.0.attn.bias"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_other_types_are_refused_by_name(write_checkpoint: WriteCheckpoint, dtype: torch.dtype) -> None:
    folder = write_checkpoint({"fine": torch.ones(1), "odd.weight": torch.ones(2, 3).to(dtype)})
    with pytest.raises(UnsupportedDtype, match=r"odd\.weight.*2 x 3"):
        open_checkpoint(folder)


def test_quantised_weights_are_called_so(write_checkpoint: WriteCheckpoint) -> None:
    eight = write_checkpoint({"w": torch.ones(2).to(torch.float8_e4m3fn)}, name="eight")
    packed = {"w": torch.ones(2, dtype=torch.uint8)}
    four = write_checkpoint(packed, {"quantization_config": {"quant_method": "bitsandbytes"}}, name="four")
    for folder in (eight, four):
        with pytest.raises(UnsupportedDtype, match="is quantised"):
            open_checkpoint(folder)


def test_only_computed_buffers_means_no_weights(write_checkpoint: WriteCheckpoint) -> None:
    with pytest.raises(WeightsMissing, match="no weights at all"):
        open_checkpoint(write_checkpoint({"rotary_emb.inv_freq": torch.ones(4)}))


def test_sidecars_are_configs_and_tokenizer_files_only(
    write_checkpoint: WriteCheckpoint, make_tokenizer: Callable[..., Any]
) -> None:
    folder = write_checkpoint({"a": torch.ones(2)})
    make_tokenizer(chats=True).save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    (folder / "pickled.model").write_bytes(b"\x80\x04}.")
    (folder / "zipped.model").write_bytes(b"PK\x03\x04")
    for name in ("modeling_x.py", "training_args.bin", "optimizer.pt", "README.md", "trainer_state.json"):
        (folder / name).write_text("{}")
    (folder.parent / "secret.json").write_text("{}")
    (folder / "vocab.json").symlink_to(folder.parent / "secret.json")
    with open_checkpoint(folder) as checkpoint:
        assert list(checkpoint.sidecars()) == [
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
        ]
        assert checkpoint.sidecars()["tokenizer.json"] == folder / "tokenizer.json"
        assert checkpoint.generation_config == {"temperature": 0.6}


def test_describe(write_checkpoint: WriteCheckpoint) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "vocab_size": 99,
    }
    folder = write_checkpoint({"a": torch.ones(5), "b": torch.ones(9).half()}, config)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Llama", "chat_template": "x"}')
    size = (folder / "model.safetensors").stat().st_size
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.describe() == CheckpointSummary(
            "LlamaForCausalLM", 14, ("float16", "float32"), size, 1, 64, 3, 99, True, "Llama"
        )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_embd": 8, "n_layer": 2}, ("gpt2", 8, 2)),
        ({"text_config": {"hidden_size": 16, "num_hidden_layers": 1}}, ("unknown", 16, 1)),
        ({"architectures": [], "hidden_size": "wide"}, ("unknown", None, None)),
    ],
)
def test_describe_of_other_configs(
    write_checkpoint: WriteCheckpoint, config: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    with open_checkpoint(write_checkpoint({"a": torch.ones(5)}, config)) as checkpoint:
        summary = checkpoint.describe()
    assert (summary.architecture, summary.hidden_size, summary.blocks) == expected
    assert not summary.has_chat_template and summary.tokenizer_class is None


def test_a_config_may_hold_infinity(write_checkpoint: WriteCheckpoint) -> None:
    folder = write_checkpoint({"a": torch.ones(5)})
    (folder / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config["time_step_limit"][1] == float("inf")


# ------------------------------------------------------------------------------------------- the hub's cache
def fill_cache(cache: Path, model: Path, *, name: str = "org--small", weights: bool = True) -> Path:
    """Lay a checkpoint folder out as the hub's cache does: blobs, a snapshot of links to them, a ref."""
    home = cache / f"models--{name}"
    snapshot = home / "snapshots" / COMMIT
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True)
    for file in model.iterdir():
        if weights or file.suffix != ".safetensors":
            blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    (home / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("source", ["org/small", "org/small@main", f"org/small@{COMMIT}"])
def test_opens_from_the_hub_cache(tmp_path: Path, write_checkpoint: WriteCheckpoint, source: str) -> None:
    snapshot = fill_cache(tmp_path / "hub", write_checkpoint({"a": torch.ones(2)}))
    with open_checkpoint(source, offline=True, cache=tmp_path / "hub") as checkpoint:
        assert checkpoint.source == source and checkpoint.folder == snapshot
        assert checkpoint.read("a").tolist() == [1, 1]
        assert list(checkpoint.sidecars()) == ["config.json"]


@pytest.mark.usefixtures("online")
def test_the_hub_cache_serves_online_too_without_a_download(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(tmp_path / "hub", write_checkpoint({"a": torch.ones(2)}))
    monkeypatch.setattr(core.checkpoint_source, "_download", None)
    with open_checkpoint("org/small", cache=tmp_path / "hub") as checkpoint:
        assert list(checkpoint.tensors) == ["a"]


@pytest.mark.usefixtures("online")
def test_a_snapshot_without_weights_is_completed_when_online(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint({"a": torch.ones(2)})
    snapshot = fill_cache(tmp_path / "hub", model, weights=False)
    asked: list[dict[str, Any]] = []
    find = huggingface_hub.snapshot_download

    def download(name: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return str(find(name, **options))
        asked.append({"name": name, **options})
        shutil.copy(model / "model.safetensors", snapshot)
        return str(snapshot)

    with pytest.raises(WeightsMissing):
        open_checkpoint("org/small", offline=True, cache=tmp_path / "hub")
    monkeypatch.setattr(core.checkpoint_source, "snapshot_download", download)
    with open_checkpoint("org/small", cache=tmp_path / "hub") as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
    assert [call["name"] for call in asked] == ["org/small"]
    good = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"]
    good += ["tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja"]
    bad = ["pytorch_model.bin", "model.pt", "modeling_x.py", "consolidated.safetensors"]
    bad += ["onnx/model.safetensors", "original/tokenizer.model"]
    patterns = {key: asked[0][key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects([*good, *bad], **patterns)) == good


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without HF_HUB_OFFLINE, which the test run sets."""
    monkeypatch.setattr(core.checkpoint_source, "is_offline", bool)


def test_the_variable_means_offline_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert [is_offline(asked) for asked in (None, False, True)] == [False, False, True]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [is_offline(asked) for asked in (None, False, True)] == [True] * 3


def test_offline_and_not_in_the_cache(tmp_path: Path) -> None:
    for offline in (True, None):  # None follows HF_HUB_OFFLINE, which the test run sets
        with pytest.raises(CheckpointNotFound, match="Offline mode is on"):
            open_checkpoint("org/absent", offline=offline, cache=tmp_path)


class Reply:
    """As much of an HTTP reply as the hub's errors look at."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.request = None
        self.status_code = 404


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (GatedRepoError("x", response=Reply()), "does not hand out .* log in"),  # type: ignore[arg-type]
        (RepositoryNotFoundError("x", response=Reply()), "nor a model on the hub"),  # type: ignore[arg-type]
        (RevisionNotFoundError("x", response=Reply()), "not its revision v2"),  # type: ignore[arg-type]
        (ConnectionError("no route to host"), "no route to host. Check the name and the connection"),
    ],
)
@pytest.mark.usefixtures("online")
def test_what_the_hub_answers_becomes_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    def fail(name: str, **options: Any) -> str:
        raise FileNotFoundError if options.get("local_files_only") else error

    monkeypatch.setattr(core.checkpoint_source, "snapshot_download", fail)
    with pytest.raises(CheckpointNotFound, match=says):
        open_checkpoint("org/absent@v2", cache=tmp_path)


def test_a_folder_comes_before_a_hub_name(
    tmp_path: Path, write_checkpoint: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(tmp_path / "hub", write_checkpoint({"a": torch.ones(2)}))
    write_checkpoint({"local": torch.ones(2)}, name="org/small")
    monkeypatch.chdir(tmp_path)
    with open_checkpoint("org/small", cache=tmp_path / "hub") as checkpoint:
        monkeypatch.chdir("/")
        assert checkpoint.read("local").tolist() == [1, 1]
