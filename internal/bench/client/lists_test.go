// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"fmt"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

func upstreamList(t *testing.T, f Format, sizes []int) []byte {
	t.Helper()
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), f.MediaType())
	list := &corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: "12"}}
	for i, size := range sizes {
		secret := secretOf(fmt.Sprintf("s-%d", i), fmt.Sprint(i), size)
		// Content that looks like what the reader view.Counts.
		secret.Annotations = map[string]string{"last-applied": `{"metadata":{"name":"x"}}`}
		list.Items = append(list.Items, *secret)
	}
	var out bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion).Encode(list, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestListsAreCounted(t *testing.T) {
	many := make([]int, 3000)
	for i := range many {
		many[i] = i % 257
	}
	for _, f := range []Format{FormatProtobuf, FormatJSON} {
		for _, sizes := range [][]int{nil, {0}, {1 << 20, 3, 64 << 10}, many} {
			body := upstreamList(t, f, sizes)
			items, size, err := countList(f, iotest.HalfReader(bytes.NewReader(body)))
			if err != nil || items != int64(len(sizes)) || size != int64(len(body)) {
				t.Errorf("%s list of %d: %d items, %d of %d bytes, error %v", f, len(sizes), items, size, len(body), err)
			}
			if len(sizes) == 0 {
				continue
			}
			if _, _, err := countList(f, bytes.NewReader(body[:len(body)-20])); err == nil {
				t.Errorf("%s list of %d, cut short: no error", f, len(sizes))
			}
		}
	}
}
