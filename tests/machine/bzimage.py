#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""bzimage.py BZIMAGE OUT: the vmlinux inside an x86 bzImage.

Uses the boot protocol's payload_offset and payload_length (2.08 and later).
"""
import struct
import subprocess
import sys

DECOMPRESS = ((b"\x28\xb5\x2f\xfd", ["zstd", "-dc"]), (b"\xfd7zXZ\0", ["xz", "-dc"]),
              (b"\x1f\x8b\x08", ["gzip", "-dc"]), (b"\x02!L\x18", ["lz4", "-dc"]))


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    with open(sys.argv[1], "rb") as f:
        image = f.read()
    if image[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", image, 0x206)[0] < 0x208:
        raise SystemExit("bzimage: no boot protocol 2.08 header in " + sys.argv[1])
    start = (image[0x1f1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset:start + offset + length - 4]  # then: u32 size
    for magic, cmd in DECOMPRESS:
        if payload.startswith(magic):
            break
    else:
        raise SystemExit("bzimage: unknown compression")
    out = subprocess.run(cmd, input=payload, stdout=subprocess.PIPE, check=True).stdout
    if out[:4] != b"\x7fELF":
        raise SystemExit("bzimage: the payload is no ELF file")
    with open(sys.argv[2], "wb") as f:
        f.write(out)


main()
