#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The QEMU series carries copies of our kernel headers. They must be what
# the headers are now: same text, but for the changes of QEMU's usual import.
# Needs no QEMU tree: looks into the patch. KTAP.

top=$(cd "$(dirname "$0")/../.." && pwd)
uapi=$top/kvm-span/include/uapi/linux
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
failed=0

# added FILE: the text of FILE as the series adds it
added()
{
	sed -n "/^+++ b\/$(echo "$1" | sed 's,/,\\/,g')\$/,/^diff --git/{/^+++ /d;s/^+//p;}" \
		"$top"/qemu-patches/*.patch
}

# same N NAME FILE: compare the text on stdin with FILE of the series
same()
{
	cat >"$tmp/want"
	added "$3" >"$tmp/have"
	if [ -s "$tmp/have" ] && diff -u "$tmp/want" "$tmp/have" >"$tmp/diff"; then
		echo "ok $1 $2"
	else
		failed=1
		sed 's/^/# /' "$tmp/diff"
		echo "not ok $1 $2"
	fi
}

echo "TAP version 13"
echo "1..4"
sed 's/_UAPI_LINUX_/_LINUX_/' "$uapi/kvm_span.h" |
	same 1 kvm_span.h linux-headers/linux/kvm_span.h
sed -e 's/__u\([0-9][0-9]*\)/uint\1_t/g' -e 's/__le\([0-9][0-9]*\)/uint\1_t/g' \
    -e 's,<linux/types.h>,"standard-headers/linux/types.h",' -e '/linux\/ioctl.h/d' \
    -e 's/_UAPI_LINUX_/_LINUX_/' "$uapi/span_port.h" |
	same 2 span_port.h include/standard-headers/linux/span_port.h
n=3
for h in kvm_ooh.h kvm_epml.h; do
	sed 's/_UAPI_LINUX_/_LINUX_/' "$uapi/$h" | same $n $h "linux-headers/linux/$h"
	n=$((n + 1))
done
exit $failed
