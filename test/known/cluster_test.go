// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

// TestBehind has a server go from a member of etcd that is up to date to one that is cut off from the others and does not know
// what the server has. It must not go back; when the member has caught up, nothing may be left out and nothing come twice.
func TestBehind(t *testing.T) {
	room := servers.Room(t)
	peers := link.NewPeers()
	t.Cleanup(func() {
		if err := peers.Close(); err != nil {
			t.Error(err)
		}
	})
	etcd, err := room.StartEtcd(t.Context(), rig.EtcdOptions{Members: 3, PeerProxy: peers.Proxy})
	if err != nil {
		t.Fatal(err)
	}
	leader, err := etcd.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	behind := 0 // a member that follows
	if etcd.Members[behind] == leader {
		behind = 1
	}
	good := newLink(t, leader.Address)
	other := newLink(t, etcd.Members[behind].Address)
	w := &world{TB: t, etcd: etcd, truth: history.NewTruth()}
	if w.etcdC, err = etcd.Client(t.Context(), leader.Endpoint()); err != nil {
		t.Fatal(err)
	}
	client := w.etcdC
	t.Cleanup(func() { _ = client.Close() }) // it says only that it was closed
	w.b = servers.StartIn(t, room, program(leader.Endpoint())).Wait()
	other.Cut() // so that it begins at the leader
	w.a = servers.StartIn(t, room, program("http://"+good.Address(), "http://"+other.Address())).Wait()
	w.follow()
	ns := w.namespace()
	at := w.create(ns, "one", "0")
	w.create(ns, "gone", "0")

	// The member hears nothing more of the others. What is written now it does not know.
	peers.Part(behind)
	for i := range 10 {
		at = w.update(ns, "one", fmt.Sprint(i))
	}
	at = max(at, w.remove(ns, "gone"))
	w.ready(ns, at)
	watches := []*watching{
		w.watch(w.a, all(ns), history.AtRevision, at), w.watch(w.a, one(ns, "one"), history.AtRevision, at), w.watch(w.a, all(ns), history.WatchList, 0),
		w.watch(w.a, one(ns, "one"), history.AtRevision, at+3),
	}
	if err := other.Heal(); err != nil {
		t.Fatal(err)
	}
	good.Cut() // the server's watches of etcd go on at the member that is behind, from a revision of its future
	during := w.update(ns, "one", "during")
	for range 20 {
		if l := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0"); l.rev < at || l.names["gone"] != 0 {
			t.Fatalf("the state is of revision %d after one of %d: %v", l.rev, at, l.names)
		}
		time.Sleep(20 * time.Millisecond) // so that there is time for a mistake; nothing depends on it
	}
	if err := peers.Join(behind); err != nil {
		t.Fatal(err)
	}
	w.ready(ns, during)
	at = max(w.update(ns, "one", "after"), w.create(ns, "two", "1"))
	w.ready(ns, at)
	w.same(ns)
	for _, r := range watches {
		r.settle(at)
	}
}

// TestRestored has etcd put back to an earlier state under a server that runs. The server has to give up what it knows: what
// was deleted by that is not in its lists, watches do not go on, and what is written after it is seen.
func TestRestored(t *testing.T) {
	room := servers.Room(t)
	etcd, err := room.StartEtcd(t.Context(), rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, etcd: etcd, truth: history.NewTruth()}
	w.a = servers.StartIn(t, room, program(etcd.Endpoints()...)).Wait()
	w.b = w.a
	w.etcdC = connect(t, etcd)
	ns := w.namespace()
	kept := w.create(ns, "kept", "1")

	member := etcd.Members[0]
	data, backup := filepath.Join(room.Dir(), "etcd"), filepath.Join(t.TempDir(), "backup")
	swap := func(change func() error) {
		t.Helper()
		if err := member.Stop(servers.Patience); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := member.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := member.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	swap(func() error { return os.CopyFS(backup, os.DirFS(data)) })
	servers.Eventually(t, "the server to write again", func() bool {
		_, err := write(t.Context(), w.a, "POST", pathOf(ns), configMap("lost", "1"))
		return err == nil || strings.HasPrefix(err.Error(), "409")
	})
	lost := w.update(ns, "lost", "2")
	for i := range 20 { // so that revisions are used again
		lost = w.update(ns, "lost", fmt.Sprint(i))
	}
	w.ready(ns, lost)
	r := w.watch(w.a, all(ns), history.AtRevision, lost)
	swap(func() error {
		if err := os.RemoveAll(data); err != nil {
			return err
		}
		return os.CopyFS(data, os.DirFS(backup))
	})
	// From now on no consistent list may show what is not there any more.
	want := map[string]int64{"kept": kept}
	servers.Eventually(t, "the server to have what etcd has", func() bool {
		status, l := w.list(w.a, pathOf(ns))
		if status == http.StatusOK && !maps.Equal(l.names, want) {
			t.Fatalf("a consistent list has %v at revision %d, want %v", l.names, l.rev, want)
		}
		status, l = w.list(w.a, pathOf(ns)+"?resourceVersion=0")
		return status == http.StatusOK && maps.Equal(l.names, want)
	})
	r.waitEnd()
	for _, e := range r.record().Events {
		if e.Kind != history.Error || e.Code != 410 && e.Code != 429 {
			t.Errorf("the watch from before has told %+v", e)
		}
	}
	next := w.create(ns, "next", "1")
	if next > lost {
		t.Fatalf("revision %d after %d: nothing was put back", next, lost)
	}
	l := w.mustList(w.a, pathOf(ns))
	if l.names["next"] != next || len(l.names) != 2 {
		t.Errorf("a list after the next write has %v", l.names)
	}
	again := w.watch(w.a, all(ns), history.AtRevision, l.rev)
	if changed := w.update(ns, "next", "2"); !again.event(history.Modified, "next", changed) {
		t.Errorf("a watch of after has ended: %+v", again.record())
	}
}
