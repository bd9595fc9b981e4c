// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package swap

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/servers"
)

// emulatedEnv are versions with commas between, each one that an older server emulates; "=" before one has the other server emulate
// it too.
const emulatedEnv = "WEIR_EMULATED"

// The addresses that servers put into the endpoints of the service kubernetes. Nobody is asked to reach them.
const (
	olderAddress = "192.0.2.1"
	newerAddress = "192.0.2.2"
)

// pair are two servers over one etcd.
type pair struct {
	room         *rig.Room
	store        *clientv3.Client
	older, newer *rig.Server
}

// weir serves one etcd together with a kube-apiserver of an older version, as upstream's server of weir's version does.
func TestBesideOlder(t *testing.T) {
	if testing.Short() {
		t.Skip("starts several servers")
	}
	t.Parallel() // most of it is waiting
	seed := setting(t, seedEnv, rand.Uint64(), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("%s=%d", seedEnv, seed)
	for _, version := range strings.Split(cmp.Or(os.Getenv(emulatedEnv), "1.36"), ",") {
		t.Run(version, func(t *testing.T) { besideOlder(t, seed, version) })
	}
}

func besideOlder(t *testing.T, seed uint64, version string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	version, both := strings.CutPrefix(version, "=")
	// Upstream's pair says what is to be expected.
	reference, ours := startOlder(ctx, t, version), startOlder(ctx, t, version)
	all := []*pair{reference, ours}
	for i, name := range []string{servers.Stock, servers.Weir} {
		if err := all[i].older.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		client, err := dynamic.NewForConfig(configOf(t, all[i].older)("admin"))
		if err != nil {
			t.Fatal(err)
		}
		makeNamespace(ctx, t, client)
		define(ctx, t, client, kinds[len(kinds)-1])
		emulated := ""
		if both {
			emulated = version
		}
		all[i].newer = all[i].start(t, name, newerAddress, emulated)
	}
	for _, p := range all {
		if err := p.newer.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}

	l := newLoad(t, seed, &atomic.Int64{}, configOf(t, ours.older), configOf(t, ours.newer))
	var w watching
	w.watch(ctx, t, " at the older one", l.turn, configOf(t, ours.older))
	w.watch(ctx, t, " at weir", l.turn, configOf(t, ours.newer))
	w.synced(t)
	l.resume(ctx)
	goal := int64(3 * enough)
	servers.Eventually(t, fmt.Sprintf("%d writes to be acknowledged", goal), func() bool { return l.acks.Load() >= goal })
	l.pause(t)
	w.agree(ctx, t, ours.store)
	w.toldAll(t, l)
	for _, one := range w.list {
		for _, b := range one.requests.begins(one.kind) {
			t.Errorf("%s listed again: %s", one.name, b.why)
		}
	}

	ours.sameAnswers(ctx, t)
	sameDiscovery(ctx, t, reference, ours)
	quiet(ctx, t, reference, ours)
	t.Logf("%d writes acknowledged, %d not answered; %d informers", l.acks.Load(), l.unknown(), len(w.list))

	// The older one goes on alone, with all that weir wrote.
	if err := ours.newer.Stop(servers.Patience); err != nil {
		t.Error(err)
	}
	servers.Eventually(t, "the older server's address to be the only one", func() bool {
		return slices.Equal(addresses(ctx, ours.older), []string{olderAddress})
	})
	client, err := dynamic.NewForConfig(configOf(t, ours.older)("check"))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		there, err := client.Resource(k.GroupVersionResource).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		marks := map[string]string{}
		for _, o := range there.Items {
			marks[o.GetName()] = o.GetAnnotations()[markKey]
		}
		if err := l.check(k, marks); err != nil {
			t.Error(err)
		}
	}
	cancel()
	w.running.Wait()
}

func startOlder(ctx context.Context, t *testing.T, version string) *pair {
	t.Helper()
	p := &pair{room: servers.Room(t)}
	etcd, err := p.room.StartEtcd(ctx, rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p.store, err = etcd.Client(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.store.Close() }) // it has nothing to lose
	p.older = p.start(t, servers.Stock, olderAddress, version)
	return p
}

func (p *pair) start(t *testing.T, name, address, emulated string) *rig.Server {
	t.Helper()
	program := servers.Program(name, encryption(t, p.room, 0, 1), "--endpoint-reconciler-type=lease", "--advertise-address="+address)
	program.Etcd = p.store.Endpoints()
	if emulated != "" {
		program.Args = append(program.Args, "--emulated-version="+emulated)
		program.Name += "-" + emulated
	}
	if name == servers.Stock {
		program.Args = append(program.Args, "--shutdown-watch-termination-grace-period=5s")
	}
	server, err := p.room.StartServer(program)
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func configOf(t *testing.T, server *rig.Server) func(agent string) *rest.Config {
	return func(agent string) *rest.Config {
		config, err := server.RESTConfig(agent)
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
}

// sameAnswers holds that what both servers serve is the same at both, resource by resource, in each version.
func (p *pair) sameAnswers(ctx context.Context, t *testing.T) {
	t.Helper()
	older, newer := resources(t, p.older), resources(t, p.newer)
	compared, differ := 0, ""
	defer func() {
		if differ != "" {
			t.Logf("%.3000s", differ)
		}
	}()
	for _, path := range older {
		if !slices.Contains(newer, path) {
			continue
		}
		compared++
		servers.Eventually(t, path+" to be the same at both servers", func() bool {
			one, err1 := items(ctx, p.older, path)
			other, err2 := items(ctx, p.newer, path)
			if err1 == nil && err2 == nil && reflect.DeepEqual(one, other) {
				differ = ""
				return true
			}
			differ = fmt.Sprintf("%s: %v (%v) at the older one, %v (%v) at weir", path, one, err1, other, err2)
			return false
		})
	}
	t.Logf("%d resources are the same at both; the older one has %d, the newer one %d", compared, len(older), len(newer))
	if compared < 50 {
		t.Error("that are too few to say anything")
	}
	for _, s := range []*rig.Server{p.older, p.newer} {
		servers.Eventually(t, s.Name()+" to give the addresses of both", func() bool {
			return slices.Equal(addresses(ctx, s), []string{olderAddress, newerAddress})
		})
	}
}

// resources are the paths of all that can be listed.
func resources(t *testing.T, s *rig.Server) (paths []string) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(configOf(t, s)("discovery"))
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		base := "/apis/" + list.GroupVersion
		if !strings.Contains(list.GroupVersion, "/") {
			base = "/api/" + list.GroupVersion
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "list") {
				paths = append(paths, base+"/"+r.Name)
			}
		}
	}
	slices.Sort(paths)
	return paths
}

func items(ctx context.Context, s *rig.Server, path string) (any, error) {
	said, err := read(ctx, s, path, forms[0])
	if err != nil {
		return nil, err
	}
	var list map[string]any
	err = json.Unmarshal([]byte(said), &list)
	delete(list, "metadata") // the revision is that of the moment
	return list, err
}

// sameDiscovery holds that each server of a pair offers what its counterpart in upstream's pair does.
func sameDiscovery(ctx context.Context, t *testing.T, reference, ours *pair) {
	t.Helper()
	const discovered = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	differ := ""
	defer func() {
		if differ != "" {
			t.Log(differ)
		}
	}()
	for what, two := range map[string][2]*rig.Server{"the older ones": {reference.older, ours.older}, "the newer ones": {reference.newer, ours.newer}} {
		for _, path := range []string{"/api", "/apis", "/apis/apiregistration.k8s.io/v1/apiservices"} {
			form := discovered
			if strings.HasSuffix(path, "apiservices") {
				form = forms[0]
			}
			answer := func(s *rig.Server) string {
				said, err := read(ctx, s, path, form)
				if err != nil {
					return err.Error()
				}
				if form == discovered {
					return said
				}
				return fmt.Sprint(names(said))
			}
			servers.Eventually(t, path+" to be the same at "+what, func() bool {
				want, got := answer(two[0]), answer(two[1])
				if differ = ""; got != want {
					differ = fmt.Sprintf("%s at %s: got\n%s\nwant\n%s", path, what, got, want)
				}
				return got == want
			})
		}
	}
}

// names are those of a list's items.
func names(list string) []string {
	var of struct {
		Items []struct {
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(list), &of); err != nil {
		return []string{err.Error()}
	}
	found := make([]string, 0, len(of.Items))
	for _, i := range of.Items {
		found = append(found, i.Metadata.Name)
	}
	slices.Sort(found)
	return found
}

// addresses are those of the service kubernetes.
func addresses(ctx context.Context, s *rig.Server) []string {
	said, err := read(ctx, s, "/api/v1/namespaces/default/endpoints/kubernetes", forms[0])
	if err != nil {
		return nil
	}
	var e struct {
		Subsets []struct {
			Addresses []struct {
				IP string `json:"ip"`
			} `json:"addresses"`
		} `json:"subsets"`
	}
	if err := json.Unmarshal([]byte(said), &e); err != nil || len(e.Subsets) != 1 {
		return nil
	}
	var list []string
	for _, a := range e.Subsets[0].Addresses {
		list = append(list, a.IP)
	}
	return list
}

// renewals is how often the older server renews its lease while it is watched what the two write: every 10 s.
const renewals = 2

// quiet holds that two servers that nobody writes to leave alone what upstream's pair leaves alone: nothing is written by the one
// and changed back by the other.
func quiet(ctx context.Context, t *testing.T, reference, ours *pair) {
	t.Helper()
	wrote := [2]map[string]int{}
	ctx, cancel := context.WithTimeout(ctx, servers.Patience)
	defer cancel()
	watches := [2]clientv3.WatchChan{reference.store.Watch(ctx, "/", clientv3.WithPrefix()), ours.store.Watch(ctx, "/", clientv3.WithPrefix())}
	for i, events := range watches {
		wrote[i] = map[string]int{}
		renewed := 0
		for renewed < renewals {
			answer, open := <-events
			if err := answer.Err(); err != nil || !open {
				t.Fatalf("watch etcd until the older server has renewed its lease %d times: %v, %v", renewals, err, ctx.Err())
			}
			for _, e := range answer.Events {
				wrote[i][string(e.Kv.Key)]++
				if strings.HasPrefix(string(e.Kv.Key), "/registry/masterleases/"+olderAddress) {
					renewed++
				}
			}
		}
	}
	for key, times := range wrote[1] {
		if wrote[0][key] == 0 && times > 1 {
			t.Errorf("%s was written %d times while nobody asked for it, and not at all by upstream's two servers", key, times)
		}
	}
	t.Logf("written by themselves by upstream's two: %v; by weir and the older one: %v", slices.Sorted(maps.Keys(wrote[0])), slices.Sorted(maps.Keys(wrote[1])))
}
