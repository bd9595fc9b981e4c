// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// kubectlCommand returns kubectl, which is this test binary under another name.
func kubectlCommand(ctx context.Context, t *testing.T, namespace string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"--kubeconfig=" + server.Kubeconfig, "--namespace=" + namespace, "--cache-dir=" + t.TempDir()}, args...)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asKubectl+"=1")
	return cmd
}

func kubectlRun(t *testing.T, namespace, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := kubectlCommand(ctx, t, namespace, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.e2e.weir.example}
spec:
  group: e2e.weir.example
  names: {plural: widgets, singular: widget, kind: Widget}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
  - name: v1beta1
    served: true
    storage: false
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
`

const objects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: first, labels: {app: shown}}
data: {a: "1"}
---
apiVersion: e2e.weir.example/v1
kind: Widget
metadata: {name: wheel}
spec: {size: 7}
`

// TestKubectl: apply, get, get -w with a selector that an object leaves, and delete,
// of a built-in and a custom resource.
func TestKubectl(t *testing.T) {
	ns := namespace(t, clientFor(t, server.Client, runtime.ContentTypeProtobuf, nil))
	kubectlRun(t, ns, widgets, "apply", "-f", "-")
	kubectlRun(t, ns, "", "wait", "--for=condition=Established", "crd/widgets.e2e.weir.example", "--timeout=60s")
	kubectlRun(t, ns, objects, "apply", "-f", "-")
	if out := kubectlRun(t, ns, "", "get", "widgets"); !strings.Contains(out, "SIZE") || !strings.Contains(out, "7") {
		t.Errorf("kubectl get widgets says\n%s", out)
	}
	if out := kubectlRun(t, ns, "", "get", "widgets.v1beta1.e2e.weir.example", "-o", "jsonpath={.items[*].apiVersion}"); out != "e2e.weir.example/v1beta1" {
		t.Errorf("the other served version says %q", out)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := kubectlCommand(ctx, t, ns, "get", "configmaps", "-l", "app=shown", "--watch", "--output-watch-events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	expect := func(words ...string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("kubectl get -w ended before %v: %v", words, lines.Err())
		}
		if got := strings.Fields(lines.Text()); len(got) < len(words) || strings.Join(got[:len(words)], " ") != strings.Join(words, " ") {
			t.Fatalf("kubectl get -w says %q, want %v", lines.Text(), words)
		}
	}
	expect("EVENT", "NAME")
	expect("ADDED", "first")
	kubectlRun(t, ns, "", "label", "configmap", "first", "more=yes")
	expect("MODIFIED", "first")
	kubectlRun(t, ns, "", "label", "configmap", "first", "app=hidden", "--overwrite")
	expect("DELETED", "first")
	kubectlRun(t, ns, "", "label", "configmap", "first", "app=shown", "--overwrite")
	expect("ADDED", "first")
	kubectlRun(t, ns, "", "delete", "configmap", "first")
	expect("DELETED", "first")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // ended by the signal

	kubectlRun(t, ns, "", "delete", "widget", "wheel")
	if out := kubectlRun(t, ns, "", "get", "widgets", "-o", "name"); out != "" {
		t.Errorf("after the deletion there is %q", out)
	}
	kubectlRun(t, ns, "", "delete", "crd", "widgets.e2e.weir.example", "--timeout="+(patience/2).Round(time.Second).String())
}
