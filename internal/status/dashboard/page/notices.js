// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// What is said when there is no report, and what to do then.

const role = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: weir-status
rules:
- nonResourceURLs: ["/weir/status"]
  verbs: ["get"]
---
# and then:
# kubectl create clusterrolebinding weir-status \\
#   --clusterrole=weir-status --user=SOMEBODY`;

// noticeOf returns {title, text, advice, code}. what is {kind, code, reason, message}: kind is "ended" if this command does not answer,
// "refused" for an answer that is none of a report, "unreadable" for one that cannot be read.
export function noticeOf(what, server) {
  const text = what.message ? String(what.message).slice(0, 1000) : "";
  if (what.kind === "ended") {
    return { title: "weir dashboard does not answer", text, advice: "It may have been ended. Start it again, and open the address that it prints." };
  }
  if (what.kind === "unreadable") {
    return { title: `The status of ${server} cannot be read`, text, advice: "It may be a weir of another release: use the weir dashboard of the server's." };
  }
  if (what.reason === "Unreachable") {
    return { title: `${server} does not answer`, text, advice: "What is below is what it said last. If it starts again, this goes on by itself." };
  }
  switch (what.code) {
    case 401:
      return { title: `${server} does not know the user of this kubeconfig`, text, advice: "Give weir dashboard another --kubeconfig or --context, or log in again." };
    case 403:
      return { title: "The user of this kubeconfig may not see the status", text, advice: 'It takes the verb "get" on the non-resource URL /weir/status. Ask an administrator for:', code: role };
    case 404:
      return {
        title: `${server} has no /weir/status`, text,
        advice: "It is kube-apiserver and not weir, or an older weir, or has its gate EncodedWatchCache off. What any kube-apiserver tells of this is in its metrics:",
        code: "kubectl get --raw /metrics\n\napiserver_resource_objects\napiserver_longrunning_requests\napiserver_request_total\n" +
          "apiserver_response_sizes\nprocess_resident_memory_bytes",
      };
    case 429:
      return { title: `${server} has too much to do`, text, advice: "It is asked again, less often." };
    default:
      return { title: `${server} answers ${what.code}`, text, advice: "It is asked again, less often." };
  }
}
