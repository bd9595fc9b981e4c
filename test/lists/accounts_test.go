// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/weir-project/weir/test/servers"
)

const (
	accountsNamespace   = "lists-accounts"
	unwritableNamespace = "lists-unwritable"
)

// audited returns the flags of a server whose audit log has the lists of testAccounts and
// testUnwritable.
func audited(t *testing.T) []string {
	t.Helper()
	policy := fmt.Sprintf(`{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[
		{"level":"Metadata","verbs":["list"],"namespaces":[%q,%q]},{"level":"None"}]}`, accountsNamespace, unwritableNamespace)
	file := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--audit-policy-file=" + file, "--audit-log-path=" + auditLog}
}

// auditLog is in the directory of each server.
const auditLog = "audit.log"

// event is what the audit log says of a request.
type event struct {
	Stage          string
	ResponseStatus struct {
		Code            int
		Status, Message string
	}
}

// event returns the last event of a request, and waits for it.
func (p *pair) event(t *testing.T, s *servers.Server, id string) (last event) {
	t.Helper()
	servers.Eventually(t, s.Name+" to have audited "+id, func() bool {
		log, err := os.ReadFile(filepath.Join(s.Dir, auditLog))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for line := range bytes.Lines(log) {
			if !bytes.Contains(line, []byte(id)) || !bytes.HasSuffix(line, []byte("\n")) {
				continue
			}
			if err := json.Unmarshal(line, &last); err != nil {
				t.Fatal(err)
			}
			return true
		}
		return false
	})
	return last
}

// panics returns how many requests were counted as ended in a panic after they had timed out.
func panics(t *testing.T, s *servers.Server) (n float64) {
	t.Helper()
	metrics(t, s, func(name, labels string, value float64) {
		if name == "apiserver_request_post_timeout_total" && strings.Contains(labels, `status="panic"`) {
			n += value
		}
	})
	return n
}

// testAccounts has clients leave lists, or stall in them, and compares what the servers say of
// that in their metrics and audit logs.
func (p *pair) testAccounts(t *testing.T) {
	const resource, path = "podtemplates", "/api/v1/namespaces/" + accountsNamespace + "/podtemplates"
	stock := p.stock.In(t)
	stock.Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": accountsNamespace}})
	for i := range 60 { // 12 MB, more than a connection holds
		container := map[string]any{"name": "c", "image": "i", "args": []any{strings.Repeat("a", 200<<10)}}
		stock.Must(http.MethodPost, path, map[string]any{"metadata": map[string]any{"name": fmt.Sprint("t-", i)},
			"template": map[string]any{"spec": map[string]any{"containers": []any{container}}}})
	}
	p.refresh(t, path)

	for name, client := range clients(t) {
		for _, f := range []form{
			{accept: []string{"application/json"}},
			{accept: []string{"application/vnd.kubernetes.protobuf"}},
			{accept: []string{"application/yaml"}},
			{accept: []string{"application/json;as=Table;v=v1" + meta}, query: "includeObject=Object"},
		} {
			begin := func(t *testing.T, s *servers.Server, query string) (resp *http.Response, leave func()) {
				t.Helper()
				ctx, cancel := context.WithCancel(t.Context())
				resp, err := s.OpenWith(ctx, client, request(path, query, f).Request)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
					t.Fatalf("%s: %v", s.Name, err)
				}
				return resp, func() {
					cancel()
					_ = resp.Body.Close()
				}
			}
			before := map[*servers.Server]account{}
			panicked := map[*servers.Server]float64{}
			note := func() {
				for _, s := range p.both() {
					before[s], panicked[s] = accountOf(t, s, resource), panics(t, s)
				}
			}
			compare := func(t *testing.T, id map[*servers.Server]string) {
				t.Helper()
				want, got := p.event(t, p.stock, id[p.stock]), p.event(t, p.weir, id[p.weir])
				if got != want {
					t.Errorf("the audit log says %+v, stock's %+v", got, want)
				}
				// What is counted after the client has left is counted before it is audited.
				stock, weir := accountOf(t, p.stock, resource).minus(before[p.stock]), accountOf(t, p.weir, resource).minus(before[p.weir])
				stock.Bytes, weir.Bytes = 0, 0 // whatever has been sent until then
				if weir != stock {
					t.Errorf("it is accounted as\n%s, stock\n%s", weir, stock)
				}
				for _, s := range p.both() {
					if n := panics(t, s) - panicked[s]; n != 0 {
						t.Errorf("%s counts %v panics", s.Name, n)
					}
				}
			}
			t.Run(fmt.Sprint(name, f.accept, " left"), func(t *testing.T) {
				note()
				id := map[*servers.Server]string{}
				for _, s := range p.both() {
					resp, leave := begin(t, s, "")
					id[s] = resp.Header.Get("Audit-Id")
					leave()
				}
				compare(t, id)
			})
			if f.accept[0] == "application/yaml" {
				continue // upstream may take all of the time to make it
			}
			t.Run(fmt.Sprint(name, f.accept, " stalled"), func(t *testing.T) {
				note()
				stock, leave := begin(t, p.stock, "timeout=3s")
				weir, done := begin(t, p.weir, "timeout=3s")
				defer done()
				id := map[*servers.Server]string{p.stock: stock.Header.Get("Audit-Id"), p.weir: weir.Header.Get("Audit-Id")}
				p.event(t, p.weir, id[p.weir]) // weir gives it up; stock waits for its client
				leave()
				compare(t, id)
				if n, err := io.Copy(io.Discard, weir.Body); err == nil {
					t.Errorf("weir has given up the list, but what there is of it, %d bytes, ends as if it were all", n)
				}
			})
		}
	}
}

// unwritable are objects that some format cannot write, by their keys in etcd.
func unwritable(t *testing.T) map[string][]byte {
	t.Helper()
	kept := map[string][]byte{}
	object := func(namespace, name, annotation, content string) []byte {
		data, err := json.Marshal(map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": name, "namespace": namespace, "uid": name, "creationTimestamp": "2020-01-01T00:00:00Z", "annotations": map[string]any{"a": annotation}},
			"data":     map[string]any{"content": content},
		})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	put := func(name, annotation, content string) {
		kept["configmaps/"+unwritableNamespace+"/"+name] = object(unwritableNamespace, name, annotation, content)
	}
	for i := range 6 {
		put(fmt.Sprint("good-", i), "a", strings.Repeat("x", 80<<10))
	}
	put("z-content", "a", "\x7f")
	put("z-annotation", "\x7f", "a")

	// Protobuf takes what JSON does not.
	m := metav1.ObjectMeta{Namespace: unwritableNamespace, Name: "text", UID: "text", Annotations: map[string]string{"a": "\xff"}}
	kept["secrets/"+unwritableNamespace+"/text"] = inProtobuf(t, corev1.SchemeGroupVersion, &corev1.Secret{ObjectMeta: m, Type: "\xfe"})
	m.Annotations = nil
	kept["controllerrevisions/"+unwritableNamespace+"/text"] = inProtobuf(t, appsv1.SchemeGroupVersion, &appsv1.ControllerRevision{
		ObjectMeta: m, Data: runtime.RawExtension{Raw: []byte(`{"unfinished`)}})
	return kept
}

// cached is what a cache has counted of the lists of one resource.
type cached struct{ Lists, Fetched, Returned, Consistent float64 }

func (c cached) minus(b cached) cached {
	return cached{c.Lists - b.Lists, c.Fetched - b.Fetched, c.Returned - b.Returned, c.Consistent - b.Consistent}
}

func cachedOf(t *testing.T, s *servers.Server, resource string) (c cached) {
	t.Helper()
	into := map[string]*float64{
		"apiserver_cache_list_total":                  &c.Lists,
		"apiserver_cache_list_fetched_objects_total":  &c.Fetched,
		"apiserver_cache_list_returned_objects_total": &c.Returned,
		"apiserver_watch_cache_consistent_read_total": &c.Consistent,
	}
	metrics(t, s, func(name, labels string, value float64) {
		if sum, ok := into[name]; ok && strings.Contains(labels, `resource="`+resource+`"`) {
			*sum += value
		}
	})
	return c
}

func inProtobuf(t *testing.T, gv schema.GroupVersion, object runtime.Object) []byte {
	t.Helper()
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, gv), object)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// testUnwritable lists what some format cannot write, alone and behind much that can be written,
// and compares the answers and what the servers say of them.
func (p *pair) testUnwritable(t *testing.T) {
	p.stock.In(t).Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": unwritableNamespace}})
	for key, object := range unwritable(t) {
		if _, err := p.etcd.KV.Put(t.Context(), "/registry/"+key, string(object)); err != nil {
			t.Fatal(err)
		}
	}
	p.current = p.settle(t)
	failed := 0
	const inNamespace = "/namespaces/" + unwritableNamespace + "/"
	for _, of := range []struct{ resource, path, query string }{
		{"configmaps", "/api/v1" + inNamespace + "configmaps", ""},
		{"configmaps", "/api/v1" + inNamespace + "configmaps", "fieldSelector=metadata.name%3Dz-content"},
		{"configmaps", "/api/v1" + inNamespace + "configmaps", "fieldSelector=metadata.name%3Dz-annotation"},
		{"configmaps", "/api/v1" + inNamespace + "configmaps", "limit=7"},
		{"secrets", "/api/v1" + inNamespace + "secrets", ""},
		{"controllerrevisions", "/apis/apps/v1" + inNamespace + "controllerrevisions", ""},
	} {
		before, found := map[*servers.Server]account{}, map[*servers.Server]cached{}
		for _, s := range p.both() {
			before[s], found[s] = accountOf(t, s, of.resource), cachedOf(t, s, of.resource)
		}
		for _, f := range forms {
			if of.resource == "controllerrevisions" && strings.Contains(fmt.Sprint(f.accept), "cbor") {
				continue // upstream sends something that is CBOR or not, depending on chance
			}
			c := request(of.path, of.query, f)
			if diff := p.difference(t, c); diff != "" {
				t.Errorf("%s\n%s", c, diff)
			}
			var events [2]event
			for i, s := range p.both() {
				resp, err := s.Answer(t.Context(), c.Request)
				if err != nil {
					t.Fatal(err)
				}
				if resp.Status == http.StatusInternalServerError {
					failed++
				}
				events[i] = p.event(t, s, resp.Header.Get("Audit-Id"))
			}
			if events[0] != events[1] {
				t.Errorf("%s: the audit log says %+v, stock's %+v", c, events[1], events[0])
			}
		}
		stock, weir := accountOf(t, p.stock, of.resource).minus(before[p.stock]), accountOf(t, p.weir, of.resource).minus(before[p.weir])
		stock.Bytes, weir.Bytes = 0, 0 // CBOR's are not known, and Tables say how old something is
		if weir != stock {
			t.Errorf("%s?%s: all is accounted as\n%s, stock\n%s", of.path, of.query, weir, stock)
		}
		if stock, weir := cachedOf(t, p.stock, of.resource).minus(found[p.stock]), cachedOf(t, p.weir, of.resource).minus(found[p.weir]); weir != stock {
			t.Errorf("%s?%s: the cache counts %+v, stock's %+v", of.path, of.query, weir, stock)
		}
	}
	if failed < 10 {
		t.Errorf("only %d answers were errors: could all of it be written?", failed)
	}
}
