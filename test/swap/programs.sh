#!/usr/bin/env bash
# Copyright The weir Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Builds programs, of the very modules that weir is built of, into a directory:
#
#   test/swap/programs.sh DIRECTORY PROGRAM...
#
# A PROGRAM is weir, etcd, kubectl, kube-apiserver, kube-controller-manager or kube-scheduler. weir is put into
# DIRECTORY/weir as weir and as kube-apiserver, which it is by that name. What is there is not built again, but for weir; WEIR is the
# path of one that has been built.
#
# Needs Go and a Go module proxy: some of their modules are not weir's. go.mod stays as it is, a copy gets them. On 2 cores and
# with an empty build cache that takes a quarter of an hour.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root

mkdir -p "$1/weir"
to=$(cd "$1" && pwd)
readonly to
shift
cd "$root"
export GOWORK=off # -modfile needs it so
readonly modfile=$to/go.mod
cp go.mod "$modfile"
cp go.sum "$to/go.sum"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
readonly version
minor=${version#v*.}
minor=${minor%%.*}
# As upstream's release build does it; weir finds its version out by itself.
readonly base=k8s.io/component-base/version
readonly stamp="-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$minor"

for program in "$@"; do
  case $program in
    weir)
      if [[ -n ${WEIR:-} ]]; then
        cp "$WEIR" "$to/weir/weir.new"
        mv "$to/weir/weir.new" "$to/weir/weir"
      else
        go build -ldflags '-s -w' -o "$to/weir/weir" ./cmd/weir
      fi
      ln -sf weir "$to/weir/kube-apiserver"
      continue
      ;;
    etcd) package=go.etcd.io/etcd/server/v3 ;;
    *) package=k8s.io/kubernetes/cmd/$program ;;
  esac
  if [[ ! -x $to/$program ]]; then
    echo "building $program" >&2
    go build -modfile="$modfile" -mod=mod -ldflags "$stamp" -o "$to/$program" "$package"
  fi
done
