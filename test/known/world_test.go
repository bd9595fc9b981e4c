// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage/cacher/consistency"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

// checkPeriod, in the environment, is how often a server's consistency checker looks, in place of five minutes.
const checkPeriod = "WEIR_TEST_CHECK_PERIOD"

// against, in the environment, is the program that is tested: "weir" if it is empty.
const against = "WEIR_KNOWN_AGAINST"

func TestMain(m *testing.M) {
	if shorter, given := os.LookupEnv(checkPeriod); given {
		d, err := time.ParseDuration(shorter)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		consistency.CheckPeriod = d
	}
	servers.Main(m)
}

// Nothing is to be written but by the tests, so that revisions are theirs.
const gates = "--feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false"

const configMaps = "configmaps"

// configMapsKey is the key that the servers watch in etcd.
const configMapsKey = "/registry/configmaps/"

// world is two servers over one etcd: a behind a link and a tap, and b, whose consistency checker looks every two seconds.
type world struct {
	testing.TB
	etcd  *rig.Etcd
	etcdC *clientv3.Client
	tap   *tap
	link  *link.Link
	a, b  *servers.Server
	truth *history.Truth
}

// program is the one that is tested, over an etcd at these URLs.
func program(etcd ...string) rig.Program {
	p := servers.Program(cmp.Or(os.Getenv(against), servers.Weir), gates)
	p.Etcd = etcd
	return p
}

// open starts a world. It ends with the test.
func open(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, truth: history.NewTruth()}
	room := servers.Room(t)
	var err error
	if w.etcd, err = room.StartEtcd(t.Context(), rig.EtcdOptions{}); err != nil {
		t.Fatal(err)
	}
	w.etcdC = connect(t, w.etcd)
	w.tap = newTap(t, w.etcd.Members[0].Address)
	w.link = newLink(t, w.tap.address)
	w.a = servers.StartIn(t, room, program("http://"+w.link.Address()))
	w.a.Wait() // it writes what a cluster begins with
	b := program(w.etcd.Endpoints()...)
	b.Env = append(b.Env, checkPeriod+"=2s")
	w.b = servers.StartIn(t, room, b)
	w.b.Wait()
	w.follow()
	return w
}

func connect(t testing.TB, etcd *rig.Etcd) *clientv3.Client {
	t.Helper()
	client, err := etcd.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return client
}

func newLink(t testing.TB, to string) *link.Link {
	t.Helper()
	l, err := link.New(to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// in is the world for a subtest.
func (w *world) in(t testing.TB) *world {
	c := *w
	c.TB, c.a, c.b = t, w.a.In(t), w.b.In(t)
	return &c
}

// follow has the truth filled with the ConfigMaps of etcd, by a watch of its own, until the test ends.
func (w *world) follow() {
	w.Helper()
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(w.Context()))
	base, err := w.etcdC.Get(ctx, configMapsKey, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend))
	if err != nil {
		w.Fatal(err)
	}
	for _, kv := range base.Kvs {
		w.learn(kv, false)
	}
	w.truth.Reach(base.Header.Revision)
	watch := w.etcdC.Watch(ctx, configMapsKey, clientv3.WithPrefix(), clientv3.WithRev(base.Header.Revision+1))
	var running sync.WaitGroup
	running.Go(func() {
		for resp := range watch {
			if err := resp.Err(); err != nil && ctx.Err() == nil {
				w.Errorf("watch of etcd: %v", err)
			}
			for _, e := range resp.Events {
				w.learn(e.Kv, e.Type == mvccpb.DELETE)
			}
			if resp.IsProgressNotify() {
				w.truth.Reach(resp.Header.Revision)
			}
		}
	})
	running.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if err := w.etcdC.RequestProgress(ctx); err != nil && ctx.Err() == nil {
					w.Error(err)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	w.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// learn adds a change to the truth. It may be called by any goroutine.
func (w *world) learn(kv *mvccpb.KeyValue, deleted bool) {
	namespace, name, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), configMapsKey), "/")
	k := history.Key{Resource: configMaps, Namespace: namespace, Name: name}
	var state *history.State
	if !deleted {
		c, err := stored(kv.Value)
		if err != nil {
			w.Errorf("%s in etcd: %v", kv.Key, err)
			return
		}
		state = &history.State{Revision: kv.ModRevision, UID: string(c.UID), Labels: c.Labels, Digests: digest(string(c.UID), c.Labels, c.Data)}
	}
	if err := w.truth.Add(kv.ModRevision, time.Now(), k, state); err != nil {
		w.Error(err)
	}
}

// magic begins what Kubernetes writes in protobuf.
const magic = "k8s\x00"

// stored is a ConfigMap as it is in etcd.
func stored(value []byte) (*corev1.ConfigMap, error) {
	var u runtime.Unknown
	c := &corev1.ConfigMap{}
	if !strings.HasPrefix(string(value), magic) {
		return nil, fmt.Errorf("begins with %.8q", value)
	}
	if err := u.Unmarshal(value[len(magic):]); err != nil {
		return nil, err
	}
	return c, c.Unmarshal(u.Raw)
}

func digest(uid string, labels, data map[string]string) history.Digests {
	return history.Digests{Meta: history.Digest([]string{uid}, labels), Body: history.Digest(nil, data)}
}

// head is etcd's revision.
func (w *world) head() int64 {
	w.Helper()
	resp, err := w.etcdC.Get(w.Context(), "nothing", clientv3.WithCountOnly())
	if err != nil {
		w.Fatal(err)
	}
	return resp.Header.Revision
}

// compact compacts etcd.
func (w *world) compact(rev int64, opts ...clientv3.CompactOption) {
	w.Helper()
	if _, err := w.etcdC.Compact(w.Context(), rev, opts...); err != nil {
		w.Fatalf("compact etcd at revision %d: %v", rev, err)
	}
}

// namespaces counts those that were made.
var namespaces atomic.Int64

// namespace makes one, for a scenario to be alone in.
func (w *world) namespace() string {
	w.Helper()
	name := fmt.Sprintf("known-%d", namespaces.Add(1))
	w.b.Must(http.MethodPost, "/api/v1/namespaces", object("v1", "Namespace", name, nil))
	return name
}

func object(version, kind, name string, more map[string]any) map[string]any {
	o := map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": name}}
	for k, v := range more {
		o[k] = v
	}
	return o
}

func configMap(name, value string) map[string]any {
	return object("v1", "ConfigMap", name, map[string]any{"data": map[string]any{"value": value}})
}

func pathOf(namespace string) string { return "/api/v1/namespaces/" + namespace + "/" + configMaps }

// revision is that of an object or a list.
func (w *world) revision(o map[string]any) int64 {
	w.Helper()
	rev, err := strconv.ParseInt(servers.ResourceVersion(o), 10, 64)
	if err != nil {
		w.Fatalf("resource version of %v: %v", o, err)
	}
	return rev
}

// create makes a ConfigMap through b and returns its revision.
func (w *world) create(namespace, name, value string) int64 {
	w.Helper()
	return w.revision(w.b.Must(http.MethodPost, pathOf(namespace), configMap(name, value)))
}

// update changes a ConfigMap through b.
func (w *world) update(namespace, name, value string) int64 {
	w.Helper()
	return w.revision(w.b.Must(http.MethodPut, pathOf(namespace)+"/"+name, configMap(name, value)))
}

// remove deletes a ConfigMap through b and returns the revision of that, which the answer does not tell.
func (w *world) remove(namespace, name string) int64 {
	w.Helper()
	w.b.Must(http.MethodDelete, pathOf(namespace)+"/"+name, nil)
	k := history.Key{Resource: configMaps, Namespace: namespace, Name: name}
	rev := w.head()
	w.reached(rev)
	for _, c := range w.truth.Changes(0, rev) {
		if c.Key == k && c.Next == nil {
			rev = c.Revision // the latest stays
		}
	}
	return rev
}

// reached waits until the truth has a revision.
func (w *world) reached(rev int64) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), servers.Patience)
	defer cancel()
	if err := w.truth.Wait(ctx, rev); err != nil {
		w.Fatal(err)
	}
}

// churn creates, changes and deletes n times one of k ConfigMaps through b, in a goroutine of its own. The last revision that
// was told is kept in at. wait returns when all is done.
func (w *world) churn(ctx context.Context, namespace string, n, k int, at *atomic.Int64) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			name := fmt.Sprintf("churn-%d", i%k)
			method, path := http.MethodPut, pathOf(namespace)+"/"+name
			var body any = configMap(name, strconv.Itoa(i))
			switch i / k % 4 {
			case 0:
				method, path = http.MethodPost, pathOf(namespace)
			case 3:
				method, body = http.MethodDelete, nil
			}
			if ctx.Err() != nil {
				return
			}
			rev, err := write(ctx, w.b, method, path, body)
			if err != nil {
				w.Errorf("%s %s: %v", method, path, err)
				return
			}
			at.Store(max(at.Load(), rev))
		}
	}()
	return func() { <-done }
}

// reinitialize has a read its ConfigMaps anew, as after a compaction that it was too late for. It returns when a has noticed.
func (w *world) reinitialize(rev int64) {
	w.Helper()
	probe := w.watch(w.a, history.Scope{Resource: configMaps, Namespace: "kube-system"}, history.AtRevision, w.head())
	n, err := w.tap.say(configMapsKey, &etcdserverpb.WatchResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: rev}, Canceled: true, CompactRevision: rev})
	if err != nil || n == 0 {
		w.Fatalf("ending %d watches of etcd: %v", n, err)
	}
	probe.waitEnd()
}

// ready waits until a answers from its cache with rev or later.
func (w *world) ready(namespace string, rev int64) {
	w.Helper()
	servers.Eventually(w, "a to answer from its cache", func() bool {
		// Its cache has to ask etcd how far it is, for this.
		status, list := w.list(w.a, fmt.Sprintf("%s?resourceVersion=%d", pathOf(namespace), rev))
		return status == http.StatusOK && list.rev >= rev
	})
}
