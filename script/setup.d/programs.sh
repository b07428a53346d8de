# Programs of many kinds, which tests and benches run from a closure in every way there is.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

programs_recipes=fixtures/debian/programs

part_programs() {
  local root
  package_set programs "$programs_recipes/packages.json"
  set_directory=$kept
  make_key
  keep programs "$(hash_of "$set_directory" "$programs_recipes/default.nix")" build_programs
  root=$(<"$kept/root")
  keep programs-cache "$(hash_of "$root" "$(<"$cache/key/public")")" fill_programs_cache "$root"
  done_what="$(find "$kept" -name '*.narinfo' | wc -l) store paths"
  # shellcheck disable=SC2016  # jq's variables
  fact programs '{programs: {store_path: $root, cache: $cache}}' --arg root "$root" --arg cache "$kept"
}

build_programs() {
  add_debs "$set_directory"
  nix-build "$repository/$programs_recipes" --arg set "$set_directory" -A programs -o "$cache/roots/programs" \
    >"$1/root"
}

# fill_programs_cache STORE-PATH DIRECTORY
fill_programs_cache() {
  is_valid "$1" || fail "$1 is no longer in this machine's store: remove $cache/programs-* and run again"
  nix copy --to "file://$2?secret-key=$cache/key/secret&compression=zstd" "$1"
}
