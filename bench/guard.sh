#!/usr/bin/env bash
# Measures this code with a short profile, and prints what got slower since the full run that is stored,
# by ratios to the raw limit of each run. Fails if anything did.
#
#   bench/guard.sh
#
# It takes 4 minutes on a machine that does nothing else, after the build. TOLERANCE=PERCENT, 25 unless
# told: a run on another machine or day says less than bench/compare-commits.sh, which measures two
# commits in turn.
set -euo pipefail
cd "$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
cargo build --quiet --release --package ringlite-bench
bench=${CARGO_TARGET_DIR:-target}/release/ringlite-bench
"$bench" --systems ringlite --workloads insert-100,read --connections 1,64 --seconds 1 \
  --repetitions 5 --json "$fresh"
"$bench" compare --tolerance "${TOLERANCE:-25}" docs/benchmarks/run.json "$fresh"
