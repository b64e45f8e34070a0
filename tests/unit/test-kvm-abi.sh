#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The guard of the structures that vmlinux shares with kvm.ko: passes on our
# modules, fails when a field is put where it must not be. KTAP.
top=$(cd "$(dirname "$0")/../.." && pwd)
echo "TAP version 13"
exec "$top/scripts/check-kvm-abi" --self-test trimmed
