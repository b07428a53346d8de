# Docker's engine, for the tests that run images in real containers. Who needs it starts it.
# shellcheck shell=bash disable=SC2034,SC2154  # names shared between the parts

part_docker() {
  if command -v docker >/dev/null && command -v dockerd >/dev/null; then
    done_what=$(dockerd --version)
    return
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update
  # The package starts the engine; where there is no service manager it must not try to.
  apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=300 docker.io iptables
  done_how=made
  done_what=$(dockerd --version)
}
