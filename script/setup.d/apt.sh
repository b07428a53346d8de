# Debian suites beside the machine's own, without touching its apt.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

# The archive that this machine's apt takes Debian from; elsewhere (Ubuntu), debootstrap's own.
debian_archive() {
  local archive=${NIX_HYDRA_DEBIAN_ARCHIVE:-}
  if [[ -z $archive ]]; then
    # shellcheck disable=SC2016  # apt fills these in
    archive=$(apt-get indextargets --format '$(LABEL) $(SITE)' 'Created-By: Packages' |
      sed -n 's/^Debian //p' | head -n 1)
  fi
  if [[ -z $archive ]]; then
    archive=$(sed -n 's/^DEF_MIRROR="\(.*\)"$/\1/p' "$(command -v debootstrap)")
  fi
  [[ -n $archive ]] || fail "no Debian archive is known here: name one in NIX_HYDRA_DEBIAN_ARCHIVE"
  printf '%s\n' "$archive"
}

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# use_suite SUITE: from here on apt-get and apt-cache, run through `in_suite`, see this suite
# alone, for `architecture`: its own sources and lists, and nothing installed. A mirror of sid that
# lags will do: what is made of it is never installed, only tested with.
use_suite() {
  local directory=$cache/apt/$1 archive
  if [[ $architecture != "$(dpkg --print-architecture)" ]]; then
    directory+=-$architecture
  fi
  suite_config=$directory/apt.conf
  if [[ -n $(find "$directory/updated" -mmin -60 2>/dev/null) ]]; then
    return
  fi
  archive=$(debian_archive)
  mkdir -p "$directory"/{lists,archives}/partial
  printf '%s\n' "deb [signed-by=$debian_keyring] $archive $1 main" \
    "deb-src [signed-by=$debian_keyring] $archive $1 main" >"$directory/sources.list"
  cat >"$suite_config" <<CONFIG
Dir::Etc::sourcelist "$directory/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
Dir::State::lists "$directory/lists";
Dir::State::status "/dev/null";
Dir::Cache "$directory";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
APT::Architecture "$architecture";
APT::Architectures "$architecture";
CONFIG
  in_suite apt-get -q update
  touch "$directory/updated"
}

in_suite() {
  APT_CONFIG=$suite_config "$@"
}
