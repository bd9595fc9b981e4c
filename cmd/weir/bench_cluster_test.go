// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// inventory lists what is in a cluster that bench could have put there or taken away.
func inventory(c *child) string {
	c.t.Helper()
	var all []string
	for _, path := range []string{"/api/v1/namespaces", "/api/v1/pods", "/api/v1/secrets", "/api/v1/configmaps", "/api/v1/serviceaccounts", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"} {
		var list metav1.PartialObjectMetadataList
		if err := json.Unmarshal([]byte(c.get(path)), &list); err != nil {
			c.t.Fatal(err)
		}
		for _, o := range list.Items {
			all = append(all, path+": "+o.Namespace+"/"+o.Name)
		}
	}
	return strings.Join(all, "\n")
}

// A cluster that bench did not start is measured in a namespace of the run's own, and afterwards is as it was before.
func TestBenchExistingCluster(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := standalone(t, dir)
	kubeconfig := "--kubeconfig=" + filepath.Join(dir, "admin.kubeconfig")
	theirs := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	if _, err := c.client.CoreV1().ConfigMaps("theirs").Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := inventory(c)

	for _, args := range [][]string{
		{"crs", "--streams=2"},
		{"pods", "--informers=2"},
		{"fanout", "--watchers=3", "--updates=6", "--objects=2", "--rate=0", "--data=a,c"},
	} {
		if testing.Short() && args[0] != "crs" {
			continue
		}
		r := startBench(t, args[0], append(args[1:], kubeconfig)...)
		if code := r.wait(); code != 0 {
			t.Errorf("%v: exit status %d\n%s", args, code, r.progress)
			continue
		}
		if runs := r.results().Runs; len(runs) != 1 || runs[0].Target != "cluster" || len(runs[0].Phases) == 0 || runs[0].Phases[0].RSSAfter < 1<<20 {
			t.Errorf("%v: runs %+v", args, runs)
		}
		if after := inventory(c); after != before {
			t.Errorf("%v: before\n%s\nand after\n%s", args, before, after)
		}
	}

	// Interrupted while there is something to leave behind.
	r := startBench(t, "watchlist", "--pods=20000", kubeconfig)
	r.until("there are Pods", func() bool {
		pods, err := c.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		return err == nil && len(pods.Items) > 20
	})
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "interrupt") {
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	if after := inventory(c); after != before {
		t.Errorf("interrupted: before\n%s\nand after\n%s", before, after)
	}

	for want, args := range map[string][]string{
		"namespace theirs exists already":  {"--namespace=theirs"},
		"context \"other\" does not exist": {"--context=other"},
	} {
		r := startBench(t, "watchlist", append(args, kubeconfig)...)
		if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), want) {
			t.Errorf("exit status %d, want %q in\n%s", code, want, r.progress)
		}
	}
	r = startBench(t, "storm", kubeconfig)
	if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "storm measures a server's start") {
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	if after := inventory(c); after != before {
		t.Errorf("refused: before\n%s\nand after\n%s", before, after)
	}
}

// A user who may not do all of it is told what, in one line, and nothing is created.
func TestBenchKubeconfigMayNotCreate(t *testing.T) {
	t.Parallel()
	c := standalone(t, t.TempDir())
	ctx := t.Context()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader", Namespace: "kube-system"}}
	if _, err := c.client.CoreV1().ServiceAccounts("kube-system").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}}},
	}
	if _, err := c.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "kube-system", Name: "reader"}},
	}
	if _, err := c.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := c.client.CoreV1().ServiceAccounts("kube-system").CreateToken(ctx, "reader", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: c.config.Host, CertificateAuthorityData: c.config.CAData}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	before := inventory(c)
	r := startBench(t, "watchlist", "--kubeconfig="+path)
	if code := r.wait(); code != 1 {
		t.Errorf("exit status %d", code)
	}
	line := r.lastLine()
	for _, want := range []string{"user system:serviceaccount:kube-system:reader may not create namespaces", "get /metrics", "create pods,", "update pods/status", "nothing was created"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in: %s", want, line)
		}
	}
	if strings.Contains(line, "list pods") { // which it may
		t.Errorf("too much in: %s", line)
	}
	if after := inventory(c); after != before {
		t.Errorf("before\n%s\nand after\n%s", before, after)
	}
}
