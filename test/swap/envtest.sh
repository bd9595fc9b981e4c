#!/usr/bin/env bash
# Copyright The weir Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Runs controller-runtime's own suites that use envtest, first with kube-apiserver and then with weir in its place, and fails
# where a suite does not do with weir what it does with kube-apiserver.
#
#   test/swap/envtest.sh                                  or: make swap-envtest
#   SERVERS=weir PACKAGES='pkg/cache pkg/envtest' test/swap/envtest.sh
#
# Needs Go, setsid and pkill, a Go module proxy, 2 GB of memory and as much in the directory WORK, which is made and taken away if it is not given, and
# otherwise kept, with the programs and the suites in it. No root, no container.
#
# Half of pkg/client/apiutil's tests download an old kube-apiserver by themselves, from GitHub. Where that cannot be, they fail with
# either server.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly runtime=sigs.k8s.io/controller-runtime@v0.25.2
readonly servers=${SERVERS:-kube-apiserver weir}

if [[ -n ${WORK:-} ]]; then
  mkdir -p "$WORK"
  work=$(cd "$WORK" && pwd)
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
readonly work bin=$work/bin

# shellcheck disable=SC2086 # a list
"$here/programs.sh" "$bin" etcd kubectl $servers

# The module's directory is read-only, and its suites write beside their sources.
if [[ ! -d $work/controller-runtime ]]; then
  from=$(cd "$work" && go mod download -json "$runtime" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  cp -r "$from" "$work/controller-runtime.new"
  chmod -R u+w "$work/controller-runtime.new"
  mv "$work/controller-runtime.new" "$work/controller-runtime"
fi
cd "$work/controller-runtime"
packages=${PACKAGES:-$(grep -rlE 'envtest"|^package envtest' --include='*_test.go' pkg | xargs -n1 dirname | sort -u)}
readonly packages
for package in $packages; do
  suite=$work/suites/${package//\//_}.test
  if [[ ! -x $suite ]]; then
    echo "building the suite of $package" >&2
    go test -c -ldflags '-s -w' -o "$suite" "./$package"
  fi
done

# envtest gives a server 20 s to answer; SLOW is for machines that take longer.
export KUBEBUILDER_CONTROLPLANE_START_TIMEOUT=${SLOW:-60s} KUBEBUILDER_CONTROLPLANE_STOP_TIMEOUT=${SLOW:-60s}
export KUBEBUILDER_ASSETS=$bin TEST_ASSET_ETCD=$bin/etcd TEST_ASSET_KUBECTL=$bin/kubectl
# A suite has a session of its own, which is noted in a file.
# shellcheck disable=SC2016 # it is expanded where it runs
readonly run='echo $$ >"$0" && exec "$1" -test.v -test.timeout 30m'
for server in $servers; do
  TEST_ASSET_KUBE_APISERVER=$bin/$server
  [[ $server == weir ]] && TEST_ASSET_KUBE_APISERVER=$bin/weir/kube-apiserver
  export TEST_ASSET_KUBE_APISERVER
  mkdir -p "$work/results/$server"
  for package in $packages; do
    name=${package//\//_}
    log=$work/results/$server/$name.log
    begun=$SECONDS
    result=ok
    (cd "$package" && exec setsid --wait bash -c "$run" "$work/suite.sid" "$work/suites/$name.test") >"$log" 2>&1 || result=FAILED
    # Some suites leave servers running: what is of the suite's session ends with it.
    pkill -s "$(<"$work/suite.sid")" || true
    # Go's count, and Ginkgo's own, where the package has specs.
    counted="$(grep -c '^ *--- PASS' "$log" || true) tests passed, $(grep -c '^ *--- FAIL' "$log" || true) failed"
    specs=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | sed -n 's/^.*-- \([0-9]* Passed | .*\)$/\1/p' | tail -1)
    printf '%-16s %-38s %s, %d s: %s; specs: %s\n' "$server" "$package" "$result" $((SECONDS - begun)) "$counted" "${specs:-none}"
    printf '%s, %s; specs: %s\n' "$result" "$counted" "${specs:-none}" >"$work/results/$server/$name.result"
  done
done

failed=0
for package in $packages; do
  name=${package//\//_}
  weir=$work/results/weir/$name.result
  stock=$work/results/kube-apiserver/$name.result
  if [[ $servers == *weir* && $servers == *kube-apiserver* ]] && ! cmp -s "$stock" "$weir"; then
    printf '%s: with kube-apiserver: %s; with weir: %s\n' "$package" "$(<"$stock")" "$(<"$weir")" >&2
    sed 's/\x1b\[[0-9;]*m//g' "$work/results/weir/$name.log" | grep -E '\[FAIL\]|--- FAIL' >&2 || true
    failed=1
  fi
done
exit $failed
