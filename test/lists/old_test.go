// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
)

// ofOldReleases are objects as releases wrote them that did not know some fields, by their
// keys in etcd. REST storage fills those in when it reads.
var ofOldReleases = map[string]string{
	// From before 1.20, which has clusterIPs and ipFamilies.
	"services/specs/lists-old/cluster-ip": `{"kind":"Service","apiVersion":"v1","metadata":{"name":"cluster-ip","namespace":"lists-old","uid":"6a1c0001-0000-4000-8000-000000000001","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{"ports":[{"protocol":"TCP","port":80,"targetPort":80}],"clusterIP":"10.0.0.77","type":"ClusterIP","sessionAffinity":"None"},"status":{"loadBalancer":{}}}`,
	"services/specs/lists-old/headless":   `{"kind":"Service","apiVersion":"v1","metadata":{"name":"headless","namespace":"lists-old","uid":"6a1c0001-0000-4000-8000-000000000002","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{"clusterIP":"None","selector":{"a":"b"},"type":"ClusterIP","sessionAffinity":"None"},"status":{"loadBalancer":{}}}`,
	// With a field that such a service should not have.
	"services/specs/lists-old/external": `{"kind":"Service","apiVersion":"v1","metadata":{"name":"external","namespace":"lists-old","uid":"6a1c0001-0000-4000-8000-000000000003","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{"type":"ExternalName","externalName":"example.com","internalTrafficPolicy":"Cluster","sessionAffinity":"None"},"status":{"loadBalancer":{}}}`,
	// From before 1.24, with one data source of the two that go together.
	"persistentvolumeclaims/lists-old/source": `{"kind":"PersistentVolumeClaim","apiVersion":"v1","metadata":{"name":"source","namespace":"lists-old","uid":"6a1c0001-0000-4000-8000-000000000004","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"volumeMode":"Filesystem","dataSource":{"kind":"PersistentVolumeClaim","name":"other"}},"status":{"phase":"Pending"}}`,
}

// testOld puts objects of old releases into etcd, beneath both servers, and compares how
// they are listed: with what REST storage fills in.
func (p *pair) testOld(t *testing.T) {
	p.stock.In(t).Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": "lists-old"}})
	for key, object := range ofOldReleases {
		if _, err := p.etcd.KV.Put(t.Context(), "/registry/"+key, object); err != nil {
			t.Fatal(err)
		}
	}
	p.current = p.settle(t)
	status, answer := p.stock.Do(http.MethodGet, "/api/v1/namespaces/lists-old/services/cluster-ip", nil)
	if status != http.StatusOK {
		t.Fatalf("stock does not have the service: %d %s", status, answer)
	}
	var all []combination
	for _, path := range []string{
		"/api/v1/namespaces/lists-old/services", "/api/v1/services",
		"/api/v1/namespaces/lists-old/persistentvolumeclaims", "/api/v1/persistentvolumeclaims",
	} {
		for _, f := range forms {
			for _, q := range []string{"", "resourceVersion=0", "limit=1", fmt.Sprintf("resourceVersionMatch=Exact&resourceVersion=%d", p.current)} {
				all = append(all, request(path, q, f))
			}
		}
		all = append(all, request(path, "fieldSelector=metadata.name%3Dexternal", plain[0]), request(path, "labelSelector=a", plain[0]))
	}
	p.compareAll(t, all, workers)
	for _, s := range p.both() {
		_, list := s.Do(http.MethodGet, "/api/v1/namespaces/lists-old/services?resourceVersion=0", nil)
		for _, filled := range []string{`"clusterIPs":["10.0.0.77"]`, `"clusterIPs":["None"]`} {
			if !bytes.Contains(list, []byte(filled)) {
				t.Errorf("%s does not fill in %s: %s", s.Name, filled, list)
			}
		}
	}
}
