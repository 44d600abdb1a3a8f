"""TensorFlow's checkpoint files, read without TensorFlow: variables by name as NumPy arrays.

A checkpoint is a *prefix*: ``NAME.index`` says where each variable lies in the shards ``NAME.data-00000-of-00001``, ...
The index is a table in LevelDB's format whose values are small protocol-buffer messages; every block of it and every
variable carries a CRC-32C, and all of them are checked. :mod:`dmplus.tf_checkpoint` makes networks of the variables.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmplus.runtime import InputError


# ----------------------------------------------------------------------------------------------------------- CRC-32C
@functools.cache
def _advance(power: int) -> np.ndarray:
    """What 2**power zero words (of 32 bits) do to a CRC register, as a table (4, 256) uint32: one row per byte of it.

    The register after some zeros is a linear function of the register before (over bits, with exclusive or for +), so
    it is known from its 32 single bits, and twice the distance is the function applied twice.
    """
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if power:
        bits = _apply(_advance(power - 1), _apply(_advance(power - 1), bits))
    else:
        for _ in range(32):  # one word, bit by bit; 0x82F63B78 is the Castagnoli polynomial, lowest power first
            bits = (bits >> np.uint32(1)) ^ np.where(bits & 1, np.uint32(0x82F63B78), np.uint32(0))
    table = np.zeros((4, 256), np.uint32)
    for i, image in enumerate(bits):
        byte, bit = divmod(i, 8)
        table[byte, 1 << bit : 2 << bit] = table[byte, : 1 << bit] ^ image
    return table


def _apply(table: np.ndarray, words: np.ndarray) -> np.ndarray:
    byte = words.view(np.uint8).reshape(-1, 4)
    return table[0][byte[:, 0]] ^ table[1][byte[:, 1]] ^ table[2][byte[:, 2]] ^ table[3][byte[:, 3]]


_STEP = 1 << 18  #: words taken at once: 1 MiB fits in a processor's cache
_START = np.frombuffer(struct.pack("<I", 0x641F6454), np.uint8)  # brings a register of 0 to the standard's 0xFFFFFFFF


def crc32c(data: bytes | np.ndarray) -> int:
    """CRC-32C (Castagnoli) of bytes or of an array's bytes; 0 for none. Hundreds of MB/s in NumPy alone.

    Zeros in front of a register of 0 change nothing, so the data are filled up in front to 2**k words; then the first
    half, carried over the second (one table look-up per byte), is added to it, until one word is left.
    """
    content = np.ascontiguousarray(np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data)
    content = content.reshape(-1).view(np.uint8)
    needed = -(-(content.size + 4) // 4)
    step = min(_STEP, 1 << (needed - 1).bit_length())
    padded = np.zeros(-(-needed // step) * step * 4, np.uint8)
    padded[padded.size - content.size - 4 :][:4] = _START
    padded[padded.size - content.size :] = content
    register = np.zeros(1, np.uint32)
    for words in padded.view("<u4").astype(np.uint32, copy=False).reshape(-1, step):
        words[0] ^= register[0]
        for power in reversed(range(step.bit_length() - 1)):
            half = 1 << power
            words = _apply(_advance(power), words[:half]) ^ words[half:]
        register = _apply(_advance(0), words)
    return int(register[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | np.ndarray) -> int:
    """CRC-32C as LevelDB and TensorFlow store it: rotated by 15 bits and shifted, so that it may lie among the data."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# ------------------------------------------------------------------------------------------------------ file format
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)  # the last bytes of every LevelDB table
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 9: "int64", 10: "bool", 17: "uint16",
    19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_MEMBER = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


@dataclasses.dataclass(frozen=True)
class Variable:
    """One variable of a checkpoint and where it lies."""

    name: str
    dtype: str  #: as NumPy calls it; "type 7" and the like for what NumPy has no word for (7: text)
    shape: tuple[int, ...]
    shard: int
    offset: int  #: bytes from the start of the shard
    size: int  #: bytes
    crc: int  #: masked CRC-32C


def is_checkpoint(source: str | Path) -> bool:
    """Whether ``source`` names a TensorFlow checkpoint: its prefix, or one of its files."""
    return bool(_MEMBER.search(str(source))) or (not Path(source).is_file() and Path(f"{source}.index").is_file())


def checkpoint_files(prefix: str | Path) -> list[Path]:
    """The files of a checkpoint that are there to be read: the index, then every shard. Raises ``InputError``."""
    index, shards, _ = _read_index(prefix)
    return [index, *shards]


def list_variables(prefix: str | Path) -> list[Variable]:
    """Every variable of a checkpoint, sorted by name, from the index alone.

    ``prefix``: path without ``.index``; the path of one of the files will do. Raises ``InputError`` (one line) for
    anything that is not a whole TensorFlow checkpoint (tensor-bundle format, TensorFlow 0.12 or newer).
    """
    return _read_index(prefix)[2]


def read_variables(prefix: str | Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Variables by name, in the shapes and types of the checkpoint; ``names=None``: all, ``[]``: none.

    Their checksums are checked. Raises ``InputError`` for an unknown name, for a checkpoint that is damaged, cut off or
    lacks a shard, and for variables that are not numbers.
    """
    _, shards, variables = _read_index(prefix)
    known = {v.name: v for v in variables}
    wanted = list(known) if names is None else list(names)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                f"checkpoint {checkpoint_prefix(prefix).name}: expected a name among its {len(known)} variables"
                f"{f' (did you mean {near[0]}?)' if near else ''}; got {name}; see list_variables"
            )
    found: dict[str, np.ndarray] = {}
    order = sorted((known[name] for name in wanted), key=lambda v: (v.shard, v.offset))
    for shard, group in itertools.groupby(order, key=lambda v: v.shard):
        with open(shards[shard], "rb") as file:
            for variable in group:
                found[variable.name] = _tensor(file, variable, shards[shard])
    return {name: found[name] for name in wanted}


def _tensor(file: Any, variable: Variable, path: Path) -> np.ndarray:
    what = f"{variable.name} at bytes {variable.offset} to {variable.offset + variable.size}"
    if variable.dtype not in _DTYPES.values():
        raise InputError(
            f"checkpoint {path.name}: expected numbers in {variable.name}; got {variable.dtype}, as other programs store "
            "it; pass a checkpoint of DeepMedic or DeepMedic+"
        )
    if variable.size != math.prod(variable.shape) * np.dtype(variable.dtype).itemsize:
        raise _damaged(path, f"{what} to hold {variable.dtype} {variable.shape}", "another size")
    length = path.stat().st_size
    if variable.offset + variable.size > length:
        raise _damaged(path, what, f"a file of {length} bytes")
    file.seek(variable.offset)
    content = np.fromfile(file, np.uint8, variable.size)
    if content.size != variable.size or masked_crc32c(content) != variable.crc:
        raise _damaged(path, f"{what} with checksum {variable.crc:08x}", "other content")
    little = np.dtype(variable.dtype).newbyteorder("<")
    return content.view(little).reshape(variable.shape).astype(variable.dtype, copy=False)


def _damaged(path: Path, expected: str, got: str) -> InputError:
    return InputError(
        f"checkpoint {path.name}: expected {expected}; got {got}; the file is damaged or cut off, copy it again"
    )


def checkpoint_prefix(source: str | Path) -> Path:
    """The prefix of a checkpoint named by its prefix or by one of its files."""
    return Path(_MEMBER.sub("", str(source)))


def _read_index(source: str | Path) -> tuple[Path, list[Path], list[Variable]]:
    """(index file, shard files, variables); all files are there."""
    prefix = checkpoint_prefix(source)
    index = Path(f"{prefix}.index")
    if not index.is_file():
        raise _no_checkpoint(prefix)
    try:
        count, variables = _bundle(index)
    except InputError:
        raise
    except (ValueError, IndexError, OverflowError, struct.error):
        raise _damaged(index, "a table of variables", "something that cannot be read") from None
    shards = [Path(f"{prefix}.data-{i:05d}-of-{count:05d}") for i in range(count)]
    missing = next((path for path in shards if not path.is_file()), None)
    if missing is not None:
        raise InputError(
            f"checkpoint {prefix.name}: expected {len(shards)} data file{'s'[: len(shards) > 1]} beside the index; found no "
            f"{missing.name}; put all files of the checkpoint into one folder under their own names"
        )
    return index, shards, variables


def _no_checkpoint(prefix: Path) -> InputError:
    say = "expected a TensorFlow checkpoint (NAME.index, NAME.data-00000-of-00001), given as NAME"
    if prefix.is_dir():
        inside = sorted(p.name for p in prefix.glob("*.index"))
        hint = f"it holds {inside[0]}, pass that" if inside else "pass the checkpoint's path without .index"
        return InputError(f"checkpoint {prefix.name}: {say}; got a folder; {hint}")
    if prefix.suffix == ".safetensors":
        return InputError(
            f"checkpoint {prefix.name}: {say}; got a safetensors file, which needs no conversion; pass it to "
            "`dmplus predict --sens`"
        )
    if prefix.is_file():
        return InputError(f"checkpoint {prefix.name}: {say}; got a file of another kind; check the path")
    return InputError(f"checkpoint {prefix.name}: {say}; found no {prefix.name}.index; check the path")


def _bundle(index: Path) -> tuple[int, list[Variable]]:
    """Number of shards and variables of an index file."""
    table = _table(index)
    header = dict(_fields(table.pop(b"", b"")))
    if b"" in table or not header or header.get(2, 0) != 0:  # 1: shards; 2: byte order; 3: version
        raise InputError(
            f"checkpoint {index.name}: expected the header of a little-endian TensorFlow checkpoint; got none; it was "
            "written by another program or on another kind of machine"
        )
    count = header.get(1, 0)
    if not 1 <= count <= 99999:
        raise _damaged(index, "1 to 99999 shards", str(count))
    variables = []
    for key, value in table.items():
        entry = dict(_fields(value))
        name = key.decode()
        if 7 in entry:
            raise InputError(
                f"checkpoint {index.name}: expected whole variables; got {name} in slices; save it unpartitioned"
            )
        shape = tuple(dict(_fields(size)).get(1, 0) for field, size in _fields(entry.get(2, b"")) if field == 2)
        dtype = _DTYPES.get(entry.get(1, 0), f"type {entry.get(1, 0)}")
        place = [entry.get(i, 0) for i in (3, 4, 5, 6)]
        if place[0] >= count:
            raise _damaged(index, f"{name} in one of {count} shards", f"shard {place[0]}")
        variables.append(Variable(name, dtype, shape, *place))
    return count, variables


def _table(path: Path) -> dict[bytes, bytes]:
    """Key → value of a LevelDB table. Every byte of the file is either checked by a checksum or known beforehand."""
    data = path.read_bytes()
    if len(data) < 48 or data[-8:] != _MAGIC:
        raise InputError(
            f"checkpoint {path.name}: expected the index of a TensorFlow checkpoint; got another kind of file or a part of "
            "one; pass the checkpoint's path without .index, copy its files again if they are cut off"
        )
    footer = data[-48:-8]  # (offset, size) of the blocks meta and index, zeros
    places, at = [], 0
    for _ in range(4):
        value, at = _varint(footer, at)
        places.append(value)
    if any(footer[at:]):
        raise _damaged(path, "zeros at the end of the index", "something else")

    def block(offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
        stored, trailer = data[offset : offset + size + 1], data[offset + size + 1 : offset + size + 5]
        if len(trailer) < 4 or struct.unpack("<I", trailer)[0] != masked_crc32c(stored):
            raise _damaged(path, f"a block of {size} bytes at byte {offset} with its checksum", "other content")
        if stored[-1] != 0:
            raise InputError(
                f"checkpoint {path.name}: expected an uncompressed index, as TensorFlow writes it; got a compressed one; "
                "save the checkpoint again with TensorFlow"
            )
        return _records(stored[:-1])

    list(block(places[0], places[1]))  # empty, but its checksum counts
    table: dict[bytes, bytes] = {}
    for _, handle in block(places[2], places[3]):
        offset, at = _varint(handle, 0)
        table.update(block(offset, _varint(handle, at)[0]))
    return table


def _records(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of a block; a key shares its first bytes with the one before."""
    restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 - 4 * restarts
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        more, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + more + size > end:
            raise ValueError("a record beyond its block")
        key = key[:shared] + block[at : at + more]
        yield key, block[at + more : at + more + size]
        at += more + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a protocol-buffer message: int, or bytes for text and messages."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, value = tag & 7, None
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 2, 5):
            size, at = _varint(message, at) if kind == 2 else (8 if kind == 1 else 4, at)
            value = message[at : at + size]
            at += size
            if len(value) != size:
                raise ValueError("a field beyond its message")
            if kind != 2:
                value = int.from_bytes(value, "little")
        else:
            raise ValueError(f"a field of kind {kind}")
        yield tag >> 3, value
