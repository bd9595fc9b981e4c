// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/client/v3/kubernetes"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
	"github.com/weir-project/weir/test/webhook"
)

// TestWebhook has definitions whose versions are converted by a webhook be served by upstream's server and weir's, over one etcd, while the webhook is
// slow, fails, lies and restarts. Each part has a definition and a webhook of its own.
func TestWebhook(t *testing.T) {
	store := etcd.Run(t)
	p := pair{stock: servers.Start(t, servers.Stock, store.Endpoints()[0]), weir: servers.Start(t, servers.Weir, store.Endpoints()[0])}
	p.stock.Wait()
	p.weir.Wait()
	for name, test := range map[string]func(*testing.T, *hooked){
		"counted":    testCounted,
		"slow":       testSlow,
		"failing":    testFailing,
		"lying":      testLying,
		"restarting": testRestarting,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &hooked{versioned: versioned{pair: pair{p.stock.In(t), p.weir.In(t)}}, store: store, group: name + ".example.com"}
			h.hook = webhook.Start(t, h.convert)
			test(t, h)
		})
	}
}

// hooked is the pair with a definition of widgets, stored in v1 and served in v1, v2 and v3.
type hooked struct {
	versioned
	store *kubernetes.Client
	group string
	hook  *webhook.Webhook
}

// convert has each version have its text in a field of its own.
func (h *hooked) convert(o object, apiVersion string) error {
	spec, ok := o["spec"].(object)
	if !ok {
		return fmt.Errorf("%v has no spec", o["metadata"].(object)["name"])
	}
	from := strings.TrimPrefix(o["apiVersion"].(string), h.group+"/")
	to := strings.TrimPrefix(apiVersion, h.group+"/")
	spec["in-"+to] = spec["in-"+from]
	spec["unknown"] = from // pruned; "in-"+from as well
	return nil
}

func (h *hooked) at(version, query string) string {
	return "/apis/" + h.group + "/" + version + "/namespaces/default/widgets" + query
}

// widget is one as it is stored.
func (h *hooked) widget(name, text string) object {
	return object{
		"apiVersion": h.group + "/v1", "kind": "Widget",
		"metadata": object{"name": name, "namespace": "default", "uid": "uid-of-" + name, "creationTimestamp": "2026-01-02T03:04:05Z", "generation": 1},
		"spec":     object{"in-v1": text, "pruned": 1},
	}
}

// define stores n widgets, as another server would have, and then defines them: nobody has read them before.
func (h *hooked) define(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("w%04d", i)
		data, err := json.Marshal(h.widget(name, fmt.Sprintf("text %d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.store.KV.Put(t.Context(), "/registry/"+h.group+"/widgets/default/"+name, string(data)); err != nil {
			t.Fatal(err)
		}
	}
	var versions []object
	for _, name := range []string{"v1", "v2", "v3"} {
		spec := object{"in-" + name: object{"type": "string"}, "defaulted": object{"type": "string", "default": "in " + name}}
		versions = append(versions, version(name, name == "v1", properties(object{"spec": properties(spec)}), object{"additionalPrinterColumns": []object{{"name": "Text", "type": "string", "jsonPath": ".spec.in-" + name}}}))
	}
	crd := define(h.group, "Widget", "Namespaced", versions...)
	crd["spec"].(object)["conversion"] = h.hook.Conversion()
	h.weir.Must(http.MethodPost, crds, crd)
	for _, s := range []*servers.Server{h.weir, h.stock} {
		servers.Eventually(t, "widgets to be served by "+s.Name, func() bool {
			status, answer := s.Do(http.MethodGet, "/apis/"+h.group+"/v3", nil)
			return status == http.StatusOK && strings.Contains(string(answer), `"widgets"`)
		})
	}
}

// lists waits until a server lists n widgets in a version.
func (h *hooked) lists(t *testing.T, s *servers.Server, version string, n int) {
	t.Helper()
	servers.Eventually(t, fmt.Sprintf("%d widgets in %s to be listed by %s", n, version, s.Name), func() bool {
		status, answer := s.Do(http.MethodGet, h.at(version, ""), nil)
		return status == http.StatusOK && strings.Count(string(answer), `"uid-of-w`)+strings.Count(string(answer), `"made":`) == n
	})
}

// sameAnswers waits until both servers answer alike in all versions.
func (h *hooked) sameAnswers(t *testing.T) {
	t.Helper()
	var asked []servers.Request
	for _, version := range []string{"v1", "v2", "v3"} {
		for _, query := range []string{"", "?resourceVersion=0", "?limit=7", "/w0003", "/w0003?resourceVersion=0", "?fieldSelector=metadata.name%3Dw0005", "/none"} {
			asked = append(asked, get(h.at(version, query), "application/json"))
		}
		asked = append(asked, get(h.at(version, ""), asTable), get(h.at(version, ""), asPartial), get(h.at(version, ""), "application/yaml"))
	}
	h.same(t, asked...)
}

// same waits until both servers answer requests alike.
func (h *hooked) same(t *testing.T, asked ...servers.Request) {
	t.Helper()
	diff := ""
	defer func() {
		if diff != "" {
			t.Log(diff)
		}
	}()
	for _, r := range asked {
		servers.Eventually(t, "an equal answer", func() bool {
			diff = h.compareGadgets(t, r)
			return diff == ""
		})
	}
}

// watch opens a watch. next returns the next event that is no bookmark; it is an error when the watch has ended.
func (h *hooked) watch(t *testing.T, s *servers.Server, version, query string) (next func() ([]byte, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), servers.Patience)
	t.Cleanup(cancel)
	resp, err := s.Open(ctx, get(h.at(version, "?watch=1"+query), "application/json"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() }) // it is cut off
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: watch in %s: %d", s.Name, version, resp.StatusCode)
	}
	events := servers.Events(resp.Header.Get("Content-Type"), resp.Body)
	return func() ([]byte, error) {
		for {
			event, err := events()
			if err != nil || !strings.Contains(string(event), `"BOOKMARK"`) {
				return event, err
			}
		}
	}
}

const initial = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"

// testCounted counts what the webhook is asked when one server alone has clients in v2.
func testCounted(t *testing.T, h *hooked) {
	const n, clients = 600, 6
	h.define(t, n)
	h.hook.Reset()
	var all sync.WaitGroup
	next := make([]func() ([]byte, error), clients)
	h.lists(t, h.weir, "v1", n)
	for range clients {
		all.Go(func() { h.lists(t, h.weir, "v2", n) })
	}
	all.Wait()
	for i := range clients {
		next[i] = h.watch(t, h.weir, "v2", initial)
		for range n {
			if event, err := next[i](); err != nil || !strings.Contains(string(event), `"ADDED"`) {
				t.Fatalf("%s %v", event, err)
			}
		}
	}
	h.lists(t, h.weir, "v3", n)
	asked := h.hook.Asked()
	t.Logf("%d widgets in two versions: %d requests about %d objects, %d at once", n, asked.Requests, asked.Objects, asked.Most)
	if asked.Requests > 2*n/5 { // a batch that takes long is followed by a smaller one
		t.Errorf("%d requests about %d objects", asked.Requests, asked.Objects)
	}
	h.once(t, asked, 2*n)

	// Each change is a revision.
	h.hook.Reset()
	const made = 20
	for i := range made {
		w := h.widget(fmt.Sprintf("made%d", i), "made")
		w["metadata"] = object{"name": fmt.Sprintf("made%d", i), "labels": object{"made": "yes"}}
		h.weir.Must(http.MethodPost, h.at("v1", ""), w)
	}
	for i := range clients {
		for range made {
			if event, err := next[i](); err != nil || !strings.Contains(string(event), `"in-v2":"made"`) {
				t.Fatalf("%s %v", event, err)
			}
		}
	}
	h.lists(t, h.weir, "v3", n+made)
	for _, form := range []string{asTable, asPartial, "application/yaml"} {
		for _, version := range []string{"v2", "v3"} {
			h.answer(t, h.weir, get(h.at(version, "?resourceVersion=0"), form))
		}
	}
	h.once(t, h.hook.Asked(), 2*made)
}

// once holds that so many objects were asked about, each once.
func (h *hooked) once(t *testing.T, asked webhook.Asked, n int) {
	t.Helper()
	if len(asked.Times) != n {
		t.Errorf("asked about %d objects, not %d", len(asked.Times), n)
	}
	for what, times := range asked.Times {
		if times != 1 {
			t.Errorf("asked %d times about %.300s", times, what)
			return
		}
	}
}

// testSlow has conversion to v2 wait: all else is answered meanwhile, and what is written is told.
func testSlow(t *testing.T, h *hooked) {
	const n = 40
	h.hook.Hold(func(r *apiextensionsv1.ConversionRequest) bool { return r.DesiredAPIVersion == h.group+"/v2" })
	h.define(t, n)
	for _, s := range []*servers.Server{h.stock, h.weir} {
		before := h.hook.Asked().Held
		for _, version := range []string{"v1", "v3"} {
			h.lists(t, s, version, n)
		}
		servers.Eventually(t, "the webhook to be asked by "+s.Name, func() bool { return h.hook.Asked().Held > before })
		next := h.watch(t, s, "v3", initial)
		for range n {
			if event, err := next(); err != nil {
				t.Fatalf("%s: %s %v", s.Name, event, err)
			}
		}
		s.Must(http.MethodPatch, h.at("v1", "/w0001"), object{"spec": object{"in-v1": "written for " + s.Name}})
		if event, err := next(); err != nil || !strings.Contains(string(event), "written for "+s.Name) {
			t.Fatalf("%s: %s %v", s.Name, event, err)
		}
	}
	h.hook.Release()
	h.sameAnswers(t)

	// The same with caches that have been ready: what waits is v2 alone.
	type stream struct {
		s      *servers.Server
		v2, v3 func() ([]byte, error)
	}
	var streams []stream
	for _, s := range []*servers.Server{h.stock, h.weir} {
		from := servers.ResourceVersion(s.Must(http.MethodGet, h.at("v3", ""), nil))
		streams = append(streams, stream{s, h.watch(t, s, "v2", "&resourceVersion="+from), h.watch(t, s, "v3", "&resourceVersion="+from)})
	}
	h.hook.Hold(func(r *apiextensionsv1.ConversionRequest) bool { return r.DesiredAPIVersion == h.group+"/v2" })
	const writes = 10
	for i := range writes {
		h.weir.Must(http.MethodPatch, h.at("v1", "/w0002"), object{"spec": object{"in-v1": fmt.Sprintf("held %d", i)}})
	}
	for _, s := range streams {
		for i := range writes {
			if event, err := s.v3(); err != nil || !strings.Contains(string(event), fmt.Sprintf("held %d", i)) {
				t.Fatalf("%s: %s %v", s.s.Name, event, err)
			}
		}
		h.lists(t, s.s, "v3", n)
	}
	h.hook.Release()
	for i := range writes {
		stock, err := streams[0].v2()
		weir, other := streams[1].v2()
		if err := errors.Join(err, other); err != nil || !bytes.Equal(stock, weir) || !strings.Contains(string(weir), fmt.Sprintf("held %d", i)) {
			t.Fatalf("event %d is %s, stock's %s; %v", i, weir, stock, err)
		}
	}
	h.sameAnswers(t)
}

// alike holds that both servers answer alike at once, also where that is an error.
func (h *hooked) alike(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		var said [2]string
		for i, s := range []*servers.Server{h.stock, h.weir} {
			a := h.answer(t, s, get(path, "application/json"))
			said[i] = fmt.Sprintf("%d %s", a.Status, reviews.ReplaceAll(revisions.ReplaceAll(tokens.ReplaceAll(a.Body, nil), nil), nil))
		}
		if said[0] != said[1] {
			t.Errorf("%s is answered with\n%.1000s, by stock with\n%.1000s", path, said[1], said[0])
		}
	}
}

// reviews are the names that are made up for what a webhook is asked.
var reviews = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)

// testFailing has conversion of one object fail.
func testFailing(t *testing.T, h *hooked) {
	const n = 40
	fails := func(asked *apiextensionsv1.ConversionRequest, _ *apiextensionsv1.ConversionResponse) int {
		if asked.DesiredAPIVersion == h.group+"/v2" && webhook.Has(asked, "w0007") {
			return http.StatusInternalServerError
		}
		return 0
	}
	h.hook.Says(fails)
	h.define(t, n)
	for _, s := range []*servers.Server{h.stock, h.weir} {
		h.lists(t, s, "v1", n)
		h.lists(t, s, "v3", n)
	}
	h.alike(t, h.at("v2", "?limit=3"), h.at("v2", "?limit=20"), h.at("v2", "/w0007"), h.at("v2", "/w0003"))
	// What needs the cache is told why there is none, when that has been found out.
	for _, s := range []*servers.Server{h.stock, h.weir} {
		for _, query := range []string{"", "?resourceVersion=0", "?watch=1&resourceVersion=0", "?watch=1" + initial} {
			servers.Eventually(t, s.Name+" to say why there is no cache", func() bool {
				status, answer := s.Do(http.MethodGet, h.at("v2", query), nil)
				if status == http.StatusOK {
					t.Fatalf("%s: %s is answered: %.300s", s.Name, query, answer)
				}
				return status == http.StatusTooManyRequests && bytes.Contains(answer, []byte("/registry/"+h.group+"/widgets/default/w0007, ResourceVersion: 0, AdditionalErrorMsg: object not decodable")) &&
					bytes.Contains(answer, []byte("conversion webhook for "+h.group+"/v1, Kind=Widget failed: an error on the server"))
			})
		}
	}
	h.hook.Says(nil)
	h.sameAnswers(t)
	h.recovers(t, func() { h.hook.Says(fails) }, func() { h.hook.Says(nil) })
}

// recovers has conversion of w0007 to v2 fail and succeed again while it is watched in v2.
func (h *hooked) recovers(t *testing.T, fail, succeed func()) {
	t.Helper()
	var next []func() ([]byte, error)
	for _, s := range []*servers.Server{h.stock, h.weir} {
		from := servers.ResourceVersion(s.Must(http.MethodGet, h.at("v2", ""), nil))
		next = append(next, h.watch(t, s, "v2", "&resourceVersion="+from))
	}
	fail()
	h.weir.Must(http.MethodPatch, h.at("v1", "/w0003"), object{"spec": object{"in-v1": "before"}})
	h.weir.Must(http.MethodPatch, h.at("v1", "/w0007"), object{"spec": object{"in-v1": "failing"}})
	h.weir.Must(http.MethodPatch, h.at("v1", "/w0003"), object{"spec": object{"in-v1": "after"}})
	h.alike(t, h.at("v2", "/w0007"), h.at("v3", "/w0007"), h.at("v1", "/w0007"))
	succeed()
	for _, text := range []string{"before", "failing", "after"} {
		stock, err := next[0]()
		weir, other := next[1]()
		if err := errors.Join(err, other); err != nil || !bytes.Equal(stock, weir) || !strings.Contains(string(weir), text) {
			t.Fatalf("%s: the event is %s, stock's %s; %v", text, weir, stock, err)
		}
	}
	h.sameAnswers(t)
}

// testLying has the webhook lie in every way about one object.
func testLying(t *testing.T, h *hooked) {
	const n = 40
	var lie webhook.Answer
	var mu sync.Mutex
	// One that no list here gets to fails all the time: some lies do no harm, and who reads everything while such a one is told has a cache of it from then on.
	lies := func(asked *apiextensionsv1.ConversionRequest, response *apiextensionsv1.ConversionResponse) int {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case lie == nil || asked.DesiredAPIVersion != h.group+"/v2":
		case webhook.Has(asked, "w0030"):
			return http.StatusInternalServerError
		case webhook.Has(asked, "w0007"):
			return lie(asked, response)
		}
		return 0
	}
	first := true
	for name, of := range webhook.Lies() {
		mu.Lock()
		lie = of
		mu.Unlock()
		if first {
			h.hook.Says(lies)
			h.define(t, n)
			first = false
		}
		t.Logf("it lies: %s", name)
		h.alike(t, h.at("v2", "/w0007"), h.at("v2", "?limit=20"), h.at("v2", "/w0003"), h.at("v3", "/w0007"))
	}
	for _, s := range []*servers.Server{h.stock, h.weir} {
		h.lists(t, s, "v1", n)
		h.lists(t, s, "v3", n)
	}
	h.hook.Says(nil)
	h.sameAnswers(t)
	mu.Lock()
	lie = webhook.Lies()["another name"]
	mu.Unlock()
	h.recovers(t, func() { h.hook.Says(lies) }, func() { h.hook.Says(nil) })
}

// testRestarting has the webhook go while it is asked about all objects, and come back.
func testRestarting(t *testing.T, h *hooked) {
	const n = 300
	gone := make(chan struct{})
	stop := sync.OnceFunc(func() {
		go func() {
			h.hook.Stop()
			close(gone)
		}()
	})
	h.hook.Says(func(asked *apiextensionsv1.ConversionRequest, _ *apiextensionsv1.ConversionResponse) int {
		if webhook.Has(asked, "w0150") {
			stop()
			return http.StatusInternalServerError
		}
		return 0
	})
	h.define(t, n)
	for _, s := range []*servers.Server{h.stock, h.weir} {
		h.lists(t, s, "v1", n)
	}
	<-gone
	h.hook.Says(nil)
	h.alike(t, h.at("v2", "/w0003"), h.at("v1", "/w0003"), h.at("v2", "?limit=20"))
	h.hook.Restart()
	h.sameAnswers(t)
	h.recovers(t, h.hook.Stop, h.hook.Restart)
}
