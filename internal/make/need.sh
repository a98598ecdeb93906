#!/usr/bin/env bash
# Usage: need.sh go|postgres|chromium|node
# Finds what a target needs, installs it where that is this script's business, and says which.
set -euo pipefail

say() { echo "need: $*" >&2; }

# as_root runs a command as root without ever asking for a password.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_apt() {
	command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

apt_install() {
	say "installing $* with apt-get"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need_go() {
	if command -v go >/dev/null; then return; fi
	say "Go is missing. Install version 1.26 or newer (1.21 fetches it by itself): https://go.dev/dl/"
	exit 1
}

# postgres_bin prints the folder of a server of version 14 or newer. The program itself looks
# in more places (internal/pg/pgdev); these are where the installers below put it.
postgres_bin() {
	local dir major
	for dir in "$(dirname "$(command -v postgres || echo /nowhere/postgres)")" \
		/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin; do
		if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then
			major="$("$dir/postgres" --version | sed -E 's/.*\(PostgreSQL\) ([0-9]+).*/\1/')"
			if [ "$major" -ge 14 ] 2>/dev/null; then
				echo "$dir"
				return 0
			fi
		fi
	done
	return 1
}

need_postgres() {
	local dir
	if dir="$(postgres_bin)"; then
		say "PostgreSQL: $("$dir/postgres" --version) in $dir"
		return
	fi
	if can_apt; then
		# Only the programs are wanted: no cluster of the system's, no service.
		if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
			apt_install postgresql-common || true
			as_root sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf || true
		fi
		apt_install postgresql || true
	elif command -v brew >/dev/null; then
		say "installing postgresql@17 with Homebrew"
		brew install --quiet postgresql@17 || true
	fi
	if dir="$(postgres_bin)"; then
		say "PostgreSQL: $("$dir/postgres" --version) in $dir"
	else
		say "no PostgreSQL 14 or newer here and none could be installed: the program fetches its pinned build at first use"
	fi
}

find_chromium() {
	local name
	for name in chromium chromium-browser google-chrome google-chrome-stable headless_shell headless-shell; do
		if command -v "$name"; then return 0; fi
	done
	[ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ] && echo "Google Chrome"
}

need_chromium() {
	if ! find_chromium >/dev/null && can_apt; then apt_install chromium; fi
	if ! find_chromium >/dev/null; then
		say "no Chromium or Chrome found: install one, or run as a user who may use apt-get"
		exit 1
	fi
	say "browser: $(find_chromium)"
}

need_node() {
	local major
	major="$(node --version 2>/dev/null | sed -E 's/^v([0-9]+).*/\1/')" || true
	if [ -z "$major" ] || [ "$major" -lt 22 ]; then
		say "Node 22 or newer is missing (found: ${major:-none}): https://nodejs.org/"
		exit 1
	fi
	say "Node: $(node --version)"
}

case "${1:-}" in
go | postgres | chromium | node) "need_$1" ;;
*)
	say "usage: need.sh go|postgres|chromium|node"
	exit 2
	;;
esac
