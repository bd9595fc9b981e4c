// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
)

func TestMain(m *testing.M) { Main(m) }

// metric returns whether a server has a line in its metrics that begins so.
func metric(t *testing.T, s *rig.Server, begins string) bool {
	t.Helper()
	body, err := s.Get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(body), "\n"+begins)
}

// All programs run in one room over one etcd. A weir is put behind a link, paused, killed and started again, and loses
// nothing that it has acknowledged.
func TestRoom(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*Patience)
	defer cancel()
	room := Room(t)
	etcd, err := room.StartEtcd(ctx, rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wire, err := link.New(etcd.Members[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wire.Close)
	program := Program(Weir)
	program.Etcd = []string{"http://" + wire.Address()}
	weir := StartIn(t, room, program)
	others := map[string]*Server{}
	for _, name := range []string{WeirOff, Stock} {
		program := Program(name)
		program.Etcd = etcd.Endpoints()
		others[name] = StartIn(t, room, program)
	}
	weir.Wait()
	for _, s := range others {
		s.Wait()
	}
	const ours = "weir_memory_bytes{"
	if !metric(t, weir.Rig, ours) || metric(t, others[Stock].Rig, ours) {
		t.Error("weir is not weir, or stock is not stock")
	}
	if !metric(t, others[WeirOff].Rig, `kubernetes_feature_enabled{name="EncodedWatchCache",stage="BETA"} 0`) {
		t.Error("weir-off has its gate on")
	}
	m, err := weir.Rig.Metrics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	u, err := weir.Rig.Usage()
	if err != nil || u.CPU <= 0 || m.CPU <= 0 || m.Goroutines < 10 || m.Heap.Alloc < 1<<20 || u.RSS < 1<<20 || m.RSS < 1<<20 {
		t.Errorf("uses %+v and %+v, %v", u, m, err)
	}

	// By its kubeconfig, and behind a link.
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := weir.Rig.WriteKubeconfig(path); err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	front, err := link.New(strings.TrimPrefix(weir.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Close)
	behind, err := weir.Rig.Behind(front.Address())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := behind.Get(ctx, "/version"); err != nil {
		t.Errorf("behind a link: %v", err)
	}
	front.Cut()
	if _, err := behind.Get(ctx, "/version"); err == nil {
		t.Error("the link is cut, and passes")
	}
	if _, err := weir.Rig.Get(ctx, "/version"); err != nil {
		t.Errorf("beside the link: %v", err)
	}

	// Paused, it answers nothing.
	if err := weir.Rig.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	if _, err := weir.Rig.Get(short, "/version"); err == nil {
		t.Error("it is paused, and answers")
	}
	cancel()
	if err := weir.Rig.Resume(); err != nil {
		t.Fatal(err)
	}

	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}
	if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	weir.Rig.Kill()
	if status, _ := weir.Do(http.MethodGet, "/version", nil); status != 0 {
		t.Errorf("it was killed, and answers %d", status)
	}
	if err := weir.Rig.Restart(); err != nil {
		t.Fatal(err)
	}
	weir.Wait()
	if _, err := client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("after kill -9: %v", err)
	}
	// Without etcd it is not ready; with it, it is again.
	wire.Cut()
	Eventually(t, "weir to miss its etcd", func() bool {
		status, _ := weir.Do(http.MethodGet, "/readyz", nil)
		return status >= http.StatusInternalServerError
	})
	if err := wire.Heal(); err != nil {
		t.Fatal(err)
	}
	weir.Wait()
}

// A weir without an etcd to be told of has its own, and that too is killed and started again.
func TestStandAlone(t *testing.T) {
	room := Room(t)
	s := StartIn(t, room, Program(Weir, "--data-dir="+t.TempDir())).Wait()
	s.Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": "kept"}})
	s.Rig.Kill()
	if err := s.Rig.Restart(); err != nil {
		t.Fatal(err)
	}
	s.Wait().Must(http.MethodGet, "/api/v1/namespaces/kept", nil)
}

// A server that passes its memory limit is killed, and it is said why.
func TestMemoryLimit(t *testing.T) {
	room := Room(t)
	if err := room.CanLimit(); err != nil {
		t.Skip("a memory limit", err)
	}
	etcd, err := room.StartEtcd(t.Context(), rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	program := Program(Weir)
	program.Etcd, program.MemoryLimit = etcd.Endpoints(), 50<<20
	s, err := room.StartServer(program)
	if err != nil {
		t.Fatal(err)
	}
	err = s.WaitReady(t.Context())
	if want := "weir died: signal: killed: out of memory, at its limit of 50Mi"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}
