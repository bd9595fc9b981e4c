// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/robustness/timeline"
)

// A history's file stays small, and what was found is in it for good.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	r, err := newRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	r.most = 10_000
	for i := range 1000 {
		l := line{Fault: &history.Fault{Kind: "none"}}
		if i == 7 {
			l.Violations = []check.Violation{{Rule: check.Gap, What: "the first that was found"}}
		}
		r.write(l)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{path: false, timeline.Beside(path, timeline.Older): false, timeline.Beside(path, timeline.Found): true} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 11_000 || len(data) == 0 {
			t.Errorf("%s has %d bytes", name, len(data))
		}
		if got := strings.Contains(string(data), "the first that was found"); got != want {
			t.Errorf("%s has what was found: %t", name, got)
		}
	}
}

// What was compressed and has come is read, though more may follow, in another member.
func TestMembers(t *testing.T) {
	pipe, server := io.Pipe()
	m := unzipped(&http.Response{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: pipe})
	buf := make([]byte, 100)
	for _, text := range []string{"one", "another", "a third"} {
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		if _, err := z.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = server.Write(zipped.Bytes()) }() // fails if it is not read, and that fails the test
		n, err := m.Read(buf)
		if err != nil || string(buf[:n]) != text {
			t.Fatalf("read %q and %v, not %q", buf[:n], err, text)
		}
	}
	go server.Close()
	if n, err := m.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d bytes and %v", n, err)
	}
	wrong := unzipped(&http.Response{Header: http.Header{"Content-Encoding": {"gzip"}}, Body: io.NopCloser(strings.NewReader("this was never compressed"))})
	if _, err := io.ReadAll(wrong); !errors.Is(err, errStream) {
		t.Errorf("what is not compressed is read, and that ends with %v", err)
	}
}

// The plan has every kind of write, of every resource, and none that is too large.
func TestOperations(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]int{}
	for range 20_000 {
		d := draw(r)
		o := d.operation("1-1", r.IntN(4) > 0, int64(r.IntN(2)*7))
		if o.record.Verb == "" || o.record.Key.Resource == "" || o.method == "" || o.path == "" {
			t.Fatalf("%+v is no operation", o)
		}
		seen[o.record.Verb+" "+o.record.Key.Resource]++
		if strings.HasSuffix(strings.Split(o.path, "?")[0], "/status") {
			seen["status"]++
		}
		if d.fill >= 1_000_000 && d.key.Resource == widgets {
			seen["large"]++
		}
		if d.fill > 1_400_000 {
			t.Errorf("one is filled with %d bytes", d.fill)
		}
	}
	want := []string{"status", "large"}
	for _, resource := range resources {
		want = append(want, "POST "+resource, "PATCH "+resource, "DELETE "+resource)
		if resource != eventsOf {
			want = append(want, history.Apply+" "+resource, history.DeleteCollection+" "+resource)
		}
	}
	for _, kind := range append(want, "PUT "+configMaps, "PUT "+widgets) {
		if seen[kind] == 0 {
			t.Errorf("there is no %s", kind)
		}
	}
}

// Scopes select by everything that there is to select by.
func TestScopes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var all, namespaces, byField, names, nodes, fields, labels, shards, v1, v2 int
	count := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	for range 2_000 {
		c := anyScope(r)
		count(&all, c == history.Scope{Resource: c.Resource, Version: c.Version})
		count(&namespaces, c.Namespace != "" && !c.ByField)
		count(&byField, c.ByField)
		count(&names, c.Name != "")
		count(&nodes, c.Node != "")
		count(&fields, c.Field != "")
		count(&labels, c.LabelKey != "")
		count(&shards, c.Shards > 0)
		count(&v1, c.Version == "v1")
		count(&v2, c.Version == "v2")
		if (c.Resource == widgets) != (c.Version != "") {
			t.Errorf("%v has a version and is no custom resource, or none and is one", c)
		}
	}
	for i, n := range []int{all, namespaces, byField, names, nodes, fields, labels, shards, v1, v2} {
		if n == 0 {
			t.Errorf("the %d-th way to select is never taken", i+1)
		}
	}
}

// Less is read where less is written, but not nothing.
func TestScaled(t *testing.T) {
	for _, c := range []struct{ writes, want int }{{0, 240}, {300, 240}, {600, 240}, {150, 120}, {80, 64}, {1, 48}} {
		if got := (Config{Writes: c.writes}).scaled(240); got != c.want {
			t.Errorf("of 240, at %d writes a second: %d, not %d", c.writes, got, c.want)
		}
	}
}
