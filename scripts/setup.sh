#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu lacks: a C++20 compiler, CMake, four header-only libraries and zlib. Safe to repeat.
set -euo pipefail
packages=()
need() { dpkg -s "$1" >/dev/null 2>&1 || packages+=("$1"); }
command -v c++ >/dev/null || packages+=(g++)
command -v cmake >/dev/null || packages+=(cmake)
command -v make >/dev/null || command -v ninja >/dev/null || packages+=(make)
need libeigen3-dev        # CPU matrix products
need nlohmann-json3-dev   # config.json, tokenizer.json
need libcli11-dev         # the command line
need doctest-dev          # the tests
need zlib1g-dev           # text that is packed with gzip
if [ ${#packages[@]} -eq 0 ]; then
  echo "setup: everything is installed"
  exit 0
fi
echo "setup: installing ${packages[*]}"
sudo=""
if [ "$(id -u)" -ne 0 ]; then sudo=sudo; fi
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
