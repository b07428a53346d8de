# The sample apps, built as Hydra builds them, and the signed binary cache that holds them.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

apps=(python static flake hydra-job relocate)

part_closures() {
  local app
  declare -gA app_dir app_path app_source
  package_set small
  set_directory=$kept
  make_key
  for app in "${apps[@]}"; do
    make_app "$app"
  done
  keep cache "$(hash_of "${app_path[@]}" "$(<"$cache/key/public")")" fill_cache
  binary_cache=$kept
  for app in "${apps[@]}"; do
    # The cache directory may outlive the machine's store.
    is_valid "${app_path[$app]}" || nix copy --from "file://$binary_cache" --no-check-sigs "${app_path[$app]}"
    # shellcheck disable=SC2016  # jq's variables
    fact "app-$app" '{apps: {($app): {dir: $dir, store_path: $path, source: $source}}}' --arg app "$app" \
      --arg dir "${app_dir[$app]}" --arg path "${app_path[$app]}" --arg source "${app_source[$app]}"
  done
  done_what="${#apps[@]} apps, $(find "$binary_cache" -name '*.narinfo' | wc -l) store paths in the cache"
  # shellcheck disable=SC2016  # jq's variables
  fact closures '{cache: $cache, public_key: $public, secret_key_file: $secret}' --arg cache "$binary_cache" \
    --arg public "$(<"$cache/key/public")" --arg secret "$cache/key/secret"
}

make_key() {
  if [[ ! -f $cache/key/public ]]; then
    mkdir -p "$cache/key"
    (umask 077 && nix key generate-secret --key-name fixtures-1 >"$cache/key/secret")
    nix key convert-secret-to-public <"$cache/key/secret" >"$cache/key/public"
  fi
}

# One app: its directory with the package set in it, its source as Hydra has it, its output.
make_app() {
  local app=$1
  keep "app-$app" "$(hash_of "fixtures/apps/$app" "$set_directory")" assemble "$app"
  app_dir[$app]=$kept/$app
  app_source[$app]=$(nix-store --add-fixed --recursive sha256 "$kept/hydra/source")
  if [[ ! -f $kept/output ]]; then
    add_debs "$set_directory"
    build_app "${app_source[$app]}" "$cache/roots/app-$app"
    readlink "$cache/roots/app-$app" >"$kept/.output"
    mv "$kept/.output" "$kept/output"
  fi
  app_path[$app]=$(<"$kept/output")
}

# The app as its developer has it, and what Hydra makes of that: a checkout named `source`.
assemble() {
  local app=$1 into=$2
  local git=(git -c user.name=fixtures -c user.email=fixtures@localhost -c core.autocrlf=false)
  export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
  cp -r "$repository/fixtures/apps/$app" "$into/$app"
  cp -r "$set_directory" "$into/$app/nix"
  cp -r "$into/$app" "$into/repository"
  "${git[@]}" -C "$into/repository" init -q
  "${git[@]}" -C "$into/repository" add --all --force
  "${git[@]}" -C "$into/repository" commit -q -m "$app"
  mkdir "$into/hydra"
  "${git[@]}" clone -q "$into/repository" "$into/hydra/source"
  rm -rf "$into/hydra/source/.git" "$into/repository"
}

# build_app SOURCE LINK: build what Hydra would be told to evaluate.
build_app() {
  local file
  if [[ -f $1/flake.nix ]]; then
    nix build "path:$1" --out-link "$2"
    return
  fi
  if [[ -f $1/release.nix ]]; then
    nix-build "$1/release.nix" --arg my-project "$1" -o "$2"
    return
  fi
  for file in deploy shell default; do
    if [[ -f $1/$file.nix ]]; then
      nix-build "$1/$file.nix" -o "$2"
      return
    fi
  done
  fail "no expression in $1"
}

fill_cache() {
  nix copy --to "file://$1?secret-key=$cache/key/secret&compression=zstd" "${app_path[@]}"
}
