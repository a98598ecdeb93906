#!/usr/bin/env bash
# Usage: city.sh run|demo CITY DATA [further flags of citysync demo]
# Further flags of citysync dev stand in the variable DEV.
#
# run   starts a city on its own ports and data folder, runs the demonstration against it and
#       leaves it up until SIGINT or SIGTERM; the exit code is the city's own.
# demo  does the same on free ports in a temporary folder, verifies it from outside and stops:
#       exit code 0, or 1 when anything went wrong.
set -euo pipefail
cd "$(dirname "$0")/../.."

mode="$1" city="$2" data="$3"
shift 3

bin=bin/citysync
ready_limit=600 # seconds; a first start may fetch a database
dev=""          # process id of the city
tmp=""

say() { echo "city: $*" >&2; }

# stop_city ends the city in order and gives its exit code.
stop_city() {
	local code=0
	if [ -n "$dev" ]; then
		kill -TERM "$dev" 2>/dev/null || true
		await_city || code=$?
		dev=""
	fi
	return "$code"
}

# await_city waits for the city's end; a trapped signal interrupts wait, so ask again.
await_city() {
	local code
	while true; do
		code=0
		wait "$dev" || code=$?
		kill -0 "$dev" 2>/dev/null || return "$code"
	done
}

clean_up() {
	stop_city || true
	if [ -n "$tmp" ]; then rm -rf "$tmp"; fi
}
trap clean_up EXIT

# on_signal hands the signal on and lets the script go on to its end.
stopping=""
on_signal() {
	stopping=1
	if [ -n "$dev" ]; then kill -TERM "$dev" 2>/dev/null || true; fi
}
trap on_signal INT TERM

await_ready() {
	local waited=0
	until [ "$1" -nt "$tmp/begun" ]; do # one from an earlier start does not count
		if [ -n "$stopping" ] || ! kill -0 "$dev" 2>/dev/null; then return 1; fi
		if [ "$waited" -ge $((ready_limit * 5)) ]; then
			say "not ready after $ready_limit seconds"
			return 1
		fi
		sleep 0.2
		waited=$((waited + 1))
	done
}

# free_ports prints the first of nine neighbouring ports that nothing listens on.
free_ports() {
	local base p free
	for _ in $(seq 50); do
		base=$((20000 + RANDOM % 12000))
		free=1
		for p in 0 1 2 3 4 5 6 7 8; do
			if (exec 3<>"/dev/tcp/127.0.0.1/$((base + p))") 2>/dev/null; then free=""; fi
		done
		if [ -n "$free" ]; then
			echo "$base"
			return
		fi
	done
	say "no nine free ports in a row"
	return 1
}

# default_data is the program's own default, said aloud so that the ready file can stand in it.
default_data() {
	if [ "$(id -u)" = 0 ]; then
		echo /var/lib/citysync
	elif [ -z "${XDG_DATA_HOME:-}" ] && [ "$(uname)" = Darwin ]; then
		echo "$HOME/Library/Application Support/citysync"
	else
		echo "${XDG_DATA_HOME:-$HOME/.local/share}/citysync"
	fi
}

run_city() {
	local ready code=0
	data="${data:-$(default_data)}"
	ready="$data/ready.json"
	"$bin" dev --data "$data" --city "$city" --ready-file "$ready" ${DEV:-} &
	dev=$!
	if ! await_ready "$ready"; then
		stop_city || code=$?
		if [ -n "$stopping" ]; then return "$code"; fi
		say "the city did not come up"
		return $((code == 0 ? 1 : code))
	fi
	"$bin" demo --ready-file "$ready" "$@" || code=$?
	if [ "$code" != 0 ] && [ -z "$stopping" ]; then
		say "the demonstration failed with code $code; stopping"
		stop_city || true
		return "$code"
	fi
	if [ -z "$stopping" ]; then say "the city stays up; Ctrl-C stops it"; fi
	code=0
	await_city || code=$?
	dev=""
	return "$code"
}

demo_city() {
	local ready base web
	ready="$tmp/ready.json"
	base="$(free_ports)"
	web="http://localhost:$base"
	"$bin" dev --fresh --data "$tmp/data" --city "$city" --port-base "$base" --ready-file "$ready" ${DEV:-} >"$tmp/dev.log" 2>&1 &
	dev=$!
	if await_ready "$ready" && "$bin" demo --ready-file "$ready" "$@" && "$bin" verify "$web" && stop_city; then
		return 0
	fi
	say "failed; the last of what the city said:"
	tail -n 40 "$tmp/dev.log" >&2
	return 1
}

tmp="$(mktemp -d "${TMPDIR:-/tmp}/citysync-city.XXXXXX")"
chmod 711 "$tmp" # under root another user runs the database
touch "$tmp/begun"

case "$mode" in
run) run_city "$@" ;;
demo) demo_city "$@" ;;
*)
	say "usage: city.sh run|demo CITY DATA [flags]"
	exit 2
	;;
esac
