// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

// TestRows has lists that begin and end at any of some objects, of which some are rows by
// themselves, share what is compressed. Each is one gzip member.
func TestRows(t *testing.T) {
	var objects []*corev1.ConfigMap
	for i, size := range []int{70, 200, 1, 140, 1, 1, 70, 90, 150} {
		marks := []string(nil)
		if i == 4 {
			marks = []string{defaulted}
		}
		objects = append(objects, newMap(fmt.Sprint("m-", i), strings.Repeat(fmt.Sprint("content ", i), size<<10/9), marks...))
	}
	w := newWorld(t, objects...)
	all := w.frames
	compressed := 0
	for begin := range all {
		for end := begin + 1; end <= len(all); end++ {
			w.frames = all[begin:end]
			for _, f := range forms {
				if !f.gzip || f.query != "" || strings.Contains(f.accept, "yaml") || strings.Contains(f.accept, "Table") {
					continue
				}
				got := ask(w.streaming(), f)
				if got.Header().Get("Content-Encoding") == "gzip" {
					compressed++
					in := bytes.NewReader(got.Body.Bytes())
					z, err := gzip.NewReader(in)
					if err != nil {
						t.Fatal(err)
					}
					z.Multistream(false)
					if _, err := io.Copy(io.Discard, z); err != nil || in.Len() > 0 {
						t.Errorf("%s, objects %d to %d: %v, and %d bytes are behind the gzip member", f, begin, end, err, in.Len())
					}
				}
				same(t, fmt.Sprintf("%s, objects %d to %d", f, begin, end), ask(w.upstream(), f), got)
			}
		}
	}
	if compressed < 100 {
		t.Errorf("%d lists are compressed", compressed)
	}
}

// TestCompressionGate: without upstream's gate nothing is compressed.
func TestCompressionGate(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.APIResponseCompression, false)
	w := newWorld(t, newMap("a", strings.Repeat("content ", 100<<10)), newMap("b", "c"))
	for _, f := range forms {
		if f.gzip && f.query == "" {
			w.check(t, f)
			if encoding := ask(w.streaming(), f).Header().Get("Content-Encoding"); encoding != "" {
				t.Errorf("%s is in %s", f, encoding)
			}
		}
	}
}
