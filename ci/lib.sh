# shellcheck shell=bash
# Shared by the scripts of this folder and by .ci/run. Bash 3.2, which macOS has, can run them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# step prints a command and runs it.
step() {
	printf '\n+ %s\n' "$*"
	"$@"
}
