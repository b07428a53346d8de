# A package set: the recipes of fixtures/debian with a lock of what apt has, and its .debs in the store.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

# Real Nix as the builder: alone on its store, asking nobody, as root without build users.
export NIX_CONFIG="
sandbox = false
build-users-group =
substituters =
experimental-features = nix-command flakes
max-jobs = auto
"
export NIX_USER_CONF_FILES=/dev/null

# package_set SET [RULES]: the directory of a set (small, nix), in `kept`: what an app carries as
# `nix/`. The lock is kept apart, so that a change of the recipes does not change the versions too.
package_set() {
  local recipes=fixtures/debian lock
  local rules=${2:-$recipes/packages.json}
  keep "lock-$1" "$(hash_of "$1" "$rules" "$recipes/lock.py" "$architecture")" \
    make_lock "$1" "$repository/$rules"
  lock=$kept/lock.json
  keep "set-$1" "$(hash_of "$lock" "$recipes"/{default,build,deb,roots}.nix "$recipes"/{unpack,join}.py)" \
    assemble_set "$lock"
}

# make_lock SET RULES DIRECTORY: what apt has now, with the .debs, while it has them.
make_lock() {
  local set=$1 rules=$2 into=$3 recipes=$repository/fixtures/debian
  use_suite "$(jq -r --arg set "$set" '.sets[$set].suite' "$rules")"
  in_suite python3 "$recipes/lock.py" make "$rules" "$set" >"$into/lock.json"
  mkdir -p "$cache/debs"
  in_suite python3 "$recipes/lock.py" fetch "$into/lock.json" "$cache/debs"
}

# assemble_set LOCK DIRECTORY
assemble_set() {
  cp "$repository"/fixtures/debian/*.nix "$repository"/fixtures/debian/{unpack,join}.py "$1" "$2"
}

# add_debs SET-DIRECTORY: put the .debs where the lock's fixed-output derivations expect them.
add_debs() {
  python3 "$repository/fixtures/debian/lock.py" files "$1/lock.json" |
    (cd "$cache/debs" && xargs nix-store --add-fixed sha256) >/dev/null
}

is_valid() {
  nix-store --check-validity "$1" 2>/dev/null
}
