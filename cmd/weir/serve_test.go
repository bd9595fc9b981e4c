// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// A fresh directory is all it takes: an administrator's kubeconfig that works, RBAC for
// everybody else, nothing that another user of the machine could read, and an orderly end.
func TestServeFresh(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	c := standalone(t, dir)

	if v, err := c.client.ServerVersion(); err != nil || v.GitVersion != "v1.37.2" || v.Major != "1" || v.Minor != "37" {
		t.Errorf("/version = %+v, %v; want v1.37.2", v, err)
	}
	if _, err := c.client.CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if kubectl, err := exec.LookPath("kubectl"); err == nil {
		out, err := exec.Command(kubectl, "--kubeconfig", filepath.Join(dir, "admin.kubeconfig"), "get", "namespaces").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "kube-system") {
			t.Errorf("kubectl get namespaces: %v\n%s", err, out)
		}
	}

	anonymous, err := kubernetes.NewForConfig(rest.AnonymousClientConfig(c.config))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := anonymous.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("somebody without a role lists secrets: %v, want forbidden", err)
	}

	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch mode := info.Mode(); {
		case mode.IsDir() && mode.Perm() != 0o700:
			t.Errorf("%s has mode %v, want 0700", path, mode)
		case mode.IsRegular() && mode.Perm() != 0o600:
			t.Errorf("%s has mode %v, want 0600", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	if code := c.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM, want 0\n%s", code, c.log)
	}
}

// What was acknowledged is there after kill -9, with the same credentials: also those
// that clients hold already.
func TestServeSurvivesKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := standalone(t, dir)
	before, err := os.ReadFile(filepath.Join(dir, "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "pki", "service-account.key"))
	if err != nil {
		t.Fatal(err)
	}

	const writers, enough = 4, 60
	var (
		mu           sync.Mutex
		acknowledged []string
		killed       = make(chan struct{})
		wg           sync.WaitGroup
	)
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				_, err := c.client.CoreV1().ConfigMaps("default").Create(t.Context(),
					&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name}}, metav1.CreateOptions{})
				if err != nil {
					select {
					case <-killed:
					default:
						if !strings.Contains(err.Error(), "not found") { // "default" itself is made after /readyz
							t.Errorf("create before the kill: %v", err)
							return
						}
						continue
					}
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, name)
				if len(acknowledged) == enough { // in the middle of everybody's next write
					close(killed)
					_ = c.cmd.Process.Kill()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	<-c.exited

	c = standalone(t, dir)
	list, err := c.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]string{}
	for _, cm := range list.Items {
		kept[cm.Name] = cm.Data["name"]
	}
	for _, name := range acknowledged {
		if kept[name] != name {
			t.Errorf("lost an acknowledged write: %s (have %q)", name, kept[name])
		}
	}
	if after, err := os.ReadFile(filepath.Join(dir, "pki", "ca.crt")); err != nil || string(after) != string(before) {
		t.Errorf("the CA changed over a restart: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "pki", "service-account.key")); err != nil || string(after) != string(key) {
		t.Errorf("the service account key changed over a restart: %v", err)
	}
	if code := c.stop(syscall.SIGTERM); code != 0 {
		t.Errorf("exit status %d after SIGTERM\n%s", code, c.log)
	}
}

// The gate switches weir's cache off in the same binary, and is known as upstream's are.
func TestServeGates(t *testing.T) {
	t.Parallel()
	const metric = `kubernetes_feature_enabled{name="EncodedWatchCache",stage="BETA"} `
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{name: "default", want: "1"},
		{name: "off", want: "0", args: []string{"--feature-gates=EncodedWatchCache=false"}},
		{name: "emulated", want: "1", args: []string{"--emulated-version=1.36"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := standalone(t, t.TempDir(), test.args...)
			if !strings.Contains(c.get("/metrics"), metric+test.want) {
				t.Errorf("/metrics does not have %s%s", metric, test.want)
			}
			if _, err := c.client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	help, err := command(t, "weir", "serve", "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(help), "kube:EncodedWatchCache=true|false (BETA - default=true)") {
		t.Errorf("--help does not name the gate: %v", err)
	}
	if !strings.Contains(string(help), "stand-alone mode") {
		t.Error("--help does not say what stand-alone mode is")
	}
}

// Told to stop while it waits for an etcd that does not answer, it stops, and does not
// call that an error.
func TestServeStopsWhileWaitingForEtcd(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	cmd := command(t, "weir", "serve", "--etcd-servers=http://127.0.0.1:"+freePort(t), "--bind-address=127.0.0.1", "--secure-port="+port)
	output := new(logBuffer)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	// The port is opened before etcd is asked, and after signals are listened to.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	})
	if err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil || output.String() != "" {
		t.Errorf("%v, want exit status 0 and nothing said:\n%s", err, output)
	}
}
