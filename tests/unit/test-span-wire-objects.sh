#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What -object span-guest and -object span-peer say to what they cannot take:
# bad policies above all. QEMU runs on the host without KVM, so that a policy that
# is good ends at "needs KVM". KTAP.

top=$(cd "$(dirname "$0")/../.." && pwd)
qemu=${KVM_SPAN_BUILD:-$top/build}/qemu/qemu-system-x86_64
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
n=0 failed=0

# try NAME WORDS OBJECT...: QEMU must refuse, and say WORDS
try()
{
	name=$1 words=$2
	shift 2
	n=$((n + 1))
	timeout 20 "$qemu" -M none -nodefaults -display none -accel qtest \
		-object memory-backend-memfd,id=sealed,size=2M,share=on,seal=on \
		-object memory-backend-memfd,id=open,size=2M,share=on,seal=off \
		-object memory-backend-memfd,id=own,size=2M,share=off,seal=on \
		-object "memory-backend-file,id=file,size=2M,share=on,mem-path=$tmp/ram" \
		"$@" </dev/null >"$tmp/out" 2>&1
	if [ $? -eq 1 ] && grep -qF "$words" "$tmp/out"; then
		echo "ok $n $name"
	else
		failed=1
		sed 's/^/# /' "$tmp/out"
		echo "not ok $n $name"
	fi
}

# policy NAME WORDS JSON
policy()
{
	printf '%s' "$3" >"$tmp/policy"
	try "policy_$1" "$2" -object "span-guest,id=span0,memdev=sealed,policy=$tmp/policy"
}

# member NAME WORDS MEMBERS-OF-AN-ENTRY
member()
{
	policy "$1" "$2" "{\"members\":[{\"name\":\"L1a\",\"access\":\"rw\"$3}]}"
}

good="a Span guest needs KVM"
all='"notify","block","deny","log"'
truncate -s 2M "$tmp/ram"
echo "TAP version 13"

member no_rights "$good" ''
member empty_rights "$good" ',"rights":[]'
member all_rights "$good" ",\"rights\":[$all],\"max-deadline-us\":1000"
member longest_deadline "$good" ",\"rights\":[$all],\"max-deadline-us\":5000000"
member unknown_right "does not accept value 'all'" ',"rights":["all"]'
member rights_no_list "expected: array" ',"rights":"log"'
member rights_of_numbers "expected: string" ',"rights":[1]'
member misspelt_rights "'policy.members[0].right' is unexpected" ',"right":["log"]'
member deadline_too_short "is not 1000 to 5000000" ',"max-deadline-us":999'
member deadline_zero "is not 1000 to 5000000" ',"max-deadline-us":0'
member deadline_too_long "is not 1000 to 5000000" ',"max-deadline-us":5000001'
member deadline_negative "max-deadline-us" ',"max-deadline-us":-1'
member deadline_too_big "max-deadline-us" ',"max-deadline-us":4294967296'
policy remap_reported "$good" '{"members":[],"on-remap":"report"}'
policy remap_detached "$good" '{"members":[],"on-remap":"detach"}'
policy remap_unknown "does not accept value 'kill'" '{"members":[],"on-remap":"kill"}'
policy no_access "'policy.members[0].access' is missing" '{"members":[{"name":"L1a"}]}'
policy name_twice "is there twice" '{"members":[{"name":"a","access":"ro"},{"name":"a","access":"rw"}]}'
policy name_with_blank "without blanks" '{"members":[{"name":"a b","access":"ro"}]}'
policy empty "Expecting a JSON value" ''
policy no_json "policy" '{'

guest()
{
	printf '{"members":[]}' >"$tmp/policy"
	try "guest_$1" "$2" -object "span-guest,id=span0,policy=$tmp/policy,memdev=$3"
}
guest memory_not_sealed "is not sealed" open
guest memory_not_shared "share=on,seal=on" own
guest memory_of_a_file "must be a memory-backend-memfd" file

try peer_of_a_file "is not the window of a span-port" -object span-peer,id=peer0,memdev=file
try peer_of_a_memfd "is not the window of a span-port" -object span-peer,id=peer0,memdev=sealed
try peer_of_nothing "not found" -object span-peer,id=peer0,memdev=none
try peer_without_memdev "'memdev' is missing" -object span-peer,id=peer0
echo "1..$n"
exit $failed
