"""Words and letters for every codec there is, and for one that is not known yet."""

from __future__ import annotations

from app import tables
from app.codings import CODINGS, bits_text, coding_letter, coding_of, coding_role, coding_word, in_order, method_word, strength
from core.budget import LEFT_OUT
from core.codecs import CODECS
from core.methods import METHODS
from core.record import Slice, TensorRecord


def record(name: str, codec: str, block: int | None = 0, **more: object) -> TensorRecord:
    return TensorRecord(name=name, codec=codec, shape=(8, 16), dtype="BF16", base=name, base_shape=(8, 16), base_dtype="BF16",
                        kind=name, block=block, **more)  # type: ignore[arg-type]


def test_every_codec_has_a_letter_of_its_own() -> None:
    assert set(CODECS) <= set(CODINGS)
    letters = [coding_letter(key) for key in CODINGS]
    assert len(set(letters)) == len(letters) and all(letter in tables.LEGEND for letter in letters)
    assert (coding_word("wavelet"), coding_letter("wavelet"), coding_role("wavelet")) == ("wavelet", "W", "text-faded")
    assert coding_letter("") == "?" and method_word("haar") == "haar" and method_word("") == ""
    assert all(method_word(name) for name in METHODS)


def test_what_sets_records_of_one_codec_apart() -> None:
    assert coding_of("sign") == "sign" and coding_of("sign", "", 2) == coding_of("sign", "planes") == "planes"
    assert coding_of("same") == "same" and coding_of("same", note=LEFT_OUT) == "left-out"
    assert coding_of("svdmix", "delta-come") == "svdmix" and coding_of("wavelet", "haar") == "wavelet"
    assert in_order(["wavelet", "full", "sign", "other"]) == ["sign", "full", "other", "wavelet"]


def test_bits() -> None:
    assert [bits_text(x) for x in (None, 0.0, 1.0312, 16.0)] == ["", "0.00", "1.03", "16.0"]
    assert strength(0) == 0 and strength(4) == strength(16) == 1 and 0.4 < strength(1) < 0.5


def test_the_terminal_knows_mixed_codecs() -> None:
    rows = [record("q", "sign", slices=(Slice(0, 8, "row", 8),)), record("k", "svdmix", method="deltamix", packed=40),
            record("v", "same", note=LEFT_OUT), record("o", "full"),
            record("up", "sign", planes=3, method="planes", slices=(Slice(0, 8, "both", 24),))]
    assert [tables.codec_words(r) for r in rows] == ["sign", "svdmix (deltamix)", "same (left out)", "full", "sign x 3"]
    grid = tables.axis_map([*rows, record("gate", "wavelet")])
    assert grid == [["", "q", "k", "v", "o", "gate", "up"], ["0", "R", "M", "\N{EN DASH}", "F", "W", "P"]]
    assert tables.legend(grid).endswith("W another codec") and "M DeltaMix" in tables.legend(grid)
    assert tables.record_bits(rows[3]) == 16.0
    assert {k.kind: k.stored for k in tables.by_kind(rows)}["up"] == {"sign x 3": 1}
    assert tables.tensors_table(rows, 160).row_count == tables.kinds_table(tables.by_kind(rows), planned=False).row_count - 1
