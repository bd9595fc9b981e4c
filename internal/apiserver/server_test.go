// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/version"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// startServer runs a stand-alone server in this process and stops it with the test.
func startServer(t *testing.T, args ...string) (*Server, *kubernetes.Clientset) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	server, err := Start(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(server.Client)
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// Two servers in a row on one directory, in one process: the second has what the first
// was told, and a service account token of the first is good with it.
func TestRestartInOneProcess(t *testing.T) {
	dir := t.TempDir()
	server, client := startServer(t, "--data-dir="+dir)
	ctx := t.Context()

	if server.Kubeconfig != filepath.Join(dir, "admin.kubeconfig") {
		t.Errorf("kubeconfig is %q", server.Kubeconfig)
	}
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts("kept").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := client.CoreV1().ServiceAccounts("kept").CreateToken(ctx, "robot", &authnv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}

	server, client = startServer(t, "--data-dir="+dir)
	defer func() {
		if err := server.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	}()
	if _, err := client.CoreV1().Namespaces().Get(ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	review, err := client.AuthenticationV1().TokenReviews().Create(ctx,
		&authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
	if err != nil || review.Status.User.Username != "system:serviceaccount:kept:robot" {
		t.Errorf("a token of before the restart: %+v, %v", review, err)
	}
	// A second server on the same directory, while the first runs.
	if _, err := Start(ctx, "--data-dir="+dir); err == nil {
		t.Error("two servers share a data directory")
	}
	if _, err := client.CoreV1().Namespaces().Get(ctx, "nowhere", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the first server after that: %v", err)
	}
}

// A server that is asked to end tells its watches so, and does not wait for as long as a request may take: each ends as a
// stream that is complete.
func TestWatchesEndWithTheServer(t *testing.T) {
	server, client := startServer(t, "--data-dir="+t.TempDir(), "--request-timeout=1h")
	var streams []io.ReadCloser
	for range 100 {
		stream, err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/configmaps").Param("watch", "1").Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		streams = append(streams, stream)
	}
	stopped := make(chan error, 1)
	asked := time.Now()
	go func() { stopped <- server.Stop() }()
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
		t.Logf("ended %v after it was asked to", time.Since(asked))
	case <-time.After(time.Minute): // decides nothing but when a test that has failed says so
		t.Fatal("the server waits for requests that do not end")
	}
	for i, stream := range streams {
		if _, err := io.Copy(io.Discard, stream); err != nil {
			t.Errorf("watch %d: %v", i, err)
		}
	}
}

// The version is that of the module, without any -ldflags.
func TestVersionIsTheModules(t *testing.T) {
	gomod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	required := regexp.MustCompile(`(?m)^\s+k8s\.io/kubernetes (v\S+)`).FindSubmatch(gomod)
	if required == nil {
		t.Fatal("go.mod does not require k8s.io/kubernetes")
	}
	if got := version.Get().GitVersion; got != string(required[1]) {
		t.Errorf("version %s, go.mod says %s", got, required[1])
	}
	o := NewOptions("")
	if got := o.GenericServerRunOptions.ComponentGlobalsRegistry.EffectiveVersionFor("kube").BinaryVersion().String(); "v"+got != string(required[1]) {
		t.Errorf("the version that feature gates go by is %s, go.mod says %s", got, required[1])
	}
}
