# A browser, which the picture of a closure is looked at in.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

# Programs of the Chromium family, as tests/it/picture.rs knows them.
browsers=(chromium-headless-shell chromium chromium-browser google-chrome chrome-headless-shell)

part_browser() {
  local browser
  for browser in "${browsers[@]}"; do
    if command -v "$browser" >/dev/null; then
      done_what=$browser
      return
    fi
  done
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update
  # Ubuntu's is a snap, which not every machine can install: there the test is left out.
  if ! apt-cache show chromium-headless-shell >/dev/null 2>&1; then
    done_what="apt has none: its test is left out"
    return
  fi
  apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=300 chromium-headless-shell
  done_how=made
  done_what="chromium-headless-shell"
}
