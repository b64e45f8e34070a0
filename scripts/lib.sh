# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
# Common ground of the build scripts: paths, messages, packages, stamps.
# Sourced, never run.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SELF=$TOP/scripts/$(basename "$0")	# the script that sources this
BUILD=${KVM_SPAN_BUILD:-$TOP/build}
DL=$BUILD/dl
SRC=$BUILD/src
LOGS=$BUILD/logs
JOBS=${JOBS:-$(nproc)}
export LC_ALL=C
mkdir -p "$DL" "$SRC" "$LOGS"

START_SECONDS=$SECONDS

say()  { printf '%s [%4ds] %s\n' "$(date +%H:%M:%S)" "$((SECONDS - START_SECONDS))" "$*" >&2; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# run LOGNAME CMD...: run quietly, keep the output in build/logs, show its
# tail when the command fails.
run()
{
	local log=$LOGS/$1.log rc=0
	shift
	"$@" >"$log" 2>&1 || rc=$?
	[ $rc = 0 ] && return 0
	tail -n 40 "$log" >&2
	die "'$1' failed with status $rc, whole output in $log"
}

# need_packages PKG...: install what is missing with apt-get. Package files
# sometimes vanish from a mirror for a moment, so try three times.
need_packages()
{
	local p missing=() try
	for p; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null |
			grep -qx installed || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] && return 0
	[ "$(id -u)" = 0 ] || die "these Debian packages are missing, install them as root: ${missing[*]}"
	say "installing ${missing[*]}"
	for try in 1 2 3; do
		if (exec 9>"$BUILD/.apt.lock"; flock 9
		    [ $try = 1 ] || apt-get -q update
		    DEBIAN_FRONTEND=noninteractive apt-get -qy \
			-o DPkg::Lock::Timeout=120 \
			install --no-install-recommends "${missing[@]}") \
			>"$LOGS/apt-install-$$.log" 2>&1; then
			return 0
		fi
		sleep $((try * 3))
		apt-get -q update >/dev/null 2>&1 || true
	done
	tail -n 20 "$LOGS/apt-install-$$.log" >&2
	die "apt-get could not install: ${missing[*]}"
}

# digest FILE_OR_DIR...: one hash over contents and names, for stamps.
digest()
{
	find "$@" -type f -print0 | sort -z | xargs -0r sha256sum | sha256sum | cut -c1-64
}

# fresh STAMP HASH: true when the stamp says that this very input was built.
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# apply_series SRCDIR PATCHDIR: push PATCHDIR/series with patch(1); stops at
# the first patch that does not apply and names it.
apply_series()
{
	local p
	while read -r p _; do
		case $p in ''|'#'*) continue ;; esac
		patch -d "$1" -p1 --forward --no-backup-if-mismatch -s <"$2/$p" ||
			die "patch $2/$p does not apply to $1"
	done <"$2/series"
}

# config_value NAME: the value of CONFIG_NAME in .config, else the default in
# the Kconfig files (the first "default" line of that symbol).
config_value()
{
	local v
	v=$( (sed -n "s/^CONFIG_$1=//p" "$TOP/.config" 2>/dev/null || true) | tr -d '"')
	if [ -z "$v" ] && grep -qs "^# CONFIG_$1 is not set" "$TOP/.config"; then v=n; fi
	if [ -z "$v" ]; then
		v=$(awk -v n="$1" '$1 == "config" {on = ($2 == n)}
			on && $1 == "default" {print $2; exit}' \
			"$TOP/Kconfig" "$TOP/kvm-span/Kconfig" 2>/dev/null)
	fi
	printf '%s\n' "${v:-n}"
}

enabled() { [ "$(config_value "$1")" = y ]; }

# lock NAME: one build of a thing at a time; a second caller waits, then finds
# it fresh.
lock()
{
	exec 6>"$BUILD/.lock-$1"
	flock 6
}
