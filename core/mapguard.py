"""A mapped file that is cut short, or whose disk fails, must not take the program down.

Reading a mapped page that its file no longer holds raises SIGBUS, which ends the process on the spot. Whoever maps a file
says so here (`watch`); a handler of our own then lays a page of zeros where such a page of a watched map would be and
counts that (sigaction(2), mmap(2) with MAP_FIXED). The reader goes on with zeros for a moment, and whoever is about to keep
or to show what was made asks `faults` first. The handler is machine code, since no Python may run in the middle of a
product of matrices on a thread that Python does not know. All other SIGBUS end the process as before.

Linux on x86-64 and ARM64 only, whose layouts of the structures are known here. Elsewhere what remains is that size and
time of a file are looked at before each reading of it, so only a file cut short within that moment is fatal.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import signal
import sys
from threading import Lock
from typing import Any

import numpy as np

SLOTS = 1024
"""Maps watched at a time; beyond that the oldest is forgotten."""
UNWATCHED = -1

_ADDRESS_ERROR = 2                                     # BUS_ADRERR in asm-generic/siginfo.h
_CODE, _ADDRESS = 8, 16                                # offsets of si_code and si_addr in a 64-bit siginfo_t
_SIGINFO, _ON_STACK = 4, 0x08000000                    # SA_SIGINFO, SA_ONSTACK
_FIXED, _ANONYMOUS, _PRIVATE = 0x10, 0x20, 0x02
_READ_WRITE = 3

_lock = Lock()
_table = np.zeros((SLOTS, 3), dtype=np.int64)          # first address, address after the last, pages that were missing
_next = 0
_kept: list[Any] = []
_installed: bool | None = None


class _Action(ctypes.Structure):
    """struct sigaction of the GNU C library."""

    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p))


def is_possible() -> bool:
    """Whether this system is one that is guarded."""
    return (sys.platform == "linux" and platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
            and platform.libc_ver()[0] == "glibc" and sys.maxsize > 2**32)


def watch(start: int, size: int) -> int:
    """Guard a mapped file at an address; the slot to ask `faults` with, or UNWATCHED where that can't be done."""
    global _next
    if size <= 0 or start % mmap.PAGESIZE or not _install():
        return UNWATCHED
    stop = start + size + -size % mmap.PAGESIZE
    with _lock:
        for i in np.flatnonzero((_table[:, 0] < stop) & (_table[:, 1] > start)):
            _table[i] = 0                              # a map that is gone lay here
        free = np.flatnonzero(_table[:, 1] == 0)
        slot = int(free[0]) if len(free) else _next
        _next = (slot + 1) % SLOTS
        _table[slot] = 0
        _table[slot, 0] = start
        _table[slot, 1] = stop                         # from here on the handler may find it
        return slot


def faults(slot: int) -> int:
    """Pages of a watched map that could not be read; 0 for one that is not watched."""
    return 0 if slot == UNWATCHED else int(_table[slot, 2])


def _install() -> bool:
    global _installed
    with _lock:
        if _installed is None:
            _installed = is_possible() and _set_handler()
        return _installed


def _set_handler() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    former, own = _Action(), _Action()
    own.handler = _compiled(ctypes.cast(libc.mmap, ctypes.c_void_p).value or 0,
                            ctypes.cast(libc.sigaction, ctypes.c_void_p).value or 0, ctypes.addressof(former))
    own.flags = _SIGINFO | _ON_STACK
    _kept.extend((libc, former, own))
    return int(libc.sigaction(int(signal.SIGBUS), ctypes.byref(own), ctypes.byref(former))) == 0


def _compiled(mmap_at: int, sigaction_at: int, former_at: int) -> int:
    """Address of the handler as machine code: (signal number, siginfo_t, context) -> nothing."""
    from llvmlite import binding, ir

    word, number, byte = ir.IntType(64), ir.IntType(32), ir.IntType(8)
    module = ir.Module("mapguard")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), (number, word, word)), "handle")
    entry, look, test, hit, other, further = (function.append_basic_block(n) for n in (
        "entry", "look", "test", "hit", "other", "further"))

    def at(builder: Any, address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, kind.as_pointer())

    def call(builder: Any, address: int, result: Any, *given: Any) -> Any:
        kind = ir.FunctionType(result, [g.type for g in given])
        return builder.call(builder.inttoptr(ir.Constant(word, address), kind.as_pointer()), given)

    b = ir.IRBuilder(entry)
    info = function.args[1]
    code = b.load(at(b, b.add(info, ir.Constant(word, _CODE)), number))
    address = b.load(at(b, b.add(info, ir.Constant(word, _ADDRESS)), word))
    b.cbranch(b.icmp_signed("==", code, ir.Constant(number, _ADDRESS_ERROR)), look, other)
    b = ir.IRBuilder(look)                             # every slot in turn
    slot = b.phi(word)
    slot.add_incoming(ir.Constant(word, 0), entry)
    row = b.add(ir.Constant(word, _table.ctypes.data), b.mul(slot, ir.Constant(word, _table.strides[0])))
    start, stop = (b.load(at(b, b.add(row, ir.Constant(word, 8 * i)), word)) for i in (0, 1))
    inside = b.and_(b.icmp_unsigned(">=", address, start), b.icmp_unsigned("<", address, stop))
    b.cbranch(inside, hit, further)
    b = ir.IRBuilder(further)
    following = b.add(slot, ir.Constant(word, 1))
    slot.add_incoming(following, further)
    b.cbranch(b.icmp_unsigned("<", following, ir.Constant(word, SLOTS)), look, other)
    b = ir.IRBuilder(hit)
    page = b.and_(address, ir.Constant(word, -mmap.PAGESIZE))
    laid = call(b, mmap_at, word, page, ir.Constant(word, mmap.PAGESIZE), ir.Constant(number, _READ_WRITE),
                ir.Constant(number, _FIXED | _ANONYMOUS | _PRIVATE), ir.Constant(number, -1), ir.Constant(word, 0))
    b.atomic_rmw("add", at(b, b.add(row, ir.Constant(word, 16)), word), ir.Constant(word, 1), "seq_cst")
    b.cbranch(b.icmp_unsigned("==", laid, page), test, other)
    ir.IRBuilder(test).ret_void()                      # the reading goes on, with zeros
    b = ir.IRBuilder(other)                            # as before us: the same reading fails again, and what was there sees it
    call(b, sigaction_at, number, ir.Constant(number, int(signal.SIGBUS)), ir.Constant(word, former_at),
         b.inttoptr(ir.Constant(word, 0), byte.as_pointer()))
    b.ret_void()

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)),
                                           binding.Target.from_default_triple().create_target_machine())
    engine.finalize_object()
    _kept.append(engine)
    return int(engine.get_function_address("handle"))
