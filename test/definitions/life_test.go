// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

const (
	lives = 4
	// pace is how often a reader asks, at most.
	pace = 50 * time.Millisecond
)

// TestLife has a definition be created, changed and deleted with its instances, several times under the same name, by upstream's server and one weir for each
// combination of the gates, over one etcd. Readers list and watch every version at every server meanwhile, and hold that what is of a life that is over is
// not shown. At the end nothing is left at any weir: no goroutine, no byte, no count of objects, and in etcd no watch.
func TestLife(t *testing.T) {
	store := etcd.Run(t)
	l := &life{gates: []string{"", "SharedCustomResourceStore=false", "CustomResourceCachesOnDemand=true", "SharedCustomResourceStore=false,CustomResourceCachesOnDemand=true"}}
	l.etcd = store.Endpoints()[0]
	t.Cleanup(l.ending.Wait)
	l.stock = servers.Start(t, servers.Stock, l.etcd).Wait()
	for _, gates := range l.gates {
		var flags []string
		if gates != "" {
			flags = append(flags, "--feature-gates="+gates)
		}
		l.weirs = append(l.weirs, servers.Start(t, servers.Weir, l.etcd, flags...).Wait())
	}
	// What is made with the first definition and stays is not left behind by any.
	l.live(t, 0)
	l.end(t, true)
	before, watches := l.counts(t), l.etcdWatches(t)
	for n := 1; n < lives; n++ {
		l.live(t, n)
		l.end(t, false) // the next is made as soon as it can be
	}
	l.gone(t)
	l.ending.Wait()
	for i, s := range l.weirs {
		t.Run("left with "+l.gates[i], func(t *testing.T) {
			left := ""
			defer func() {
				if left != "" {
					t.Log(left)
				}
			}()
			servers.Eventually(t, "nothing to be left", func() bool {
				left = before[i].left(countsOf(t, s.In(t)))
				return left == ""
			})
		})
	}
	servers.Eventually(t, "the watches of etcd to have ended", func() bool { return l.etcdWatches(t) <= watches })
}

// life is the definition and its servers.
type life struct {
	stock *servers.Server
	weirs []*servers.Server
	gates []string
	etcd  string
	// ending are watches that have to end with the definition.
	ending sync.WaitGroup
	// serial numbers the objects, n is the life.
	serial, n int
	versions  []string
}

func (l *life) all() []*servers.Server { return append([]*servers.Server{l.stock}, l.weirs...) }

const (
	moths    = "moths.life.example.com"
	mothRoot = "/apis/life.example.com/"
)

func mothPath(version string) string { return mothRoot + version + "/namespaces/default/moths" }

// mothVersion is a version of the definition; more are further fields of its spec.
func mothVersion(name, storage string, more object) object {
	spec := object{"n": object{"type": "integer"}, "text": object{"type": "string", "default": "t"}}
	maps.Copy(spec, more)
	return version(name, name == storage, properties(object{"spec": properties(spec)}), object{"additionalPrinterColumns": []object{column("text")}})
}

// define makes the definition, or changes it, and waits until all servers serve just its versions.
func (l *life) define(t *testing.T, versions ...object) {
	t.Helper()
	crd := define("life.example.com", "Moth", "Namespaced", versions...)
	was := l.versions
	l.versions = nil
	for _, of := range versions {
		l.versions = append(l.versions, of["name"].(string))
	}
	if was == nil {
		// One that is being deleted is there still.
		servers.Eventually(t, "the definition to be made", func() bool {
			status, answer := l.weirs[l.n%len(l.weirs)].Do(http.MethodPost, crds, crd)
			if status != http.StatusCreated && status != http.StatusConflict {
				t.Fatalf("%d %s", status, answer)
			}
			return status == http.StatusCreated
		})
	} else {
		l.weirs[l.n%len(l.weirs)].Must(http.MethodPatch, crds+"/"+moths, object{"spec": object{"versions": versions}})
	}
	for _, s := range l.all() {
		for _, version := range append(slices.Clone(was), l.versions...) {
			want := http.StatusNotFound
			if slices.Contains(l.versions, version) {
				want = http.StatusOK
			}
			servers.Eventually(t, fmt.Sprintf("%s to answer %s with %d", s.Name, version, want), func() bool {
				status, _ := s.Do(http.MethodGet, mothPath(version), nil)
				return status == want
			})
		}
	}
}

// every are the names of all versions, in any life.
var every = []string{"v1", "v1beta1", "v2", "v3", "w1", "w1beta1", "w2", "w3"}

// named returns the name of a version. Those of later lives have names that the first do not know: what is stored in one cannot be read in the other.
func (l *life) named(version string) string { return []string{"v", "w"}[l.n/2%2] + version }

// live has the definition made, and changed in each way, while objects are written and readers read.
func (l *life) live(t *testing.T, n int) {
	l.n = n
	v1, v1beta1, v2, v3 := l.named("1"), l.named("1beta1"), l.named("2"), l.named("3")
	other := object{"more": object{"type": "string", "default": "m"}}
	l.define(t, mothVersion(v1, v1, nil), mothVersion(v1beta1, v1, nil), mothVersion(v2, v1, other))
	l.same(t, "created")
	l.write(t)
	r := l.read(t)
	l.same(t, "written")
	l.define(t, mothVersion(v1, v1, nil), mothVersion(v1beta1, v1, object{"late": object{"type": "string", "default": "l"}}), mothVersion(v2, v1, other))
	l.write(t)
	l.same(t, "of another schema")
	l.define(t, mothVersion(v1, v1beta1, nil), mothVersion(v1beta1, v1beta1, nil), mothVersion(v2, v1beta1, other))
	l.write(t)
	l.same(t, "stored in another version")
	l.define(t, mothVersion(v1, v1beta1, nil), mothVersion(v1beta1, v1beta1, nil), mothVersion(v3, v1beta1, nil))
	l.write(t)
	l.same(t, "a version dropped, another added")
	r.stop(t)
}

// write makes an object through every version, by turns at all servers, changes it through another, and deletes one.
func (l *life) write(t *testing.T) {
	t.Helper()
	all := l.all()
	for i, version := range l.versions {
		l.serial++
		s, name := all[l.serial%len(all)], fmt.Sprintf("m%d", l.serial)
		s.Must(http.MethodPost, mothPath(version), object{"apiVersion": "life.example.com/" + version, "kind": "Moth",
			"metadata": object{"name": name, "labels": object{"life": fmt.Sprint(l.n)}}, "spec": object{"n": l.serial}})
		through := mothPath(l.versions[(i+1)%len(l.versions)]) + "/" + name
		all[(l.serial+1)%len(all)].Must(http.MethodPatch, through, object{"spec": object{"text": strings.Repeat("x", l.serial%3*10_000)}})
		if i == 0 {
			s.Must(http.MethodDelete, through, nil)
		}
	}
}

// same waits until all servers answer alike.
func (l *life) same(t *testing.T, when string) {
	t.Helper()
	for _, s := range l.weirs {
		v := &versioned{pair: pair{l.stock, s}}
		for _, version := range l.versions {
			all := mothPath(version)
			for _, r := range []servers.Request{
				get(all, "application/json"), get(all+"?resourceVersion=0", "application/json"), get(all+"?limit=2", "application/json"),
				get(all, asTable), get(all, asPartial), get(all+"?labelSelector=life%3D"+fmt.Sprint(l.n), "application/json"),
			} {
				diff := ""
				servers.Eventually(t, when+": an equal answer", func() bool {
					was := diff
					if diff = v.compareGadgets(t, r); diff != "" && diff != was {
						t.Log(diff)
					}
					return diff == ""
				})
			}
		}
	}
}

// end deletes the definition, with its instances, while it is watched, and waits until that is known everywhere, if it is to.
func (l *life) end(t *testing.T, known bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*servers.Patience)
	var watches sync.WaitGroup
	for _, s := range l.weirs {
		for _, version := range l.versions {
			for _, query := range []string{"?watch=1", "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "?watch=1&labelSelector=life%3Dnone"} {
				resp, err := s.Open(ctx, get(mothPath(version)+query, "application/json"))
				if err != nil {
					t.Fatal(err)
				}
				watches.Go(func() {
					defer func() { _ = resp.Body.Close() }() // it has ended
					if _, err := bytes.NewBuffer(nil).ReadFrom(resp.Body); err != nil {
						t.Errorf("%s: %s%s did not end with the definition: %v", s.Name, version, query, err)
					}
				})
			}
		}
	}
	l.weirs[(l.n+1)%len(l.weirs)].Must(http.MethodDelete, crds+"/"+moths, nil)
	l.versions = nil
	if known {
		l.gone(t)
		watches.Wait()
		cancel()
		return
	}
	l.ending.Go(func() {
		defer cancel()
		watches.Wait()
	})
}

func (l *life) gone(t *testing.T) {
	t.Helper()
	for _, s := range l.all() {
		for _, version := range every {
			servers.Eventually(t, "the definition to be gone", func() bool {
				status, _ := s.Do(http.MethodGet, mothPath(version), nil)
				return status == http.StatusNotFound
			})
		}
	}
}

// readers list and watch until they are stopped.
type readers struct {
	running sync.WaitGroup
	end     context.CancelFunc
	lists   atomic.Int64
	events  atomic.Int64
}

// read begins to read every version at every server. The versions come and go meanwhile: that they are not found is no fault.
func (l *life) read(t *testing.T) *readers {
	ctx, cancel := context.WithCancel(t.Context())
	r := &readers{end: cancel}
	n := l.n
	for _, s := range l.all() {
		for _, version := range []string{l.named("1"), l.named("1beta1"), l.named("2"), l.named("3")} {
			r.running.Go(func() {
				pace := time.NewTicker(pace)
				defer pace.Stop()
				for i := 0; ctx.Err() == nil; i++ {
					<-pace.C
					r.list(ctx, t, s, version, []string{"?resourceVersion=0", "", "?limit=3"}[i%3], n)
				}
			})
			r.running.Go(func() {
				pace := time.NewTicker(pace)
				defer pace.Stop()
				for ctx.Err() == nil {
					<-pace.C
					r.watch(ctx, t, s, version, n)
				}
			})
		}
	}
	return r
}

func (r *readers) stop(t *testing.T) {
	t.Helper()
	r.end()
	r.running.Wait()
	t.Logf("%d lists, %d events", r.lists.Load(), r.events.Load())
	if r.lists.Load() == 0 || r.events.Load() == 0 {
		t.Error("which is too little to have tested anything")
	}
}

func (r *readers) list(ctx context.Context, t *testing.T, s *servers.Server, version, query string, n int) {
	a, err := s.Answer(ctx, get(mothPath(version)+query, "application/json"))
	if err != nil || a.Status == http.StatusNotFound || a.Status == http.StatusTooManyRequests {
		return
	}
	var list struct{ Items []moth }
	if err := json.Unmarshal(a.Body, &list); a.Status != http.StatusOK || err != nil {
		t.Errorf("%s: %s%s: %d %v %.300s", s.Name, version, query, a.Status, err, a.Body)
		return
	}
	for _, item := range list.Items {
		item.hold(t, s, version+query, version, n)
	}
	r.lists.Add(1)
}

// watch reads a watch with initial events until it ends.
func (r *readers) watch(ctx context.Context, t *testing.T, s *servers.Server, version string, n int) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, err := s.Open(ctx, get(mothPath(version)+"?watch=1", "application/json"))
	if err != nil {
		return
	}
	defer func() { _ = resp.Body.Close() }() // it has ended, or is cut off
	if resp.StatusCode != http.StatusOK {
		return
	}
	for events := json.NewDecoder(resp.Body); ; {
		var event struct {
			Type   string
			Object moth
		}
		if err := events.Decode(&event); err != nil {
			return
		}
		if event.Type == "ADDED" || event.Type == "MODIFIED" || event.Type == "DELETED" {
			event.Object.hold(t, s, "watch of "+version, version, n)
			r.events.Add(1)
		}
	}
}

type moth struct {
	APIVersion string
	Metadata   struct {
		Name   string
		Labels map[string]string
	}
}

// hold fails if the object is of another life, or in another version.
func (m moth) hold(t *testing.T, s *servers.Server, what, version string, n int) {
	if m.Metadata.Labels["life"] != fmt.Sprint(n) {
		t.Errorf("%s: %s: in life %d there is %s of life %s", s.Name, what, n, m.Metadata.Name, m.Metadata.Labels["life"])
	}
	if m.APIVersion != "life.example.com/"+version {
		t.Errorf("%s: %s: %s is in %s", s.Name, what, m.Metadata.Name, m.APIVersion)
	}
}

// counts are what a server has of custom resources.
type counts struct {
	goroutines stacks
	// bytes are those of the ledger that go when what they are of does, and series the lines of metrics that name the resource as a thing
	// that is there, without what has been counted.
	bytes  map[string]int64
	series []string
}

func (l *life) counts(t *testing.T) []counts {
	var all []counts
	for _, s := range l.weirs {
		c := countsOf(t, s) // the first to ask for metrics has a client of etcd made that stays
		servers.Eventually(t, "what is used no more to be let go of", func() bool {
			c = countsOf(t, s)
			return len(c.series) == 0
		})
		all = append(all, c)
	}
	return all
}

var (
	// custom are goroutines that a custom resource may have; fleeting are those that any resource has now and then.
	custom   = regexp.MustCompile(`watchcache|ondemand|sharedclient|etcd3|clientv3|grpc|\.\(\*Store\)|crdHandler|customresource`)
	fleeting = regexp.MustCompile(`ConditionalProgressRequester|dispatchParked|http2|ServeHTTP`)
	held     = regexp.MustCompile(`(?m)^weir_memory_bytes\{purpose="(derived|compressed|readers|streams)"\} (\S+)$`)
	series   = regexp.MustCompile(`(?m)^(?:weir_resource_memory_bytes|weir_cache_\w+|apiserver_storage_objects|apiserver_resource_objects|apiserver_resource_size_estimate_bytes)\{.*moths.*$`)
)

func countsOf(t *testing.T, s *servers.Server) counts {
	t.Helper()
	c := counts{goroutines: stacks{}, bytes: map[string]int64{}}
	for stack, n := range stacksOf(t, s) {
		if custom.MatchString(stack) && !fleeting.MatchString(stack) {
			// What they do now they may do elsewhere later.
			begun := strings.Split(stack, " > ")
			c.goroutines[strings.Join(begun[:min(2, len(begun))], " > ")] += n
		}
	}
	status, metrics := s.Do(http.MethodGet, "/metrics", nil)
	if status != http.StatusOK {
		t.Fatalf("%s: metrics: %d", s.Name, status)
	}
	for _, found := range held.FindAllSubmatch(metrics, -1) {
		n, err := strconv.ParseFloat(string(found[2]), 64)
		if err != nil {
			t.Fatal(err)
		}
		c.bytes[string(found[1])] = int64(n)
	}
	for _, line := range series.FindAll(metrics, -1) {
		c.series = append(c.series, string(line))
	}
	return c
}

// left says what there is more of later.
func (c counts) left(later counts) string {
	var left []string
	for stack, n := range later.goroutines.since(c.goroutines) {
		if n > 0 {
			left = append(left, fmt.Sprintf("%d goroutines %s", n, stack))
		}
	}
	for purpose, n := range later.bytes {
		if more := n - c.bytes[purpose]; more > 0 {
			left = append(left, fmt.Sprintf("%d bytes of %s", more, purpose))
		}
	}
	return strings.Join(append(left, later.series...), "\n")
}

// etcdWatches returns how many watches etcd has.
func (l *life) etcdWatches(t *testing.T) int {
	t.Helper()
	resp, err := http.Get(l.etcd + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^etcd_debugging_mvcc_watcher_total (\S+)$`).FindSubmatch(metrics)
	if found == nil {
		t.Fatal("etcd does not say how many watches it has")
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}
