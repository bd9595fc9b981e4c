#!/usr/bin/env bash
# Copyright The weir Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Has kwokctl, in its binary runtime, make a cluster with weir as its kube-apiserver, with kube-controller-manager and
# kube-scheduler of the same Kubernetes and 200 nodes that kwok plays. A Deployment of 500 Pods becomes ready, is scaled up and down,
# one of its nodes is drained, and it is deleted. Fails at the first step that does not come to its end.
#
#   test/swap/kwok.sh                                     or: make swap-kwok
#   SERVERS='kube-apiserver weir' NODES=20 PODS=50 test/swap/kwok.sh
#
# Needs Go, a Go module proxy, 3 GB of memory and as much in the directory WORK, which is made and taken away if it is not given, and
# otherwise kept, with the programs in it. kwokctl downloads nothing: it is given every program. No root, no container.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly kwok=sigs.k8s.io/kwok/cmd version=v0.8.0
readonly servers=${SERVERS:-weir} nodes=${NODES:-200} pods=${PODS:-500} patience=${PATIENCE:-10m}

given=${WORK:-}
if [[ -n $given ]]; then
  mkdir -p "$given"
  work=$(cd "$given" && pwd)
else
  work=$(mktemp -d)
fi
readonly given work bin=$work/bin name=weir-swap
# kwokctl keeps clusters and its cache here, and takes settings from the environment.
export KWOK_WORKDIR=$work/kwok KUBECONFIG=$work/kubeconfig PATH=$bin:$PATH

end() {
  if [[ -d $KWOK_WORKDIR/clusters/$name ]]; then
    kwokctl delete cluster --name "$name" --kubeconfig "$KUBECONFIG" >&2 || true
  fi
  # What kwokctl has not ended, by the identifiers that it has noted.
  for file in "$KWOK_WORKDIR/clusters/$name"/pids/*.pid; do
    if [[ -e $file ]]; then
      kill "$(<"$file")" 2>/dev/null || true
    fi
  done
  if [[ -z $given ]]; then
    rm -rf "$work"
  fi
}
trap end EXIT

# shellcheck disable=SC2086 # a list
"$here/programs.sh" "$bin" etcd kubectl kube-controller-manager kube-scheduler $servers
for program in kwok kwokctl; do
  if [[ ! -x $bin/$program ]]; then
    echo "building $program" >&2
    (cd "$work" && GOBIN=$bin go install -ldflags '-s -w' "$kwok/$program@$version")
  fi
done
kubernetes=$(kubectl version --client -o json | sed -n 's/^ *"gitVersion": "\(.*\)",$/\1/p')
readonly kubernetes

# step says how long a command takes, and shows its output only if it fails.
step() {
  local what=$1 begun=$SECONDS
  shift
  if ! "$@" >"$work/step.log" 2>&1; then
    printf '%s: FAILED after %d s: %s\n' "$what" $((SECONDS - begun)) "$*" >&2
    tail -n 20 "$work/step.log" >&2
    return 1
  fi
  printf '%-60s %4d s\n' "$what" $((SECONDS - begun))
}

# settled waits until so many Pods of the Deployment are ready, and there are no others.
settled() {
  kubectl rollout status deployment/app --timeout="$patience"
  kubectl wait deployment/app --for=jsonpath='{.status.readyReplicas}'="$1" --timeout="$patience"
  until [[ $(kubectl get pods -l app=app --no-headers 2>/dev/null | wc -l) -eq $1 ]]; do
    sleep 1
  done
}

drained() {
  kubectl drain "$1" --ignore-daemonsets --delete-emptydir-data --timeout="$patience"
  # Only those of DaemonSets stay.
  [[ -z $(kubectl get pods -A --field-selector "spec.nodeName=$1" --no-headers 2>/dev/null) ]]
}

gone() {
  kubectl delete deployment app --cascade=foreground --timeout="$patience"
  until [[ -z $(kubectl get pods,replicasets -l app=app --no-headers 2>/dev/null) ]]; do
    sleep 1
  done
}

scaled() {
  kubectl scale deployment/app --replicas="$1"
  settled "$1"
}

for server in $servers; do
  program=$bin/$server
  [[ $server == weir ]] && program=$bin/weir/kube-apiserver
  echo "$server, Kubernetes $kubernetes, kwok $version, $nodes nodes"
  step 'cluster' env KWOK_KUBE_VERSION="$kubernetes" KWOK_KUBECTL_BINARY="$bin/kubectl" \
    kwokctl create cluster --name "$name" --runtime binary --kubeconfig "$KUBECONFIG" --wait "$patience" --timeout "$patience" \
    --kube-apiserver-binary "$program" --etcd-binary "$bin/etcd" --kwok-controller-binary "$bin/kwok" \
    --kube-controller-manager-binary "$bin/kube-controller-manager" --kube-scheduler-binary "$bin/kube-scheduler"
  step "$nodes nodes" kwokctl scale node --name "$name" --replicas "$nodes"
  step 'all nodes are ready' kubectl wait node --all --for=condition=Ready --timeout="$patience"
  step "a Deployment of $pods" kubectl create deployment app --image=app --replicas="$pods"
  step "its $pods Pods are ready" settled "$pods"
  step "scaled to $((pods * 3 / 2))" scaled $((pods * 3 / 2))
  step "scaled to $((pods / 2))" scaled $((pods / 2))
  node=$(kubectl get pods -l app=app -o jsonpath='{.items[0].spec.nodeName}')
  step "$node is drained" drained "$node"
  step "its Pods are ready elsewhere" settled $((pods / 2))
  step 'deleted' gone
  if [[ $server == weir ]]; then
    step "weir status" "$bin/weir/weir" status
    cp "$work/step.log" "$work/status.txt"
  fi
  step 'the cluster is gone' kwokctl delete cluster --name "$name" --kubeconfig "$KUBECONFIG"
done
