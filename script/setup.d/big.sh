# What the bench downloads: a big closure in binary caches of several compressions. Not made by default.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

big_recipes=fixtures/debian/big
# Nix's own level for xz, which is liblzma's default: a cache that Nix fills looks like this one.
xz_options=(-T1 -6)
# As Hydra's `pixz -0`: many blocks, whose headers tell their sizes to whoever decodes side by side.
pixz_options=(-T2 -0 --block-size=524288)

part_big() {
  local fact key built root large none zstd xz pixz huge
  for fact in closures app-python; do
    [[ -f $cache/facts/$fact.json ]] || fail "the small closure is missing: run script/setup without arguments first"
  done
  package_set big "$big_recipes/packages.json"
  set_directory=$kept
  make_key
  key=$(<"$cache/key/public")
  keep big "$(hash_of "$set_directory" "$big_recipes/default.nix" "$big_recipes/unpack-and-name.py")" build_big
  built=$kept root=$(<"$kept/big") large=$(<"$kept/large")
  keep big-none "$(hash_of "$root" "$key")" copy_big none "$root"
  none=$kept
  keep big-zstd "$(hash_of "$root" "$key")" copy_big zstd "$root"
  zstd=$kept
  keep big-xz "$(hash_of "$root" "$key" "${xz_options[@]}" "$big_recipes/recompress.py")" \
    recompress "$none" "${xz_options[@]}"
  xz=$kept
  keep big-pixz "$(hash_of "$large" "$key" "${pixz_options[@]}" "$big_recipes/recompress.py")" \
    copy_pixz "$large"
  pixz=$kept
  keep big-huge "$(hash_of "$key" huge)" copy_huge
  huge=$kept
  done_what="$(jq -r '"\(.paths) store paths, \(.nar_bytes / 1000000 | floor) MB, \(.files) files"' "$built/size.json")"
  # shellcheck disable=SC2016  # jq's variables
  jq '. + {
    root: $root, caches: {zstd: $zstd, none: $none, xz: $xz, pixz: $pixz, huge: $huge}, pixz_root: $large, huge_root: $huge_root, public_key: $key,
    small: {root: $app[0].apps.python.store_path, cache: $closures[0].cache}
  }' "$built/size.json" --arg root "$root" --arg large "$large" --arg key "$key" \
    --arg none "$none" --arg zstd "$zstd" --arg xz "$xz" --arg pixz "$pixz" \
    --arg huge "$huge" --arg huge_root "$(<"$huge/root")" \
    --slurpfile app "$cache/facts/app-python.json" --slurpfile closures "$cache/facts/closures.json" \
    >"$cache/.big.json"
  mv "$cache/.big.json" "$cache/big.json"
}

# Both store paths, and how big the closure of the first is.
build_big() {
  local into=$1 name paths sizes
  add_debs "$set_directory"
  for name in big large; do
    nix-build "$repository/$big_recipes" --arg set "$set_directory" -A "$name" -o "$cache/roots/$name" >"$into/$name"
  done
  mapfile -t paths < <(nix-store -qR "$(<"$into/big")")
  mapfile -t sizes < <(nix-store -q --size "${paths[@]}")
  jq -n '{paths: $paths, nar_bytes: ($ARGS.positional | map(tonumber) | add), files: $files}' \
    --argjson paths "${#paths[@]}" --argjson files "$(find "${paths[@]}" -type f | wc -l)" \
    --args "${sizes[@]}" >"$into/size.json"
}

# copy_big COMPRESSION STORE-PATH DIRECTORY: its closure as a signed binary cache.
copy_big() {
  is_valid "$2" || fail "$2 is no longer in this machine's store: remove $cache/big-* and run again"
  nix copy --to "file://$3?secret-key=$cache/key/secret&compression=$1" "$2"
}

# recompress CACHE XZ-OPTION... DIRECTORY
recompress() {
  python3 "$repository/$big_recipes/recompress.py" "${@: -1}" "${@:1:$#-1}"
}

copy_pixz() {
  local none=$2/none
  copy_big none "$1" "$none"
  recompress "$none" "${pixz_options[@]}" "$2"
  rm -r "$none"
  # The decoder that works side by side needs the sizes in the headers.
  xz --list -vv "$2"/nar/*.xz | grep 'Sizes in headers: *Yes'
}

# One file of 2 GiB, which must not need more memory than many small ones.
copy_huge() {
  local path
  # seq ends by the broken pipe.
  { seq 1 250000000 || true; } | head -c 2147483648 >"$1/huge"
  path=$(nix-store --add "$1/huge")
  rm "$1/huge"
  copy_big zstd "$path" "$1"
  printf '%s\n' "$path" >"$1/root"
  nix-store --delete "$path"
}
