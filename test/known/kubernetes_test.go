// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

// TestKnown has the scenarios that one etcd is enough for.
func TestKnown(t *testing.T) {
	w := open(t)
	for _, s := range []struct {
		name string
		run  func(*world)
	}{
		{"kubernetes-49956", kubernetes49956},
		{"kubernetes-73845", kubernetes73845},
		{"kubernetes-107133", kubernetes107133},
		{"kubernetes-116122", kubernetes116122},
		{"kubernetes-122805", kubernetes122805},
		{"kubernetes-123072-slow", kubernetes123072slow},
		{"kubernetes-123072-previous", kubernetes123072previous},
		{"kubernetes-125133", kubernetes125133},
		{"etcd-15220-lie", etcd15220lie},
		{"etcd-15220-reads", etcd15220reads},
		{"etcd-17247", etcd17247},
		{"etcd-18089-lie", etcd18089lie},
		{"etcd-18089-19179", etcd18089and19179},
		{"etcd-20221-lie", etcd20221lie},
		{"etcd-20655", etcd20655},
		{"future-revision", futureRevision},
		{"too-large-revision", tooLargeRevision},
		{"changing-definition", changingDefinition},
		// The last, for they leave the largest load.
		{"kubernetes-138631-135115", kubernetes138631and135115},
	} {
		t.Run(s.name, func(t *testing.T) {
			w := w.in(t)
			defer w.tap.tell(nil)
			s.run(w)
		})
	}
}

// all is every ConfigMap of a namespace.
func all(namespace string) history.Scope {
	return history.Scope{Resource: configMaps, Namespace: namespace}
}

// one is a ConfigMap of it.
func one(namespace, name string) history.Scope {
	return history.Scope{Resource: configMaps, Namespace: namespace, Name: name}
}

// A cache that has just been read has no events. Its state is of the revision of the last change, which it cannot tell to a
// watch that begins one revision before.
func kubernetes49956(w *world) {
	ns := w.namespace()
	w.ready("kube-system", w.head())
	for n := 0; ; n++ {
		name := fmt.Sprintf("created-%d", n)
		x := w.create(ns, name, "1")
		w.reinitialize(x)
		w.ready(ns, x)
		rev := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0").rev
		if rev != x {
			if n > 5 {
				w.Fatalf("the cache is at revision %d, not %d: somebody else writes", rev, x)
			}
			continue
		}
		var watches []*watching
		for _, from := range []int64{x - 1, x} {
			for _, c := range []history.Scope{all(""), all(ns), one(ns, name), one("", name)} {
				c.Resource = configMaps
				watches = append(watches, w.watch(w.a, c, history.AtRevision, from))
			}
		}
		y := w.update(ns, name, "2")
		for _, r := range watches {
			if h := r.settle(y); expired(&h) && h.From == x {
				w.Errorf("a watch at the cache's own revision %d is refused: %+v", x, h)
			}
		}
		return
	}
}

// Watches begin, in all ways, while much is written: what they begin with must not come a second time.
func kubernetes73845(w *world) {
	ns := w.namespace()
	at := &atomic.Int64{}
	at.Store(w.create(ns, "first", "1"))
	wait := w.churn(w.Context(), ns, 320, 4, at)
	var watches []*watching
	for range 20 {
		for _, c := range []history.Scope{all(ns), one(ns, "churn-1")} {
			watches = append(watches,
				w.begin(w.a, c, history.WatchList, 0), w.begin(w.a, c, history.AtZero, 0), w.begin(w.a, c, history.AtRevision, at.Load()))
		}
		watches[len(watches)-1].answered()
	}
	wait()
	// So that there is something that all have to see.
	w.create(ns, "last", "1")
	status, _ := w.b.Do(http.MethodPost, pathOf(ns), configMap("churn-1", "last"))
	if status != http.StatusCreated {
		w.update(ns, "churn-1", "last")
	}
	due := w.head()
	for _, r := range watches {
		r.settle(due)
	}
}

// A resource that does not change is asked for at a revision that another server, or another resource, has told.
func kubernetes107133(w *world) {
	ns := w.namespace()
	quiet := "/apis/node.k8s.io/v1/runtimeclasses"
	for i := range 5 {
		w.create(ns, fmt.Sprintf("c-%d", i), "1") // revisions that are not the quiet resource's
		told := w.mustList(w.b, quiet)
		path := fmt.Sprintf("%s?resourceVersion=%d", quiet, told.rev)
		for _, q := range []string{"", "&resourceVersionMatch=NotOlderThan", "&resourceVersionMatch=Exact", "&limit=1"} {
			if l := w.mustList(w.a, path+q); l.rev < told.rev {
				w.Errorf("%s: revision %d, want %d or later", path+q, l.rev, told.rev)
			}
		}
		if status, l := w.list(w.a, fmt.Sprintf("%s/none?resourceVersion=%d", quiet, told.rev)); status != http.StatusNotFound {
			w.Errorf("a Get of what is not there, at revision %d: %d %s", told.rev, status, l.Message)
		}
		r := w.beginPath(w.a, quiet, url.Values{"resourceVersion": {strconv.FormatInt(told.rev, 10)}}, history.Watch{Start: history.WatchList})
		if !r.wait("the end of the initial events", initialEnd) {
			w.Errorf("a watch list at revision %d: %+v", told.rev, r.record())
		}
		r.stop()
	}
}

func initialEnd(h *history.Watch) bool {
	return slices.ContainsFunc(h.Events, func(e history.Event) bool { return e.InitialEnd })
}

// Watches begin while the cache is read anew. Each has to go on or to end: one that stays open and hears nothing is lost.
func kubernetes116122(w *world) {
	ns := w.namespace()
	at := &atomic.Int64{}
	at.Store(w.create(ns, "first", "1"))
	for round := range 3 {
		wait := w.churn(w.Context(), ns, 160, 4, at)
		var watches []*watching
		begin := func() {
			for _, c := range []history.Scope{all(ns), one(ns, "last"), all("")} {
				c.Resource = configMaps
				watches = append(watches, w.begin(w.a, c, history.AtRevision, at.Load()), w.begin(w.a, c, history.WatchList, 0))
			}
		}
		begin()
		again := make(chan struct{})
		go func() {
			defer close(again)
			if n, err := w.tap.say(configMapsKey, &etcdserverpb.WatchResponse{
				Header: &etcdserverpb.ResponseHeader{Revision: at.Load()}, Canceled: true, CompactRevision: at.Load()}); err != nil || n == 0 {
				w.Errorf("ending %d watches of etcd: %v", n, err)
			}
		}()
		for range 8 {
			begin()
			watches[len(watches)-1].answered()
		}
		<-again
		wait()
		w.ready(ns, at.Load())
		begin()
		watches[len(watches)-1].answered()
		due := w.create(ns, fmt.Sprintf("last-%d", round), "1")
		if round == 0 {
			due = w.create(ns, "last", "1")
		} else {
			due = max(due, w.update(ns, "last", strconv.Itoa(round)))
		}
		for _, r := range watches {
			r.settle(due)
		}
	}
}

// Every watch list says where its initial events end, whatever revision it asks for and however little there is.
func kubernetes122805(w *world) {
	ns, empty := w.namespace(), w.namespace()
	at := &atomic.Int64{}
	at.Store(w.create(ns, "first", "1"))
	paths := []string{
		pathOf(ns), pathOf(empty), "/api/v1/" + configMaps, pathOf(ns) + "?fieldSelector=metadata.name%3Dfirst", pathOf(ns) + "?labelSelector=a%3Db",
		"/apis/node.k8s.io/v1/runtimeclasses", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn",
	}
	wait := w.churn(w.Context(), ns, 200, 4, at)
	for range 3 {
		for _, path := range paths {
			path, query, _ := strings.Cut(path, "?")
			for _, rev := range []string{"unset", "", "0", strconv.FormatInt(at.Load(), 10)} {
				q, err := url.ParseQuery(query)
				if err != nil {
					w.Fatal(err)
				}
				if rev != "unset" {
					q.Set("resourceVersion", rev)
				}
				r := w.beginPath(w.a, path, q, history.Watch{Start: history.WatchList})
				if !r.wait("the end of the initial events", initialEnd) {
					w.Errorf("%s at %q: %+v", path, rev, r.record())
				}
				r.stop()
				seen := map[history.Key]bool{}
				for _, e := range r.record().Events {
					if e.InitialEnd {
						break
					}
					if e.Kind != history.Added || seen[e.Key] {
						w.Errorf("%s at %q: %s of %v among the initial events", path, rev, e.Kind, e.Key)
					}
					seen[e.Key] = true
				}
			}
		}
	}
	wait()
}

// The server is too slow for etcd, which compacts what it has not sent yet: the deletions of that time must not be lost.
func kubernetes123072slow(w *world) {
	ns := w.namespace()
	const objects = 5
	for i := range objects {
		w.create(ns, fmt.Sprintf("gone-%d", i), "1")
	}
	start := w.head()
	w.ready(ns, start-1)
	r := w.watch(w.a, all(ns), history.AtRevision, start)
	slow := make(chan struct{})
	w.tap.tell(func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
		if key == configMapsKey {
			<-slow
		}
		return []*etcdserverpb.WatchResponse{r}
	})
	// More than connections and etcd's own buffer take.
	large := strings.Repeat("x", 60_000)
	for i := range 300 {
		w.update(ns, fmt.Sprintf("gone-%d", i%objects), strconv.Itoa(i)+large)
	}
	var last int64
	for i := range objects {
		last = w.remove(ns, fmt.Sprintf("gone-%d", i))
	}
	w.reached(last)
	w.compact(last)
	after := w.create(ns, "after", "1")
	w.reached(after)
	w.tap.tell(nil)
	close(slow)
	w.ready(ns, after)
	if l := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0"); !maps.Equal(l.names, map[string]int64{"after": after}) {
		w.Errorf("after all has been deleted there is %v, want what was created after that", l.names)
	}
	h := r.settle(after)
	if resumed := w.watch(w.a, all(ns), history.AtRevision, h.Last()); h.Last() < after {
		resumed.settle(after)
	}
}

// etcd tells of a deletion without the value before, because that has been compacted. The watch of etcd is taken up again,
// and nothing may be left out by that.
func kubernetes123072previous(w *world) {
	ns := w.namespace()
	for _, compact := range []bool{false, true} {
		w.create(ns, "stays", "1")
		w.create(ns, "goes", "1")
		start := w.head()
		r := w.watch(w.a, all(ns), history.AtRevision, start)
		w.ready(ns, start)
		told := make(chan struct{}, 1)
		resume := make(chan struct{})
		w.tap.tell(func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
			if key != configMapsKey {
				return []*etcdserverpb.WatchResponse{r}
			}
			for _, e := range r.Events {
				if e.Type == mvccpb.DELETE && e.PrevKv != nil {
					select {
					case told <- struct{}{}: // the first time only
						e.PrevKv = nil
						<-resume
					default:
					}
				}
			}
			return []*etcdserverpb.WatchResponse{r}
		})
		w.update(ns, "stays", "2")
		gone := w.remove(ns, "goes")
		after := w.update(ns, "stays", "3")
		if compact {
			w.reached(after)
			w.compact(gone + 1) // what comes after the deletion is there, the deletion is not
		}
		close(resume)
		w.ready(ns, after)
		if l := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0"); !maps.Equal(l.names, map[string]int64{"stays": after}) {
			w.Errorf("there is %v, want what has not been deleted", l.names)
		}
		r.settle(after)
		w.tap.tell(nil)
		w.remove(ns, "stays")
	}
}

// A watch of one Namespace, by the path that names it, has the name for its namespace, in which a Namespace is not.
func kubernetes125133(w *world) {
	ns := w.namespace()
	path := "/api/v1/namespaces/" + ns
	rev := w.mustList(w.b, "/api/v1/namespaces").rev
	from := url.Values{"resourceVersion": {strconv.FormatInt(rev, 10)}}
	named := url.Values{"fieldSelector": {"metadata.name=" + ns}}
	watches := map[string]*watching{
		"by the path":                w.beginPath(w.a, "/api/v1/watch/namespaces/"+ns, url.Values{}, history.Watch{}),
		"by the path, at a revision": w.beginPath(w.a, "/api/v1/watch/namespaces/"+ns, from, history.Watch{}),
		"by a selector":              w.beginPath(w.a, "/api/v1/namespaces", named, history.Watch{}),
		"of all":                     w.beginPath(w.a, "/api/v1/watch/namespaces", url.Values{}, history.Watch{}),
	}
	inside := map[string]*watching{
		"of what is in it, by the path": w.beginPath(w.a, "/api/v1/watch/namespaces/"+ns+"/configmaps", url.Values{}, history.Watch{}),
		"of one in it, by the path":     w.beginPath(w.a, "/api/v1/watch/namespaces/"+ns+"/configmaps/inside", url.Values{}, history.Watch{}),
	}
	for _, all := range []map[string]*watching{watches, inside} {
		for _, r := range all {
			r.answered()
		}
	}
	label := func(value string) int64 {
		return w.revision(w.b.Must(http.MethodPatch, path, map[string]any{"metadata": map[string]any{"labels": map[string]any{"l": value}}}))
	}
	for _, rev := range []int64{label("1"), label("2")} {
		for name, r := range watches {
			if !r.event(history.Modified, ns, rev) {
				w.Errorf("the watch %s has ended: %+v", name, r.record())
			}
		}
	}
	rev = w.create(ns, "inside", "1")
	for name, r := range inside {
		if !r.event(history.Added, "inside", rev) {
			w.Errorf("the watch %s has ended: %+v", name, r.record())
		}
	}
}

// checks returns how often b's consistency checker has come to each result for a resource.
func (w *world) checks(resource string) map[string]int {
	w.Helper()
	_, text := w.b.Do(http.MethodGet, "/metrics", nil)
	found := map[string]int{}
	line := regexp.MustCompile(`(?m)^apiserver_storage_consistency_checks_total\{group="",resource="` + resource + `",status="(\w+)"\} (\d+)`)
	for _, m := range line.FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[2]))
		if err != nil {
			w.Fatal(err)
		}
		found[string(m[1])] = n
	}
	return found
}

// checked waits until b's checker has come to a result more often than before.
func (w *world) checked(resource, result string, more int) (before, after map[string]int) {
	w.Helper()
	before = w.checks(resource)
	servers.Eventually(w, "the consistency checker to say "+result+" of "+resource, func() bool {
		after = w.checks(resource)
		return after[result] >= before[result]+more
	})
	return before, after
}

// The consistency checker compares more than what etcd sends at once, and finds no difference where there is none. An object
// whose key is another's, as a broken disk makes it, is a difference, and harms nobody but the one of that name; that heals.
func kubernetes138631and135115(w *world) {
	ns := w.namespace()
	path := "/api/v1/namespaces/" + ns + "/podtemplates"
	w.b.Must(http.MethodPost, path, object("v1", "PodTemplate", "model", map[string]any{"template": map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}}}))
	prefix := "/registry/podtemplates/" + ns + "/"
	model, err := w.etcdC.Get(w.Context(), prefix+"model")
	if err != nil || len(model.Kvs) != 1 {
		w.Fatalf("the model in etcd: %v %v", model, err)
	}
	copyAs := func(name string) string {
		var u runtime.Unknown
		var template corev1.PodTemplate
		if err := u.Unmarshal(model.Kvs[0].Value[len(magic):]); err != nil {
			w.Fatal(err)
		}
		if err := template.Unmarshal(u.Raw); err != nil {
			w.Fatal(err)
		}
		template.Name, template.UID = name, types.UID(name)
		if u.Raw, err = template.Marshal(); err != nil {
			w.Fatal(err)
		}
		data, err := u.Marshal()
		if err != nil {
			w.Fatal(err)
		}
		return magic + string(data)
	}
	const objects, together = 10_100, 100 // the checker reads 10,000 at once
	for i := 0; i < objects; i += together {
		var puts []clientv3.Op
		for n := range together {
			name := fmt.Sprintf("t-%05d", i+n)
			puts = append(puts, clientv3.OpPut(prefix+name, copyAs(name)))
		}
		if _, err := w.etcdC.Txn(w.Context()).Then(puts...).Commit(); err != nil {
			w.Fatal(err)
		}
	}
	servers.Eventually(w, "b to have all", func() bool {
		status, l := w.list(w.b, path+"?labelSelector=none&resourceVersion=0")
		return status == http.StatusOK && l.rev >= w.head()-1
	})
	// A look that began while there were fewer does not count: one revision has many of them, and no cache knows when it has all.
	w.checked("podtemplates", "success", 1)
	before, after := w.checked("podtemplates", "success", 1)
	if after["error"] > before["error"] || after["failure"] > before["failure"] {
		w.Errorf("the checker said %v, and then %v", before, after)
	}

	// The value of one, under the key of another.
	y, z := prefix+"t-00001", prefix+"t-99999"
	value, err := w.etcdC.Get(w.Context(), y)
	if err != nil || len(value.Kvs) != 1 {
		w.Fatalf("one in etcd: %v %v", value, err)
	}
	if _, err := w.etcdC.Put(w.Context(), z, string(value.Kvs[0].Value)); err != nil {
		w.Fatal(err)
	}
	w.checked("podtemplates", "failure", 1)
	w.checked(configMaps, "success", 1)
	if n := w.checks(configMaps)["failure"]; n > 0 {
		w.Errorf("the checker finds ConfigMaps to differ %d times, which nobody has broken", n)
	}
	if _, err := w.etcdC.KV.Delete(w.Context(), z); err != nil {
		w.Fatal(err)
	}
	// Whoever owns the object writes it again, sooner or later.
	rev := w.revision(w.b.Must(http.MethodPatch, path+"/t-00001", map[string]any{"metadata": map[string]any{"labels": map[string]any{"again": "1"}}}))
	servers.Eventually(w, "the object to be back", func() bool {
		status, l := w.list(w.b, path+"?labelSelector=again&resourceVersion=0")
		return status == http.StatusOK && maps.Equal(l.names, map[string]int64{"t-00001": rev})
	})
	w.checked("podtemplates", "success", 1)
	// All at once, in one revision.
	r := w.beginPath(w.b, path, url.Values{"fieldSelector": {"metadata.name=t-00001"}}, history.Watch{Start: history.AtRevision, From: rev})
	r.answered()
	gone, err := w.etcdC.KV.Delete(w.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		w.Fatal(err)
	}
	r.event(history.Deleted, "t-00001", gone.Header.Revision)
	servers.Eventually(w, "all to be gone", func() bool {
		status, l := w.list(w.b, path+"?resourceVersion=0")
		return status == http.StatusOK && len(l.Items) == 0
	})
}

// tooLargeRevision asks for what has not happened yet: a server says so, and when to come back.
func tooLargeRevision(w *world) {
	ns := w.namespace()
	future := w.head() + 1000
	var asking sync.WaitGroup
	for _, q := range []string{"?resourceVersion=%d", "?resourceVersion=%d&resourceVersionMatch=NotOlderThan", "/x?resourceVersion=%d"} {
		asking.Go(func() {
			path := pathOf(ns) + fmt.Sprintf(q, future)
			status, l := w.list(w.a, path)
			if status != http.StatusGatewayTimeout || l.Details == nil || l.Details.RetryAfterSeconds < 1 ||
				len(l.Details.Causes) != 1 || l.Details.Causes[0].Type != metav1.CauseTypeResourceVersionTooLarge {
				text, err := json.Marshal(l.item)
				w.Errorf("%s: %d %s %v", path, status, text, err)
			}
		})
	}
	defer asking.Wait()
	r := w.beginPath(w.a, pathOf(ns), url.Values{"resourceVersion": {strconv.FormatInt(future, 10)}}, history.Watch{Start: history.WatchList})
	r.waitEnd()
	h := r.record()
	if n := len(h.Events); n != 1 || h.Events[0].Kind != history.Error || h.Events[0].Code != http.StatusGatewayTimeout {
		w.Errorf("a watch list of revision %d: %+v", future, h)
	}
}
