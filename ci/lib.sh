# shellcheck shell=bash
# Shared by the scripts of this folder and by .ci/run. Bash 3.2, which macOS has, can run them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# accept ends a script of this folder unless its arguments match a regular expression. It prints
# the comment at the top of the script.
accept() {
	local pattern="^($1)\$"
	shift
	if [[ "$*" =~ $pattern ]]; then return; fi
	sed -n '2,/^[^#]/s/^# //p' "ci/${0##*/}" >&2
	exit 2
}

# step prints a command and runs it.
step() {
	printf '\n+ %s\n' "$*"
	"$@"
}

# skip says what is skipped. If SENDQ_CI is set, the script fails instead.
skip() {
	printf 'skipped: %s\n' "$*"
	if [ -z "${SENDQ_CI-}" ]; then return; fi
	echo 'SENDQ_CI allows no skips'
	exit 1
}
