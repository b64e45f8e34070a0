#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# One of CRIU's own tests, without its zdtm.py (which wants Python): start it, dump it step by
# step, restore it, tell it to stop, and read its verdict.
#
# zdtm.sh [-b BACKEND] [-p PRE-DUMPS] [-m MODE] [-i ITERATIONS] [-o "OPTION..."] DIRECTORY/TEST
#
# MODE: of pre-dumps, splice or read, or snap for dumps that leave it running. Says "TEST: ok N holes M pages", or what went wrong and 1.
backend=soft-dirty pre=3 mode=splice iterations=1 options=
while getopts b:p:m:i:o: o; do
	case $o in
	b) backend=$OPTARG ;;
	p) pre=$OPTARG ;;
	m) mode=$OPTARG ;;
	i) iterations=$OPTARG ;;
	o) options=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
name=$1
test=${name##*/}
images=/tmp/zdtm-images
cd "/usr/local/lib/zdtm/${name%/*}" || exit 2

fail()
{
	echo "$name: $1"
	[ -z "$2" ] || tail -n 12 "$2"
	for f in "$test.out" "$test.out.inprogress"; do
		[ ! -f "$f" ] || tail -n 12 "$f"
	done
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null
	exit 1
}

# As zdtm.py does: an ordinary user, except for those that have to be root.
start()
{
	args="--pidfile=$test.pid --outfile=$test.out"
	case $test in
	maps00|maps06|mtime_mmap|unlink_mmap00|file_shared|cow01|maps_file_prot|write_read00)
		args="$args --filename=$test.test" ;;
	esac
	case $test in
	maps01|cow00|cow01|shmemfd|shmemfd-priv|mlock_setuid|maps007|maps008|pid_reuse) ;;
	*) export ZDTM_UID=18943 ZDTM_GID=58467 ZDTM_GROUPS="27495 48244" ;;
	esac
	[ "$test" != pid_reuse ] || export ZDTM_NOTIFY_FDIN=100 ZDTM_NOTIFY_FDOUT=101
	export ZDTM_THREAD_BOMB=5
	# shellcheck disable=SC2086
	"./$test" $args </dev/null || fail "does not start"
	pid=$(cat "$test.pid")
}

# Those that want to know of a pre-dump do something between two of them, and say that they did.
notify()
{
	[ "$test" = pid_reuse ] || return 0
	exec 8<"/proc/$pid/fd/101"
	printf '\0\0\0\0' >"/proc/$pid/fd/100"
	head -c 4 <&8 >/dev/null
	exec 8<&-
}

dump()	# ACTION NUMBER OPTION...
{
	action=$1 n=$2
	shift 2
	mkdir "$images/$n"
	parent=
	[ ! -d "$images/$((n - 1))" ] || parent="--prev-images-dir ../$((n - 1))"
	# shellcheck disable=SC2086
	criu "$action" -t "$pid" -D "$images/$n" $parent --track-mem --track-mem-backend "$backend" \
		-v4 -o log --manage-cgroups=ignore "$@" $options || fail "$action $n failed" "$images/$n/log"
}

wait_for_end()
{
	i=0
	while [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; do
		i=$((i + 1))
		[ $i -lt 1000 ] || fail "does not end"
		usleep 10000
	done
}

count()	# of the last dumps
{
	cat "$images"/*/log | awk '/Pagemap generated/ {p += $4; h += $8} END {print h + 0 " holes " p + 0 " pages"}'
}

rm -rf "$images" ./"$test".pid* ./"$test".out* ./"$test".test*
start
while [ "$iterations" -gt 0 ]; do
	rm -rf "$images"
	mkdir -p "$images"
	n=1
	while [ $n -le "$pre" ]; do
		if [ "$mode" = snap ]; then
			dump dump $n --leave-running
		else
			dump pre-dump $n --pre-dump-mode "$mode"
			notify
		fi
		usleep 50000
		n=$((n + 1))
	done
	dump dump $n
	wait_for_end
	criu restore -d -D "$images/$n" -v4 -o rlog --manage-cgroups=ignore || fail "restore failed" "$images/$n/rlog"
	iterations=$((iterations - 1))
done
kill -TERM "$pid" || fail "is not there after the restore"
wait_for_end
grep -q PASS "$test.out" 2>/dev/null || fail "did not pass"
echo "$name: ok $(count)"
