# What the machine must have: checked first, so that nothing stops half-way.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

# Command that shows that a package is there, and the package.
tools=(
  nix-store:nix-bin patchelf:patchelf debootstrap:debootstrap git:git jq:jq xz:xz-utils zstd:zstd
  bwrap:bubblewrap gcc:gcc make:make strip:binutils python3:python3 dpkg-deb:dpkg flock:util-linux
  shellcheck:shellcheck
)
# Packages that have no command of their own.
libraries=(libc6-dev libtalloc-dev libarchive-dev debian-archive-keyring ca-certificates)

check_machine() {
  [[ $(uname -s) == Linux ]] || fail "this is not Linux: run it in a Debian or Ubuntu machine or VM"
  command -v apt-get >/dev/null || fail "apt-get is missing: run it on Debian or Ubuntu"
  ((EUID == 0)) || fail "root is missing (chroots and a real /nix/store are made): run it with sudo"
  case $(dpkg --print-architecture) in
    amd64 | arm64) ;;
    *) fail "no fixtures for $(dpkg --print-architecture): run it on amd64 or arm64" ;;
  esac
  command -v flock >/dev/null || fail "flock is missing: apt-get install util-linux"
}

install_packages() {
  local entry missing=()
  for entry in "${tools[@]}"; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
  done
  # The builders of the package set name it by this path.
  [[ -x /usr/bin/python3 ]] || missing+=(python3)
  for entry in "${libraries[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$entry" 2>/dev/null | grep -qx installed || missing+=("$entry")
  done
  if ((${#missing[@]} == 0)); then
    done_what="${#tools[@]} tools"
    return
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update
  apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
  done_how=made
  done_what="installed ${missing[*]}"
}
