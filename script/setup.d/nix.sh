# A newer Nix in the store, and the stand-in for its release archive, in the real one's layout.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

part_nix() {
  local version path archive
  package_set nix
  set_directory=$kept
  keep nix "$(hash_of "$set_directory" script/setup.d/nix.sh)" make_nix
  path=$(<"$kept/path")
  version=${path##*-nix-}
  archive=$kept/nix-$version-$(nix_system).tar.xz
  is_valid "$path" || load_archive "$archive"
  done_what="$version, $(du -m "$archive" | cut -f 1) MB"
  # shellcheck disable=SC2016  # jq's variables
  fact nix '{nix: $nix, nix_version: $version, nix_archive: $archive, nix_archive_sha256: $sha256}' \
    --arg nix "$path" --arg version "$version" --arg archive "$archive" --arg sha256 "$(<"$archive.sha256")"
}

nix_system() {
  case $architecture in
    amd64) echo x86_64-linux ;;
    arm64) echo aarch64-linux ;;
  esac
}

make_nix() {
  local into=$1 path paths name
  add_debs "$set_directory"
  path=$(nix-build "$set_directory" -A nix -o "$cache/roots/nix-$architecture")
  mapfile -t paths < <(nix-store -qR "$path")
  name=nix-${path##*-nix-}-$(nix_system)
  printf '%s\n' "$path" >"$into/path"
  mkdir -p "$into/$name/store"
  cp -a "${paths[@]}" "$into/$name/store"
  # As the release has it: no derivers, which nobody who unpacks it has.
  nix-store --dump-db "${paths[@]}" | sed '/\.drv$/s/.*//' >"$into/$name/.reginfo"
  cat >"$into/$name/install" <<INSTALL
#!/bin/sh
# A stand-in for the installer of the release: its paths are loaded into the real store.
set -e
nix=$path
cd "\$(dirname "\$0")"
mkdir -p /nix/store
cp -RPpn store/* /nix/store/
"\$nix/bin/nix-store" --load-db <.reginfo
INSTALL
  chmod +x "$into/$name/install"
  tar -C "$into" -c --sort=name --mtime=@1 --numeric-owner --owner=0 --group=0 "$name" | xz -1 -T0 >"$into/$name.tar.xz"
  sha256sum "$into/$name.tar.xz" | cut -d ' ' -f 1 >"$into/$name.tar.xz.sha256"
  chmod -R u+w "$into/$name"
  rm -rf "${into:?}/$name"
}

# The cache directory may outlive the machine's store.
load_archive() {
  local directory
  directory=$(mktemp -d "$cache/.making.XXXXXXXX")
  tar -C "$directory" --strip-components=1 -xf "$1"
  "$directory/install"
  chmod -R u+w "$directory"
  rm -rf "$directory"
}
