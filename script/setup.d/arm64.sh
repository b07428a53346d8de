# The same for arm64 on a machine of another architecture, whose kernel runs arm64's programs by qemu: a root
# file system, PRoot, the sample Python app in a binary cache, Nix, and a kernel.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

part_arm64() {
  local architecture=arm64 rootfs proot app nix archive system
  check_emulation
  keep rootfs "$(hash_of script/setup.d/rootfs.sh arm64)" make_rootfs
  rootfs=$kept
  keep proot "$(hash_of script/setup.d/proot.sh arm64)" make_proot
  proot=$kept
  package_set small
  set_directory=$kept
  make_key
  keep app-arm64 "$(hash_of fixtures/apps/python "$set_directory" "$(nix_system)")" make_arm64_app
  app=$kept
  keep cache-arm64 "$(hash_of "$app" "$(<"$cache/key/public")")" fill_arm64_cache "$(<"$app/output")"
  binary_cache=$kept
  package_set nix
  set_directory=$kept
  keep nix "$(hash_of "$set_directory" script/setup.d/nix.sh)" make_nix
  nix=$(<"$kept/path")
  archive=$kept/nix-${nix##*-nix-}-$(nix_system).tar.xz
  keep system-arm64 "$(hash_of script/setup.d/arm64.sh)" make_system
  system=$kept
  done_what="PRoot $(<"$proot/version"), Nix ${nix##*-nix-}, $(find "$binary_cache" -name '*.narinfo' | wc -l) store paths, Linux $(<"$system/version")"
  # shellcheck disable=SC2016  # jq's variables
  fact arm64 '{arm64: {rootfs: $rootfs, proot: $proot, cache: $cache, app: $app, store_path: $path,
      nix_archive: $archive, nix_archive_sha256: $sha256, system: $system}}' \
    --arg rootfs "$rootfs/rootfs" --arg proot "$proot" --arg cache "$binary_cache" --arg app "$app/python" \
    --arg path "$(<"$app/output")" --arg archive "$archive" --arg sha256 "$(<"$archive.sha256")" --arg system "$system"
}

check_emulation() {
  command -v aarch64-linux-gnu-gcc >/dev/null || fail "a compiler for arm64 is missing: run script/test-arm64"
  [[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || fail "this kernel runs no programs for arm64: run script/test-arm64"
}

# As Hydra would build it for arm64. The builders are programs of this machine; that those of the app are for
# arm64 is in the lock alone.
make_arm64_app() {
  local into=$1
  assemble python "$into"
  add_debs "$set_directory"
  NIX_CONFIG+="
system = $(nix_system)
" build_app "$(nix-store --add-fixed --recursive sha256 "$into/hydra/source")" "$cache/roots/app-arm64"
  readlink "$cache/roots/app-arm64" >"$into/output"
}

# fill_arm64_cache STORE-PATH DIRECTORY
fill_arm64_cache() {
  nix copy --to "file://$2?secret-key=$cache/key/secret&compression=zstd" "$1"
}

# A kernel, and a static busybox to start a system with.
make_system() {
  local into=$1 work=$1/work package
  mkdir "$work"
  use_suite bookworm
  package=$(in_suite apt-cache depends linux-image-cloud-arm64 | sed -n 's/ *Depends: //p' | head -n 1)
  (cd "$work" && in_suite apt-get -q download "$package" busybox-static)
  for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$work/unpacked"
  done
  cp "$work"/unpacked/boot/vmlinuz-* "$into/vmlinuz"
  cp "$work/unpacked/bin/busybox" "$into/busybox"
  (cd "$work/unpacked/boot" && echo vmlinuz-*) | sed 's/^vmlinuz-//' >"$into/version"
  rm -rf "$work"
}
