"""The deck: exact switches in any order, overlays that answer as merges do, failures that leave nothing half done."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from core import deck_kernels, deck_variant
from core.artifact import open_delta
from core.checkpoint import open_checkpoint
from core.deck import BASE, Deck
from core.deck_kernels import Spec, Table
from core.errors import BadOption, DeckBusy, DeltaCorrupt, NoSuchVariant, SwitchFailed, WrongBase
from core.export import export_checkpoint
from tests.core.decks import make_base, make_deltas, signs_by_turns, whole, write
from tests.models import (
    make_model,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    save_model,
    tensors_of,
)

ARCHITECTURES = ("llama", "llama-tied", "qwen2", "gemma", "gpt2", "phi3", "opt", "neox", "mixtral")
IDS = torch.tensor([[5, 9, 100, 7, 3, 250, 17, 30]])


def deck_of(folder: Path, architecture: str, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Deck, Path]:
    """A deck with the variants `one`, `two`, `exact` and the full fine-tune `whole`."""
    base = make_base(folder, architecture, dtype, **changes)
    deck = Deck(base, "cpu")
    for name, delta in make_deltas(folder, base, conv1d=architecture == "gpt2").items():
        assert deck.add(delta) == name
    deck.add(whole(folder, base))
    return deck, base


def logits(deck: Deck, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = deck.model(ids).logits
    return result


def bytes_of(model: Any) -> dict[str, bytes]:
    return {k: v.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_is_what_the_exported_checkpoint_loads_as(tmp_path: Path, architecture: str) -> None:
    deck, base = deck_of(tmp_path, architecture, torch.bfloat16)
    start = bytes_of(deck.model)
    for name in deck.variants:
        folder = tmp_path / "whole"
        if name != "whole":
            with open_checkpoint(base) as opened:
                folder = export_checkpoint(open_delta(tmp_path / name), opened, tmp_path / f"{name}-out").folder
        done = deck.switch(name, "merged")
        assert (done.variant, done.how, deck.current, deck.how) == (name, "merged", name, "merged")
        assert done.tensors > 0
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        assert bytes_of(deck.model) == bytes_of(loaded), name
        assert deck.fingerprint() == deck.expected_fingerprint(name)
    deck.switch(BASE)
    assert bytes_of(deck.model) == start
    deck.close()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_sequence_of_switches_ends_where_it_says(tmp_path: Path, architecture: str) -> None:
    deck, _ = deck_of(tmp_path, architecture)
    expected = {name: deck.expected_fingerprint(name) for name in (BASE, *deck.variants)}
    assert len(set(expected.values())) == 5
    draw = random.Random(architecture)
    ways = set()
    for _ in range(40):
        name, how = draw.choice(list(expected)), draw.choice(["merged", "overlay", "auto"])
        done = deck.switch(name, how)
        ways.add(done.how)
        assert done.reason.startswith(f"{done.how}: ")
        assert deck.fingerprint() == expected[name], (name, how)
    assert ways == ({"merged"} if architecture == "mixtral" else {"merged", "overlay"}) or architecture == "mixtral"
    deck.switch(BASE, "merged")
    assert deck.fingerprint() == expected[BASE]
    deck.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mixtral"])
def test_overlay_answers_as_merged(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    deck, _ = deck_of(tmp_path, architecture, dtype)
    long = torch.arange(2, 42)[None]
    for name in deck.variants:
        deck.switch(name, "merged")
        exact = copy.deepcopy(deck.model).double()
        wanted = [logits(deck, ids) for ids in (IDS, IDS[:, :1], long)]
        done = deck.switch(name, "overlay")
        assert done.how == "overlay"
        for ids, merged in zip((IDS, IDS[:, :1], long), wanted, strict=True):
            with torch.inference_mode():
                truth = exact(ids).logits
            rounding = (merged - truth).norm() / truth.norm()      # what merged itself loses to its type
            assert (logits(deck, ids) - truth).norm() / truth.norm() < 2.5 * rounding + 1e-6, (name, ids.shape)
            assert rounding < (1e-5 if dtype == torch.float32 else 0.05)
        deck.switch(BASE)
        assert (logits(deck) - wanted[0]).float().norm() / wanted[0].float().norm() > 0.02
    deck.close()


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mixtral"])
def test_rows_of_one_batch_answer_as_their_variants_alone(tmp_path: Path, architecture: str) -> None:
    deck, _ = deck_of(tmp_path, architecture)
    names = [BASE, *deck.variants, "one"]
    ids = torch.randint(2, 258, (len(names), 6), generator=torch.Generator().manual_seed(0))
    alone = {}
    for i, name in enumerate(names):
        deck.switch(name, "merged")
        alone[i] = logits(deck, ids[i:i + 1])
    done = deck.assign(names)
    assert done.reason == "overlay: 5 variants side by side"
    assert deck.current == "base, one, two, exact, whole"
    for width in (1, 3, 6):                            # 5, 15 and 30 tokens: by kernel and by blocks
        together = logits(deck, ids[:, :width])
        for i in alone:
            assert torch.allclose(together[i], alone[i][0, :width], rtol=1e-4, atol=1e-4 * float(alone[i].abs().max())), names[i]
    for name in names:
        assert deck.fingerprint(name) == deck.expected_fingerprint(name)
    with pytest.raises(BadOption, match="side by side"):
        deck.fingerprint()
    with pytest.raises(BadOption, match="rows"):
        logits(deck, ids[:3, :5])
    deck.switch(BASE)
    assert torch.equal(logits(deck, ids[:1]), alone[0])
    deck.close()


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "opt"])
def test_generate_works_with_a_row_per_variant(tmp_path: Path, architecture: str) -> None:
    deck, _ = deck_of(tmp_path, architecture)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    alone = []
    for name in (BASE, "one", "whole"):
        deck.switch(name, "merged")
        alone.append(deck.model.generate(IDS, **settings)[0])
    deck.assign([BASE, "one", "whole"])
    together = deck.model.generate(IDS.expand(3, -1), **settings)
    assert torch.equal(together, torch.stack(alone))
    assert not torch.equal(together[0], together[2])
    deck.close()


def grown(folder: Path, base: Path, rows: int, name: str) -> Path:
    """A delta whose tied embedding has `rows` rows more than the base's (or fewer), all else as signs."""
    tensors = perturb(tensors_of(base), 0.02, 5)
    key = "model.embed_tokens.weight"
    tensors[key] = torch.cat([tensors[key], torch.full((rows, 32), 0.25)]) if rows > 0 else tensors[key][:rows]
    config = save_beside(folder / f"{name}-tuned", base, tensors, vocab_size=len(tensors[key]))
    choose = signs_by_turns() if rows > 0 else lambda n, t: {"codec": "full"}
    return write(folder / name, base, tensors, choose, {"config.json": config / "config.json"})


def test_vocabularies_of_other_sizes(tmp_path: Path) -> None:
    deck, base = deck_of(tmp_path, "llama-tied")
    expected = {BASE: deck.expected_fingerprint(BASE)}
    for name, rows in (("grown", 5), ("cut", -8)):
        deck.add(grown(tmp_path, base, rows, name))
        expected[name] = deck.expected_fingerprint(name)
    sizes = {BASE: 260, "grown": 265, "cut": 252}
    wanted: dict[str, torch.Tensor] = {}
    for name, how in ((n, h) for h in ("merged", "overlay", "merged") for n in ("grown", BASE, "cut", "grown", "cut", BASE)):
        deck.switch(name, how)
        assert deck.fingerprint() == expected[name], (name, how)
        found = logits(deck)
        assert found.shape[-1] == sizes[name]
        assert torch.allclose(found, wanted.setdefault(name, found), rtol=1e-4, atol=1e-4)
        if how == "merged":
            assert deck.model.config.vocab_size == deck.model.lm_head.out_features == sizes[name]
            assert deck.model.lm_head.weight is deck.model.get_input_embeddings().weight
    deck.switch("grown", "merged")
    deck.assign(["grown", BASE, "cut"])
    for ids in (IDS[:, :2], torch.arange(2, 32)[None]):
        found = logits(deck, ids.expand(3, -1))
        for i, name in enumerate(("grown", BASE, "cut")):
            deck.switch(name, "merged")
            assert torch.allclose(found[i, :, :sizes[name]], logits(deck, ids)[0], rtol=1e-4, atol=1e-4)
            assert bool((found[i, :, sizes[name]:] == float("-inf")).all())
        deck.assign(["grown", BASE, "cut"])
    deck.switch("grown", "merged")
    deck.model(torch.tensor([[262]]))                  # an id that the base does not know
    deck.close()


def test_heads_tied_on_one_side_only(tmp_path: Path) -> None:
    tied = make_base(tmp_path, "llama-tied")
    tensors = perturb(tensors_of(tied), 0.02, 5, lambda n, t: "layers" in n)
    tensors["lm_head.weight"] = perturb(tensors_of(tied), 0.05, 6)["model.embed_tokens.weight"]
    untied = save_beside(tmp_path / "untied", tied, tensors, tie_word_embeddings=False)
    both = save_model(tmp_path / "untied-base", make_model("llama"))
    less = {n: t for n, t in perturb(tensors_of(both), 0.02, 5).items() if n != "lm_head.weight"}
    loose = save_beside(tmp_path / "tied", both, less, tie_word_embeddings=True)
    for base, tuned, codec in ((tied, untied, "sign"), (both, loose, "sign"), (tied, untied, "full")):
        choose = signs_by_turns() if codec == "sign" else lambda n, t: {"codec": "full"}
        delta = write(tmp_path / f"{tuned.name}-{codec}", base, tensors_of(tuned), choose, {"config.json": tuned / "config.json"})
        deck = Deck(base, "cpu")
        for name in (deck.add(delta), deck.add(tuned)):
            expected, start = deck.expected_fingerprint(name), bytes_of(deck.model)
            deck.switch(name, "merged")
            merged = logits(deck)
            assert deck.fingerprint() == expected
            deck.switch(name, "overlay")
            assert deck.fingerprint() == expected
            assert torch.allclose(logits(deck), merged, rtol=1e-4, atol=1e-4)
            deck.switch(BASE)
            assert bytes_of(deck.model) == start
            assert (deck.model.lm_head.weight is deck.model.get_input_embeddings().weight) == (base == tied)
        deck.close()


def test_fused_projections_with_an_axis_per_part(tmp_path: Path) -> None:
    base = make_base(tmp_path, "phi3")
    tuned = perturb(tensors_of(base), 0.03)
    delta = write(tmp_path / "cut", base, tuned,
                  lambda n, t: {"codec": "sign", "axis": "column", "planes": 2, "cuts": (32, 48) if "qkv" in n else ()})
    with Deck(base, "cpu") as deck:
        deck.add(delta)
        deck.switch("cut", "merged")
        merged = logits(deck)
        deck.switch("cut", "overlay")
        assert torch.allclose(logits(deck), merged, rtol=1e-4, atol=1e-4)
        assert torch.allclose(logits(deck, IDS.repeat(1, 4))[:, :8], merged, rtol=1e-4, atol=1e-4)
        assert deck.fingerprint() == deck.expected_fingerprint("cut")


def test_stacked_experts_are_merged_and_it_says_why(tmp_path: Path) -> None:
    deck, _ = deck_of(tmp_path, "mixtral")
    done = deck.switch("one", "overlay")
    assert done.how == "merged"
    assert "experts are stacked" in done.reason
    with pytest.raises(BadOption, match="can't be laid over"):
        deck.assign(["one", BASE])
    assert (deck.current, deck.fingerprint()) == ("one", deck.expected_fingerprint("one"))
    deck.close()


def test_auto_says_why(tmp_path: Path) -> None:
    deck, _ = deck_of(tmp_path, "llama")
    assert deck.switch("one").reason == "merged: one variant, fastest tokens"
    assert deck.switch("whole").reason.startswith("overlay: a whole checkpoint")
    assert deck.switch(BASE).reason == "merged: the base as it is"
    assert deck.switch("one", "overlay").reason == "overlay: asked for"
    assert deck.assign(["one", "two", BASE]).reason == "overlay: 3 variants side by side"
    deck._rate = 1.0
    assert "would take" in deck.switch("two").reason
    deck.close()


# -------------------------------------------------------------------------------------------- what goes wrong
def failing(monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException, times: int = 1, *, deltas: bool = False) -> None:
    """Rewriting parameters fails `times` times, each when `count` jobs are done; `deltas`: one by one it then fails too."""
    left, real = [times], deck_kernels.run

    def run(lists: Sequence[tuple[Spec, Table]]) -> None:
        if not left[0]:
            real(lists)
            return
        left[0] -= 1
        done = count
        for spec, table in lists:
            real([(spec, table[:done])])
            done = max(0, done - len(table))
        assert not done
        raise error

    def write(self: Any, tensor: str, target: torch.Tensor) -> None:
        target.flatten()[:1] = 7.0                     # half done
        raise error
    monkeypatch.setattr(deck_kernels, "run", run)
    if deltas:
        monkeypatch.setattr(deck_variant.DeltaVariant, "write", write)


@pytest.mark.parametrize("error", [MemoryError("none left"), OSError("the disk is gone"), RuntimeError("encode")], ids=repr)
@pytest.mark.parametrize("before", [(BASE, "merged"), ("two", "merged"), ("two", "overlay"), ("whole", "overlay")], ids="-".join)
def test_a_failure_half_way_restores_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception,
                                                    before: tuple[str, str]) -> None:
    deck, _ = deck_of(tmp_path, "llama-tied")
    deck.switch(*before)
    expected, answers = deck.expected_fingerprint(before[0]), logits(deck)
    for count in (1, 4, 9):
        with monkeypatch.context() as patch, pytest.raises(SwitchFailed, match="again") as caught:
            failing(patch, count, error)
            deck.switch("one", "merged")
        assert caught.value.__cause__ is error
        assert (deck.current, deck.how) == (before if before[0] != BASE else (BASE, "merged"))
        assert deck.fingerprint() == expected
        assert torch.equal(logits(deck), answers)
    deck.switch("one", "merged")
    assert deck.fingerprint() == deck.expected_fingerprint("one")
    deck.close()


def test_an_interruption_restores_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deck, _ = deck_of(tmp_path, "llama")
    failing(monkeypatch, 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        deck.switch("one", "merged")
    assert deck.fingerprint() == deck.expected_fingerprint(BASE)
    deck.close()


def test_if_restoring_fails_the_base_is_back_and_if_not_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deck, _ = deck_of(tmp_path, "llama")
    deck.switch("two", "merged")
    with monkeypatch.context() as patch, pytest.raises(SwitchFailed, match="now the base's"):
        failing(patch, 3, OSError("gone"), deltas=True)
        deck.switch("one", "merged")
    assert deck.current == BASE
    assert deck.fingerprint() == deck.expected_fingerprint(BASE)

    deck.switch("two", "merged")
    with monkeypatch.context() as patch, pytest.raises(SwitchFailed, match="must not be used"):
        failing(patch, 3, OSError("gone"), times=1000, deltas=True)
        deck.switch("one", "merged")
    with pytest.raises(SwitchFailed, match="different variants"):
        deck.switch(BASE)
    deck.close()


def test_files_cut_short_meanwhile(tmp_path: Path) -> None:
    deck, _ = deck_of(tmp_path, "llama")
    weights = tmp_path / "one" / "delta_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])   # a delta on the deck needs its files no more
    deck.switch("one", "merged")
    deck.switch("two", "merged")
    expected = deck.expected_fingerprint("two")
    (tmp_path / "whole" / "model.safetensors").unlink()
    with pytest.raises(SwitchFailed, match="is gone"):
        deck.switch("whole", "merged")
    assert deck.fingerprint() == expected
    with pytest.raises(DeltaCorrupt):
        deck.add(tmp_path / "one", "again")
    assert deck.variants == ("one", "two", "exact", "whole")
    deck.close()


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    deck, base = deck_of(tmp_path, "llama")
    other = save_beside(tmp_path / "other", base, perturb(tensors_of(base), 0.1, 9))
    elsewhere = write(tmp_path / "foreign", other, tensors_of(base), signs_by_turns())
    with pytest.raises(WrongBase, match="not this delta's base"):
        deck.add(elsewhere)
    gpt2 = save_model(tmp_path / "gpt2", make_model("gpt2"))
    with pytest.raises(WrongBase, match="no variant of the loaded base"):
        deck.add(gpt2)
    for name in (BASE, "one"):
        with pytest.raises(NoSuchVariant, match="taken"):
            deck.add(tmp_path / "two", name)
    assert deck.add(tmp_path / "two") == "two-2"
    for call in (deck.switch, deck.remove, deck.expected_fingerprint, deck.fingerprint):
        with pytest.raises(NoSuchVariant):
            call("nobody")
    with pytest.raises(BadOption):
        deck.switch("one", "sideways")
    with pytest.raises(BadOption):
        deck.assign([])
    deck.switch("two", "overlay")
    deck.remove("two")
    assert deck.current == BASE
    assert deck.variants == ("one", "exact", "whole", "two-2")
    assert deck.fingerprint() == deck.expected_fingerprint(BASE)
    deck.close()


def test_one_thing_at_a_time(tmp_path: Path) -> None:
    deck, _ = deck_of(tmp_path, "llama")
    begun, end = threading.Event(), threading.Event()

    def answer() -> None:
        with deck.busy("The base is generating an answer."):
            deck.assign([BASE])                        # whoever has the model may switch it
            begun.set()
            end.wait(10)

    thread = threading.Thread(target=answer)
    thread.start()
    assert begun.wait(10)
    assert deck.in_the_way == "The base is generating an answer."
    for call in (lambda: deck.switch("one"), lambda: deck.remove("one"), deck.close):
        with pytest.raises(DeckBusy, match="The base is generating an answer"):
            call()
    with pytest.raises(DeckBusy), deck.busy("Me.", wait=True, timeout=0.01):
        pass
    threading.Timer(0.05, end.set).start()
    with deck.busy("Me.", wait=True):
        assert deck.in_the_way == "Me."
    thread.join()
    assert deck.in_the_way == ""
    deck.switch("one")
    deck.close()


# ------------------------------------------------------------------------------------------ what comes with it
def test_tokenizer_template_and_defaults_of_its_own(tmp_path: Path,
                                                    make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    base = make_base(tmp_path, "llama")
    make_tokenizer().save_pretrained(base)
    tuned = perturb(tensors_of(base))
    plain = write(tmp_path / "plain", base, tuned, signs_by_turns())
    (tmp_path / "more").mkdir()
    make_tokenizer(chats=True).save_pretrained(tmp_path / "more")
    (tmp_path / "more" / "generation_config.json").write_text('{"max_new_tokens": 7, "do_sample": true}')
    brought = {p.name: p for p in (tmp_path / "more").iterdir() if p.name in ("chat_template.jinja", "generation_config.json")}
    assert len(brought) == 2
    rich = write(tmp_path / "rich", base, tuned, signs_by_turns(), brought)
    with Deck(base, "cpu") as deck:
        deck.add(plain)
        deck.add(rich)
        assert deck.tokenizer("plain") is deck.tokenizer()
        assert deck.tokenizer().chat_template is None
        assert deck.tokenizer("rich").chat_template == make_tokenizer(chats=True).chat_template
        assert deck.tokenizer("rich")("hello")["input_ids"] == deck.tokenizer()("hello")["input_ids"]
        assert deck.generation_config("plain") is deck.generation_config(BASE)
        deck.switch("rich")
        assert deck.model.generation_config.max_new_tokens == 7
        deck.switch("plain")
        assert deck.model.generation_config.max_new_tokens is None


def test_a_base_without_a_tokenizer(tmp_path: Path) -> None:
    with Deck(make_base(tmp_path, "llama"), "cpu") as deck:
        assert deck.tokenizer() is None


def test_unloading_gives_memory_back(tmp_path: Path) -> None:
    base = make_base(tmp_path, "llama", vocab_size=40_000, hidden_size=256, intermediate_size=512)     # 90 MB
    deck = Deck(base, "cpu")
    size = sum(p.nbytes for p in deck.model.parameters())
    assert deck.memory_after.process - deck.memory_before.process > 0.8 * size
    deck.add(whole(tmp_path, base))
    deck.switch("whole", "merged")
    before = psutil.Process().memory_info().rss
    given = deck.close()
    assert given > 0.8 * size
    assert before - psutil.Process().memory_info().rss > 0.8 * size
