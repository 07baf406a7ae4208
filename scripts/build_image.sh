#!/usr/bin/env bash
# Build a container image where there is no Docker engine and no image can be pulled: with Debian's buildah and podman, on a
# base that mmdebstrap makes. Needs root, and: apt install buildah podman runc mmdebstrap ca-certificates
#
#     scripts/build_image.sh                                 the image localhost/vidette:cpu
#     scripts/build_image.sh [--target cuda] [BUILDAH'S OPTIONS]
#     scripts/build_image.sh --run [PODMAN'S OPTIONS]        the service from localhost/vidette:cpu, until Ctrl-C
#
# What is named here is taken from the environment:
#   BASE          an image to build on, instead of one that is made from the Debian of this machine
#   STORAGE       folder of the images (.cache/container)
#   DRIVER        overlay, or vfs where overlay cannot be mounted (overlay where it can)
#   PIP_CONFIG_FILE    pip's configuration for the build (pip's own where there is one); it ends in no layer
# Everything is written below STORAGE; remove it with: scripts/build_image.sh --clean
set -euo pipefail
cd "$(dirname "$0")/.."

storage=${STORAGE:-$PWD/.cache/container}
export CONTAINERS_STORAGE_CONF=$storage/storage.conf
run=(podman --runtime runc --cgroup-manager cgroupfs run --rm --ulimit nofile=1024:1024 --ulimit nproc=1000:1000)

need() {
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { echo "build_image: $tool is not installed (on Debian: apt install $tool)" >&2; exit 1; }
  done
  [ "$(id -u)" = 0 ] || { echo "build_image: only root can make a base and mount layers" >&2; exit 1; }
}

configure() { # DRIVER
  mkdir -p "$storage/tmp"
  printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' "$1" "$storage/images" "$storage/run" >"$storage/storage.conf"
}

prepare() {
  [ -f "$storage/storage.conf" ] && return
  configure "${DRIVER:-overlay}"
  if [ -z "${DRIVER:-}" ] && ! podman info >/dev/null 2>&1; then
    rm -rf "$storage"
    configure vfs
  fi
}

make_base() { # NAME; Debian with Python, as this machine's apt gets it
  podman image exists "$1" && return
  local file options=() sources=()
  . /etc/os-release
  for file in /etc/apt/apt.conf.d/99*; do [ -f "$file" ] && options+=("--aptopt=$file"); done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list "/etc/apt/sources.list.d/$ID.sources"; do
    [ -s "$file" ] && sources+=("$file")
  done
  mmdebstrap --quiet --variant=apt --mode=root --include=ca-certificates,python3,python3-venv "${options[@]}" \
    "$VERSION_CODENAME" - "${sources[@]}" | podman import --quiet - "$1"
}

build() {
  need buildah podman runc mmdebstrap
  prepare
  local target=cpu file options=() base=${BASE:-localhost/vidette-base:1}
  if [ "${1:-}" = --target ]; then
    target=${2:?build_image: --target needs a name}
    shift 2
  fi
  [ -n "${BASE:-}" ] || make_base "$base"
  for file in "${PIP_CONFIG_FILE:-}" "$HOME/.config/pip/pip.conf" /etc/pip.conf; do
    [ -f "$file" ] && { options+=(--secret "id=pip,src=$file"); break; }
  done
  # The certificates of this machine, while it builds: a proxy between it and the package index may have its own.
  # TMPDIR is where buildah keeps what pip downloaded, for the next time.
  TMPDIR=$storage/tmp buildah bud --isolation chroot --format docker --layers=false --volume /etc/ssl/certs:/etc/ssl/certs:ro "${options[@]}" \
    --build-arg "BASE=$base" --target "$target" --tag "localhost/vidette:$target" "$@" .
  echo "built localhost/vidette:$target in $SECONDS s: $(megabytes "localhost/vidette:$target"), of which $(megabytes "$base") are its base"
}

megabytes() { # IMAGE
  podman image inspect --format '{{.Size}}' "$1" | awk '{printf "%.0f MB", $1 / 1e6}'
}

case ${1:-} in
  --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" ;;
  --clean) need podman; [ ! -f "$storage/storage.conf" ] || podman rm --all --force >/dev/null; rm -rf "$storage" ;;
  --run)
    shift
    need podman runc
    exec "${run[@]}" --network host --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
      --volume vidette-data:/data --env VIDETTE_SERVER__HOST=127.0.0.1 "$@" localhost/vidette:cpu
    ;;
  *) build "$@" ;;
esac
