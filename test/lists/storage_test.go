// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"strings"
	"testing"
)

// TestStoredAs compares lists of what is not stored as protobuf, as it is by default. What
// the servers make themselves is enough for that.
func TestStoredAs(t *testing.T) {
	for _, mediaType := range []string{"application/json", "application/yaml"} {
		t.Run(mediaType, func(t *testing.T) {
			p := start(t, "--storage-media-type="+mediaType)
			p.resources = discover(t, p.stock)
			p.settle(t)

			stored, err := p.etcd.KV.Get(t.Context(), "/registry/namespaces/default")
			if err != nil || len(stored.Kvs) != 1 || strings.HasPrefix(string(stored.Kvs[0].Value), "k8s\x00") {
				t.Fatalf("%v is stored, %v", stored, err)
			}
			full := 0
			var all []combination
			for _, r := range p.resources {
				if r.name == "componentstatuses" {
					continue
				}
				var list struct{ Items []any }
				get(t, p.weir, r.path(""), &list)
				if len(list.Items) > 0 {
					full++
				}
				for _, f := range forms {
					all = append(all, request(r.path(""), "", f))
				}
			}
			if full < 10 {
				t.Errorf("there are objects of %d resources only", full)
			}
			p.compareAll(t, all, workers)
		})
	}
}
