# A static PRoot from Debian's source package, without Debian's patches. It is what the buildpack is
# packaged with, so its licence and the origin of its source are beside it.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

part_proot() {
  keep proot "$(hash_of script/setup.d/proot.sh "$architecture")" make_proot
  ln -sfn "$kept" "$cache/proot"
  done_what="$(<"$kept/version"), $(du -k "$kept/proot" | cut -f 1) kB"
  # shellcheck disable=SC2016  # jq's variables
  fact proot '{proot: $proot, proot_sha256: $sha256, proot_version: $version}' \
    --arg proot "$kept/proot" --arg version "$(<"$kept/version")" \
    --arg sha256 "$(sha256sum "$kept/proot" | cut -d ' ' -f 1)"
}

make_proot() {
  local into=$1 source=$1/source part archive how=unchanged prefix='' directory=''
  use_suite sid
  mkdir "$source"
  # apt checks the archive itself against its signed index, so the .dsc is not needed.
  (cd "$source" && in_suite apt-get -q source --download-only --tar-only proot)
  # Debian's patches switch PRoot's seccomp filter off, without which it is many times slower;
  # only the one that makes it build on arm64 is wanted.
  (cd "$source" && in_suite apt-get -q source --download-only --diff-only proot)
  tar -C "$source" --strip-components=1 -xf "$source"/proot_*.orig.tar.*
  tar -C "$source" -xf "$source"/proot_*.debian.tar.*
  archive=$(echo "$source"/proot_*.orig.tar.*)
  part=$(cd "$source" && echo proot_*.orig.tar.*)
  part=${part#proot_}
  printf '%s\n' "${part%.orig.tar.*}" >"$into/version"
  if [[ $architecture == arm64 ]]; then
    patch -d "$source" -p1 <"$source/debian/patches/arm64.patch"
    how="with Debian's arm64.patch"
  fi
  if [[ $architecture != "$(dpkg --print-architecture)" ]]; then
    prefix=aarch64-linux-gnu-
    directory=$source/talloc
    add_talloc "$directory"
  fi
  CPATH=${directory:+$directory/usr/include} make -C "$source/src" proot CROSS_COMPILE="$prefix" \
    LDFLAGS="-static ${directory:+-L$(echo "$directory"/usr/lib/*-linux-gnu)} -ltalloc"
  "${prefix}strip" -o "$into/proot" "$source/src/proot"
  cp "$source/COPYING" "$into/COPYING"
  cat >"$into/SOURCE" <<END
PRoot $(<"$into/version"), https://github.com/proot-me/proot, built $how from the archive
${archive##*/} of Debian's source package \`proot\`,
SHA-256 $(sha256sum "$archive" | cut -d ' ' -f 1):

  make -C src proot LDFLAGS="-static -ltalloc"

It is under the GNU General Public License, version 2 or later: see COPYING. Linked into it are glibc
(LGPL-2.1 or later) and talloc (LGPL-3 or later), both from Debian's packages.
END
  "$into/proot" --version | grep 'seccomp_filter = yes'
  rm -rf "$source"
}

# add_talloc DIRECTORY: the library for another architecture than this machine's, from its packages.
add_talloc() {
  local package
  mkdir "$1"
  use_suite bookworm
  (cd "$1" && in_suite apt-get -q download libtalloc-dev libtalloc2)
  for package in "$1"/*.deb; do
    dpkg-deb -x "$package" "$1"
  done
}
