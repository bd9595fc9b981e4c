// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// threshold is the size from which on upstream compresses an answer.
const threshold = 128 << 10

// fitted are lists, of one PodTemplate each, of a size around the threshold.
type fitted struct {
	name, accept string
	size         int
}

func (f fitted) path() string {
	return "/api/v1/namespaces/lists-size/podtemplates?fieldSelector=metadata.name%3D" + f.name
}

var fits = []fitted{
	{"json-under", "application/json", threshold - 1},
	{"json-at", "application/json", threshold},
	{"json-over", "application/json", threshold + 1},
	{"json-far", "application/json", 3 * threshold},
	{"protobuf-under", "application/vnd.kubernetes.protobuf", threshold - 1},
	{"protobuf-at", "application/vnd.kubernetes.protobuf", threshold},
	{"protobuf-over", "application/vnd.kubernetes.protobuf", threshold + 1},
	{"protobuf-far", "application/vnd.kubernetes.protobuf", 3 * threshold},
}

// fit makes the PodTemplates of fits.
func (p *pair) fit(t *testing.T) {
	t.Helper()
	stock := p.stock.In(t)
	object := func(f fitted, content int) map[string]any {
		container := map[string]any{"name": "c", "image": "i", "args": []any{strings.Repeat("a", content)}}
		return map[string]any{"apiVersion": "v1", "kind": "PodTemplate", "metadata": map[string]any{"name": f.name},
			"template": map[string]any{"spec": map[string]any{"containers": []any{container}}}}
	}
	const path = "/api/v1/namespaces/lists-size/podtemplates"
	for _, f := range fits {
		content := f.size - 1000
		stock.Must(http.MethodPost, path, object(f, content))
		size := p.sizeOf(t, f)
		for range 5 { // what says how long it is may become longer itself
			content += f.size - size
			stock.Must(http.MethodPut, path+"/"+f.name, object(f, content))
			if size = p.sizeOf(t, f); size == f.size {
				break
			}
		}
		if size != f.size {
			t.Fatalf("%s is of %d bytes, not of %d", f.name, size, f.size)
		}
	}
}

func (p *pair) sizeOf(t *testing.T, f fitted) int {
	t.Helper()
	resp, err := p.stock.Answer(t.Context(), servers.Request{Path: f.path(), Header: http.Header{"Accept": {f.accept}}})
	if err != nil || resp.Status != http.StatusOK {
		t.Fatalf("%s: %d %v", f.path(), resp.Status, err)
	}
	return len(resp.Body)
}
