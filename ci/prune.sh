#!/bin/sh
# The data-pruning step of a pipeline, also on your own machine: ci/prune.sh key|score|prune|all
#
#   key     prints the cache key of the scores (seconds, reads no shard's body)
#   score   trains the proxy and scores the pool, unless the scores are there already (heavy)
#   prune   writes the manifest, judges it, says what changed, draws the report, writes the summary (light, no torch)
#   all     score, then prune
#
# Exit codes are those of curate: 3 where a gate failed, 6 where CURATE_MAX_TIME is over: score again. Settings are variables:
set -euf
: "${CURATE_SHARDS:?what names the shards: folders, globs, brace patterns, one word each}"
: "${CURATE_TEST:=}"            # test shards of score, the same way
: "${CURATE_RECIPE:=}"          # a recipe
: "${CURATE_SCORE_ARGS:=}"      # further flags of score
: "${CURATE_MAX_TIME:=}"        # score no longer than this, such as 5h
: "${CURATE_SCORES:=scores}"    # where scores are, or go
: "${CURATE_FN:=variation_ratio}"
: "${CURATE_KEEP:=0.8}"
: "${CURATE_PRUNE_ARGS:=}"      # further flags of prune
: "${CURATE_GATES:=}"           # limits; without them nothing is judged
: "${CURATE_BASE:=}"            # the manifest of before; without it churn is skipped
: "${CURATE_EARLIER:=}"         # the scores of before; without them rank agreement is skipped
: "${CURATE_EVALUATION:=}"      # saved accuracies on kept and random samples
: "${CURATE_SOFT:=}"            # anything: failed gates only warn
: "${CURATE_OUT:=curate-out}"   # manifest/, report.html, summary.md, check.json, junit.xml, metrics.prom, diff.json, …

# Words are split at blanks on purpose, and nothing else is done to them (set -f).
key() {
  # Each word on its own: of one that names a file, a run or a folder, the content counts.
  for word in $CURATE_SCORE_ARGS; do set -- "$@" "--with=$word"; done
  # shellcheck disable=SC2086
  curate fingerprint $CURATE_SHARDS ${CURATE_TEST:+--test $CURATE_TEST} ${CURATE_RECIPE:+--recipe "$CURATE_RECIPE"} "$@"
}

score() {
  # Scores of another pool or recipe are not these: curate score refuses to go on with them.
  now=$(key)
  if [ -f "$CURATE_SCORES/summary.json" ] && [ "$(cat "$CURATE_SCORES/key.txt" 2> /dev/null)" = "$now" ]; then
    echo "Scores are in $CURATE_SCORES already." >&2
    return
  fi
  code=0
  # A checkout gives shards new times: --copied.
  # shellcheck disable=SC2086
  curate score $CURATE_SHARDS ${CURATE_TEST:+--test $CURATE_TEST} ${CURATE_RECIPE:+--recipe "$CURATE_RECIPE"} \
    ${CURATE_MAX_TIME:+--max-time $CURATE_MAX_TIME} --copied --out "$CURATE_SCORES" $CURATE_SCORE_ARGS || code=$?
  if [ "$code" = 6 ] && [ -n "${GITHUB_ACTIONS:-}" ]; then
    echo "::warning title=curate score::$CURATE_MAX_TIME were not enough. What is finished is kept: run this job again." >&2
  fi
  if [ "$code" = 0 ]; then echo "$now" > "$CURATE_SCORES/key.txt"; fi
  return "$code"
}

has_gate() { grep -Eq "^[[:space:]]*$1[[:space:]]*=" "$CURATE_GATES"; }

check() {
  set -- "$CURATE_OUT/manifest" --gates "$CURATE_GATES" --scores "$CURATE_SCORES" --md "$CURATE_OUT/check.md" \
    --junit "$CURATE_OUT/junit.xml" --openmetrics "$CURATE_OUT/metrics.prom" --json
  # The first time there is nothing to compare with. The result says that these gates were skipped.
  if [ -n "$CURATE_BASE" ]; then set -- "$@" --base "$CURATE_BASE"
  elif has_gate max_churn; then set -- "$@" --skip max_churn; fi
  if [ -n "$CURATE_EARLIER" ]; then set -- "$@" --earlier "$CURATE_EARLIER"
  elif has_gate min_rank_agreement; then set -- "$@" --skip min_rank_agreement; fi
  if [ -n "$CURATE_EVALUATION" ]; then set -- "$@" --evaluation "$CURATE_EVALUATION"; fi
  if [ -n "$CURATE_SOFT" ]; then set -- "$@" --soft; fi
  if [ -n "${GITHUB_ACTIONS:-}" ]; then set -- "$@" --annotate; fi
  curate check "$@" > "$CURATE_OUT/check.json"
}

prune() {
  code=0
  if [ -n "$CURATE_BASE" ] && [ "$CURATE_BASE" -ef "$CURATE_OUT/manifest" ]; then
    echo "CURATE_BASE is $CURATE_OUT/manifest, which is written anew: keep the manifest of before elsewhere." >&2
    exit 2
  fi
  mkdir -p "$CURATE_OUT"
  # Nothing of an earlier run may be taken for this one's.
  rm -f "$CURATE_OUT"/check.md "$CURATE_OUT"/check.json "$CURATE_OUT"/junit.xml "$CURATE_OUT"/metrics.prom \
    "$CURATE_OUT"/diff.md "$CURATE_OUT"/diff.json "$CURATE_OUT"/changed.tsv "$CURATE_OUT"/summary.md \
    "$CURATE_OUT"/report.html
  # shellcheck disable=SC2086
  curate prune --scores "$CURATE_SCORES" --fn "$CURATE_FN" --keep "$CURATE_KEEP" \
    --out "$CURATE_OUT/manifest" --force $CURATE_PRUNE_ARGS > "$CURATE_OUT/prune.txt"
  if [ -n "$CURATE_GATES" ]; then check || code=$?; fi
  if [ -n "$CURATE_BASE" ]; then
    curate diff "$CURATE_BASE" "$CURATE_OUT/manifest" --md > "$CURATE_OUT/diff.md"
    curate diff "$CURATE_BASE" "$CURATE_OUT/manifest" --json --list "$CURATE_OUT/changed.tsv" > "$CURATE_OUT/diff.json"
  fi
  curate report "$CURATE_OUT/manifest" --scores "$CURATE_SCORES" --out "$CURATE_OUT/report.html" \
    ${CURATE_EVALUATION:+--evaluation "$CURATE_EVALUATION"} > /dev/null
  summary
  return "$code"
}

summary() {
  {
    echo "## curate: keep $CURATE_KEEP by $CURATE_FN"
    echo
    sed 's/^/    /' "$CURATE_OUT/prune.txt"
    for part in check diff; do
      if [ -f "$CURATE_OUT/$part.md" ]; then echo; cat "$CURATE_OUT/$part.md"; fi
    done
  } > "$CURATE_OUT/summary.md"
  rm -f "$CURATE_OUT/prune.txt"
  cat "$CURATE_OUT/summary.md"
  if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$CURATE_OUT/summary.md" >> "$GITHUB_STEP_SUMMARY"; fi
}

case "${1:-}" in
  key | score | prune) "$1" ;;
  all) score; prune ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
