#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""elftrim.py IN OUT: a kernel ELF with what a PVH loader needs and no more.

Keeps the program headers; cuts the zeros at the end of each PT_LOAD (the
loader clears up to p_memsz), drops the 2 MiB alignment in the file and the
section headers. 57 MB become 39 MB, all of which a boot has to copy.
"""
import struct
import sys

EHDR = 64
PHDR = struct.Struct("<IIQQQQQQ")
PT_LOAD, PT_NOTE = 1, 4
PAGE = 4096


def trim(data):
    if data[:6] != b"\x7fELF\x02\x01":
        raise SystemExit("elftrim: not a 64-bit little-endian ELF file")
    phoff, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    if size != PHDR.size or phoff + size * count > len(data):
        raise SystemExit("elftrim: bad program headers")
    headers = [list(PHDR.unpack_from(data, phoff + i * size)) for i in range(count)]
    pos, moved, body = PAGE, [], []
    for h in headers:
        if h[0] != PT_LOAD:
            continue
        off, filesz = h[2], h[5]
        used = data[off:off + filesz].rstrip(b"\0")
        body.append((pos, used))
        moved.append((off, filesz, pos))
        h[2], h[5] = pos, len(used)
        pos += (len(used) + PAGE - 1) // PAGE * PAGE
    for h in headers:
        if h[0] != PT_NOTE:
            continue
        for off, filesz, new in moved:  # the notes lie inside a LOAD
            if off <= h[2] < off + filesz:
                h[2] = new + h[2] - off
                break
        else:
            raise SystemExit("elftrim: a note outside of every segment")
    ehdr = bytearray(data[:EHDR])
    struct.pack_into("<QQ", ehdr, 32, EHDR, 0)   # e_phoff, no e_shoff
    struct.pack_into("<HHH", ehdr, 58, 0, 0, 0)  # no sections
    out = bytearray(pos)
    out[:EHDR] = ehdr
    for i, h in enumerate(headers):
        PHDR.pack_into(out, EHDR + i * PHDR.size, *h)
    for at, used in body:
        out[at:at + len(used)] = used
    return out


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    with open(sys.argv[1], "rb") as f:
        data = f.read()
    with open(sys.argv[2], "wb") as f:
        f.write(trim(data))


main()
