#!/usr/bin/env bash
# Measures this code with a short profile, and prints what got slower since the stored run, by ratios
# to the raw limit of each run. Fails if anything did.
#
#   bench/guard.sh            compares with docs/benchmarks/guard.json
#   bench/guard.sh --store    measures and stores, after a change that is meant
#
# It takes 5 minutes on a machine that does nothing else, after the build. TOLERANCE=PERCENT, 25 unless
# told: a single run on another machine says less than bench/compare-commits.sh, which measures both
# commits in turn.
set -euo pipefail
cd "$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
stored=docs/benchmarks/guard.json
case "${1:-}" in
  "") fresh=$(mktemp) ;;
  --store) fresh=$stored ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
cargo build --quiet --release --package ringlite-bench
bench=${CARGO_TARGET_DIR:-target}/release/ringlite-bench
"$bench" --systems ringlite --workloads insert-100,read,ten-rows --connections 1,64 --seconds 1 \
  --repetitions 5 --json "$fresh"
if [[ $fresh != "$stored" ]]; then
  "$bench" compare --tolerance "${TOLERANCE:-25}" "$stored" "$fresh"
  rm -f "$fresh"
fi
