#!/usr/bin/env bash
# Measures two commits in turn on this machine, and prints what got slower from the first to the
# second, by ratios to the raw limit of each run. Fails if anything did.
#
#   bench/compare-commits.sh BEFORE AFTER [OPTIONS of ringlite-bench, such as --only 3/tcp]
#
# Each commit is measured by its own bench, which must know the options. The runs take turns, so
# that a machine that gets slower meanwhile does so for both: ROUNDS=N of them, three unless told.
set -euo pipefail
if (($# < 2)); then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
before=$1 after=$2
shift 2
cd "$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
work=$(mktemp -d)
cleanup() {
  for side in before after; do
    git worktree remove --force "$work/$side" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap cleanup EXIT

for side in before after; do
  git worktree add --quiet --detach "$work/$side" "${!side}"
  echo "building ${!side}" >&2
  (cd "$work/$side" && CARGO_TARGET_DIR="$work/target-$side" \
    cargo build --quiet --release --package ringlite-bench)
done
for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
  for side in before after; do
    echo "round $round: ${!side}" >&2
    # The data lies below the current directory, which is on a disk: a temporary one may not be.
    "$work/target-$side/release/ringlite-bench" --json "$work/round.json" "$@" >/dev/null
    cat "$work/round.json" >>"$work/$side.json"
  done
done
"$work/target-after/release/ringlite-bench" compare "$work/before.json" "$work/after.json"
