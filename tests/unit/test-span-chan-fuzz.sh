#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# tests/fuzz/span-chan.c under sanitizers. SPAN_FUZZ_ROUNDS and SPAN_FUZZ_SEED
# make it longer, or another one. KTAP.

top=$(cd "$(dirname "$0")/../.." && pwd)
out=${KVM_SPAN_BUILD:-$top/build}/tests/fuzz
qemu=${QEMU:-${KVM_SPAN_BUILD:-$top/build}/src/qemu}

mkdir -p "$out" || exit 1
"${CC:-gcc}" -std=gnu11 -O1 -g -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-I"$qemu" -I"$qemu/include" -o "$out/span-chan.$$" "$top/tests/fuzz/span-chan.c" || exit 1
mv "$out/span-chan.$$" "$out/span-chan"
exec "$out/span-chan" "${SPAN_FUZZ_ROUNDS:-100000}" "${SPAN_FUZZ_SEED:-0x5350414e}"
