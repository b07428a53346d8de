# The run and build image: a small Debian with a user, certificates and bash, and no /nix.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

rootfs_suite=trixie

part_rootfs() {
  keep rootfs "$(hash_of script/setup.d/rootfs.sh "$architecture")" make_rootfs
  done_what="$rootfs_suite, $(du -m "$kept/rootfs.tar" | cut -f 1) MB"
  # shellcheck disable=SC2016  # jq's variables
  fact rootfs '{rootfs: ($at + "/rootfs"), rootfs_tar: ($at + "/rootfs.tar")}' --arg at "$kept"
}

make_rootfs() {
  local into=$1 root=$1/rootfs
  # Older debootstraps have no script of this suite's name; all that there are is sid's.
  debootstrap --arch="$architecture" --variant=minbase --include=ca-certificates,bash --keyring="$debian_keyring" \
    "$rootfs_suite" "$root" "$(debian_archive)" /usr/share/debootstrap/scripts/sid
  chroot "$root" groupadd --gid 1000 heroku
  chroot "$root" useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash heroku
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/var/log/*
  tar -C "$root" -c --numeric-owner -f "$into/rootfs.tar" .
}
