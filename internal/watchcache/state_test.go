// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"math/rand"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// TestStateCounts: what a view says of all its objects is what they say one by one, after
// any changes.
func TestStateCounts(t *testing.T) {
	info, ok := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		t.Fatal("no protobuf")
	}
	codec := frame.NewCodec(frame.Config{
		Codec:     legacyscheme.Codecs.CodecForVersions(info.Serializer, legacyscheme.Codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, schema.GroupVersion{Version: runtime.APIVersionInternal}),
		NewFunc:   func() runtime.Object { return &api.ConfigMap{} },
		Attrs:     func(runtime.Object) (labels.Set, fields.Set, error) { return nil, nil, nil },
		Versioner: storage.APIObjectVersioner{},
		Store:     frame.NewStore(0, &ledger.Ledger{}),
		Decorated: func(obj runtime.Object) bool { return len(obj.(*api.ConfigMap).Data["k"])%3 == 0 },
	})
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	s := newState(nil)
	defer s.release()
	for rev := uint64(1); rev <= 500; rev++ {
		key := fmt.Sprintf("/things/%d", random.Intn(20))
		if random.Intn(3) == 0 {
			s.delete(key)
		} else {
			f, err := codec.Encode(key, &api.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: key, ResourceVersion: strconv.FormatUint(rev, 10)},
				Data:       map[string]string{"k": strings.Repeat("x", random.Intn(500))},
			})
			if err != nil {
				t.Fatal(err)
			}
			s.set(f)
		}
		v := s.freeze(rev)
		want := view{}
		v.objects.Ascend("", "", func(_ string, f *frame.Frame) bool {
			message, err := f.Message("v1", nil)
			if err != nil {
				t.Fatal(err)
			}
			item := corev1.ConfigMap{}
			if err := item.Unmarshal(message); err != nil {
				t.Fatal(err)
			}
			// The length of the message's length follows from the size of a list of it alone.
			list := corev1.ConfigMapList{Items: []corev1.ConfigMap{item}}
			want.messages += list.Size() - (&corev1.ConfigMapList{}).Size()
			want.bytes += f.Size()
			if f.Decorated() {
				want.decorated++
			}
			return true
		})
		if v.messages != want.messages || v.bytes != want.bytes || v.decorated != want.decorated {
			t.Fatalf("at %d the view says %d, %d, %d, its objects %d, %d, %d", rev, v.messages, v.bytes, v.decorated, want.messages, want.bytes, want.decorated)
		}
	}
}
