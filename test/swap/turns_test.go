// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package swap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/servers"
)

const (
	turnsEnv = "WEIR_TURNS" // changes from one server to another; the first two are in the short form too
	seedEnv  = "WEIR_SEED"
	// enough is how many writes are acknowledged between two changes, before and after, so that all kinds are among them.
	enough = 300
)

// The ways in which a server takes another's place.
const (
	oneAfterTheOther = "one after the other"
	killed           = "after a kill"
	beside           = "beside each other"
)

// front is an address that stands for one server after the other: whoever dials it reaches the one that is its own now.
type front struct{ to atomic.Pointer[rig.Server] }

// config is that of a client with a connection of its own.
func (f *front) config(t *testing.T) func(agent string) *rest.Config {
	return func(agent string) *rest.Config {
		config, err := f.to.Load().RESTConfig(agent)
		if err != nil {
			t.Fatal(err)
		}
		dialer := &net.Dialer{}
		config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, strings.TrimPrefix(f.to.Load().URL, "https://"))
		}
		config.Timeout = 0 // as client-go's own
		return config
	}
}

// stage is where the servers take turns.
type stage struct {
	t     *testing.T
	room  *rig.Room
	etcd  *rig.Etcd
	store *clientv3.Client
	keys  int // of encryption, one for each turn

	turn   atomic.Int64
	front  front
	server *rig.Server // the one that serves
	load   *load
	all    watching
	// kept are objects that are not written any more: their paths, and what was last said of them.
	kept map[string]string
}

func setting[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	t.Helper()
	given := os.Getenv(name)
	if given == "" {
		return otherwise
	}
	v, err := parse(given)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, given, err)
	}
	return v
}

// Stock, weir and stock take turns under writes and informers. See the package's documentation.
func TestTurns(t *testing.T) {
	if testing.Short() {
		t.Skip("starts several servers")
	}
	t.Parallel()
	turns := setting(t, turnsEnv, 2, strconv.Atoi)
	seed := setting(t, seedEnv, rand.Uint64(), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("%s=%d", seedEnv, seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	s := &stage{t: t, room: servers.Room(t), keys: turns + 1, kept: map[string]string{}}
	var err error
	if s.etcd, err = s.room.StartEtcd(ctx, rig.EtcdOptions{}); err != nil {
		t.Fatal(err)
	}
	if s.store, err = s.etcd.Client(ctx); err != nil {
		t.Fatal(err)
	}
	defer s.store.Close()
	s.server = s.start(servers.Stock)
	s.front.to.Store(s.server)
	if err := s.server.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(s.front.config(t)("admin"))
	if err != nil {
		t.Fatal(err)
	}
	makeNamespace(ctx, t, client)
	define(ctx, t, client, kinds[len(kinds)-1])
	s.keep(ctx, client)

	s.load = newLoad(t, seed, &s.turn, s.front.config(t))
	s.all.watch(ctx, t, "", &s.turn, s.front.config(t))
	s.all.synced(t)
	s.load.resume(ctx)
	s.written()
	s.load.pause(t)
	s.compare(ctx)

	for turn := range turns {
		next := []string{servers.Weir, servers.Stock}[turn%2]
		how := []string{oneAfterTheOther, beside}[min(turn, 1)]
		if turn > 1 {
			how = []string{oneAfterTheOther, killed, beside}[rnd.IntN(3)]
		}
		s.change(ctx, next, how)
		s.keep(ctx, client)
		s.load.pause(t)
		s.compare(ctx)
	}
	s.all.toldAll(t, s.load)
	t.Logf("%d changes; %d writes acknowledged, %d not answered; %d informers", turns, s.load.acks.Load(), s.load.unknown(), len(s.all.list))
	cancel()
	s.all.running.Wait()
}

// start starts the server of the turn that begins.
func (s *stage) start(name string) *rig.Server {
	s.t.Helper()
	turn := int(s.turn.Load())
	program := servers.Program(name, encryption(s.t, s.room, turn, s.keys))
	program.Name = fmt.Sprintf("%s-%d", name, turn)
	program.Etcd = s.etcd.Endpoints()
	if name == servers.Stock {
		// Without it, it keeps its watches, and itself, for a minute after it was asked to end.
		program.Args = append(program.Args, "--shutdown-watch-termination-grace-period=5s")
	}
	server, err := s.room.StartServer(program)
	if err != nil {
		s.t.Fatal(err)
	}
	return server
}

// written waits until so many writes have been acknowledged from now on.
func (s *stage) written() {
	s.t.Helper()
	goal := s.load.acks.Load() + enough
	servers.Eventually(s.t, fmt.Sprintf("%d more writes to be acknowledged", enough), func() bool {
		return s.load.acks.Load() >= goal
	})
}

// change has another server take the place of the one that serves, while all write.
func (s *stage) change(ctx context.Context, next, how string) {
	t, old := s.t, s.server
	t.Helper()
	begun := time.Now()
	switch how {
	case beside:
		s.turn.Add(1)
		s.server = s.start(next)
		if err := s.server.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		s.sameAt(ctx, s.server)
		s.load.resume(ctx)
		s.written()
		// What informers have been told of is in the new server's history: a revision after its start.
		head, err := s.store.Get(ctx, "head", clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		s.all.reach(t, head.Header.Revision)
		s.front.to.Store(s.server)
		if err := old.Stop(servers.Patience); err != nil {
			t.Error(err)
		}
	default:
		s.load.resume(ctx)
		s.written()
		s.turn.Add(1)
		if how == killed {
			old.Kill()
		} else if err := old.Stop(servers.Patience); err != nil {
			t.Error(err)
		}
		s.server = s.start(next)
		// As with a static Pod: clients come as soon as it listens, before it is ready.
		s.front.to.Store(s.server)
		if err := s.server.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		s.sameAt(ctx, s.server)
	}
	s.written()
	head, err := s.store.Get(ctx, "head", clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	s.all.reach(t, head.Header.Revision)
	took := time.Since(begun).Round(100 * time.Millisecond)
	why := map[string]int{}
	for _, one := range s.all.list {
		for _, b := range one.requests.begins(one.kind) {
			if b.turn != s.turn.Load() {
				continue
			}
			why[b.why]++
			// Upstream may begin a watch that comes back while it ends watches, and end it at once.
			if how == beside && !(next == servers.Weir && b.why == endedEmpty) {
				t.Errorf("turn %d, to %s, %s: %s listed again: %s", b.turn, next, how, one.name, b.why)
			}
			if b.why == ended {
				t.Errorf("turn %d, to %s, %s: %s listed again without a reason", b.turn, next, how, one.name)
			}
		}
	}
	t.Logf("turn %d, to %s, %s: %v; lists again by reason: %v", s.turn.Load(), next, how, took, why)
}

// compare holds what there is against the accounts of the writers, and the informers against etcd, while nobody writes.
func (s *stage) compare(ctx context.Context) {
	t := s.t
	t.Helper()
	client, err := dynamic.NewForConfig(s.front.config(t)("compare"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		there, err := client.Resource(k.GroupVersionResource).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		marks, have := map[string]string{}, map[string]string{}
		for _, o := range there.Items {
			have[o.GetName()] = o.GetResourceVersion()
			if !strings.HasPrefix(o.GetName(), "kept-") {
				marks[o.GetName()] = o.GetAnnotations()[markKey]
			}
		}
		if err := s.load.check(k, marks); err != nil {
			t.Errorf("turn %d: %v", s.turn.Load(), err)
		}
		want, err := k.revisions(ctx, s.store)
		if err != nil {
			t.Fatal(err)
		}
		if d := difference(have, want); d != "" {
			t.Errorf("turn %d: a list of %s is not what etcd has: %s", s.turn.Load(), k.Resource, d)
		}
	}
	if err := encrypted(ctx, s.store, int(s.turn.Load())); err != nil {
		t.Errorf("turn %d: %v", s.turn.Load(), err)
	}
	s.all.agree(ctx, t, s.store)
}

// forms are those in which the objects that stay are read.
var forms = []string{"application/json", "application/vnd.kubernetes.protobuf"}

// keep has the server that serves make one object of each kind, which stays as it is, and a definition with an object of its kind.
func (s *stage) keep(ctx context.Context, client dynamic.Interface) {
	s.t.Helper()
	turn := s.turn.Load()
	own := widgets(fmt.Sprintf("kept%ds", turn), fmt.Sprintf("Kept%d", turn))
	define(ctx, s.t, client, own)
	for _, k := range append(kinds[:len(kinds):len(kinds)], own) {
		name := fmt.Sprintf("kept-%d", turn)
		if _, err := client.Resource(k.GroupVersionResource).Namespace(namespace).Create(ctx, k.object(name, ""), metav1.CreateOptions{}); err != nil {
			s.t.Fatal(err)
		}
		for _, form := range forms {
			if !k.builtin && form != forms[0] {
				continue
			}
			s.note(ctx, k.path()+"/"+name, form)
		}
	}
	for _, form := range forms {
		s.note(ctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+own.Resource+"."+group, form)
	}
}

// note remembers what the server that serves says of an object.
func (s *stage) note(ctx context.Context, path, form string) {
	s.t.Helper()
	said, err := read(ctx, s.server, path, form)
	if err != nil {
		s.t.Fatal(err)
	}
	s.kept[form+" "+path] = said
}

// sameAt holds that a server says of the objects that stay what was said by the one that made them.
func (s *stage) sameAt(ctx context.Context, server *rig.Server) {
	s.t.Helper()
	for what, want := range s.kept {
		form, path, _ := strings.Cut(what, " ")
		got, err := read(ctx, server, path, form)
		if err != nil {
			s.t.Error(err)
		} else if got != want {
			s.t.Errorf("%s says of %s:\n%q\nthe server that it was made by said:\n%q", server.Name(), what, got, want)
		}
	}
}

// read reads one path in a form.
func read(ctx context.Context, server *rig.Server, path, form string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.Base+path, nil)
	if err != nil {
		return "", err
	}
	server.Authorize(req)
	req.Header.Set("Accept", form)
	resp, err := server.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: GET %s: %s: %w: %s", server.Name(), path, resp.Status, cmp.Or(err, errors.New("want 200")), rig.FirstLine(body))
	}
	return string(body), nil
}
