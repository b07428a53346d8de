# What every part uses: one line a step, directories named by their inputs, facts for fixtures.json.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

cache=${NIX_HYDRA_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/nix-hydra-buildpack}

# What is made is for this one of Debian's architectures.
architecture=$(dpkg --print-architecture 2>/dev/null || true)

# End with one line that says what is missing and what to do about it.
fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

# The cache directory, held by one set-up at a time.
open_cache() {
  mkdir -p "$cache"/{facts,logs,roots}
  exec {cache_lock}>"$cache/.lock"
  if ! flock --nonblock "$cache_lock"; then
    echo "setup: waiting for another set-up of $cache to end"
    flock "$cache_lock"
  fi
  # Left by a run that was broken off: nobody else can be at work on them now.
  rm -rf "$cache"/.making.*
}

# step NAME COMMAND...: run the command, its output into a log, and print one line about it.
# The command may set `done_how` (made, reused) and `done_what`.
step() {
  local name=$1 start=$EPOCHREALTIME seconds
  shift
  done_how=reused done_what=
  exec 3>&1 4>&2 >"$cache/logs/$name.log" 2>&1
  trap 'report_failure "'"$name"'"' EXIT
  "$@"
  trap - EXIT
  exec >&3 2>&4 3>&- 4>&-
  seconds=$(awk -v from="$start" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }')
  printf '%-9s %-6s %6s s  %s\n' "$name" "$done_how" "$seconds" "$done_what"
}

# Runs where a step ended the script: its log says why.
report_failure() {
  exec >&3 2>&4
  printf 'setup: the part %s failed; the end of %s:\n' "$1" "$cache/logs/$1.log" >&2
  tail -n 15 "$cache/logs/$1.log" >&2
}

# keep NAME HASH COMMAND...: the directory NAME-HASH of the cache, in `kept`. Where it is not
# there, the command makes its content in the directory it is given last; only whole
# directories ever get the name.
keep() {
  local name=$1 hash=$2 making
  shift 2
  kept=$cache/$name-$hash
  if [[ -d $kept ]]; then
    return
  fi
  making=$(mktemp -d "$cache/.making.XXXXXXXX")
  chmod 755 "$making"
  "$@" "$making"
  mv -T "$making" "$kept"
  done_how=made
}

# hash_of WORD...: a short hash of the words; a word that is a file or directory of the
# repository counts with its content.
hash_of() {
  local word
  for word in "$@"; do
    printf '%s\n' "$word"
    if [[ -e $repository/$word ]]; then
      (cd "$repository" && find "$word" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
    fi
  done | sha256sum | cut -c 1-16
}

# fact PART FILTER [JQ-ARGUMENT...]: what this part adds to fixtures.json.
fact() {
  local part=$1 filter=$2
  shift 2
  jq -n "$filter" "$@" >"$cache/facts/$part.json"
}

write_fixtures_json() {
  jq -s 'reduce .[] as $part ({}; . * $part)' "$cache"/facts/*.json >"$cache/.fixtures.json"
  mv "$cache/.fixtures.json" "$cache/fixtures.json"
  printf '%s\n' "$cache/fixtures.json"
}
