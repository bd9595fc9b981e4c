// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"math/rand"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// TestStateCounts: what a view says of all its objects is what they say one by one, after
// any changes.
func TestStateCounts(t *testing.T) {
	codec := frame.NewCodec(frame.Config{
		Codec:           protobufCodec,
		NewFunc:         newPod,
		Attrs:           podAttrs,
		Versioner:       storage.APIObjectVersioner{},
		Store:           frame.NewStore(0, &ledger.Ledger{}),
		DefaultedOnRead: func(obj runtime.Object) bool { return len(obj.(*example.Pod).Labels["k"])%3 == 0 },
	})
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	s := newState(nil)
	defer s.unbook()
	for rev := uint64(1); rev <= 500; rev++ {
		key := fmt.Sprintf("/things/%d", random.Intn(20))
		if random.Intn(3) == 0 {
			s.delete(key)
		} else {
			f, err := codec.Encode(key, &example.Pod{ObjectMeta: metav1.ObjectMeta{
				Name: key, ResourceVersion: strconv.FormatUint(rev, 10), Labels: map[string]string{"k": strings.Repeat("x", random.Intn(500))},
			}})
			if err != nil {
				t.Fatal(err)
			}
			s.set(f)
		}
		v := s.freeze(rev)
		want := view{}
		var defaulted []*frame.Frame
		v.objects.Ascend("", "", func(_ string, f *frame.Frame) bool {
			message, err := f.Message(examplev1.SchemeGroupVersion.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			item := examplev1.Pod{}
			if err := item.Unmarshal(message); err != nil {
				t.Fatal(err)
			}
			// The length of the message's length follows from the size of a list of it alone.
			list := examplev1.PodList{Items: []examplev1.Pod{item}}
			want.bytes += f.Size()
			kept, err := f.As(wire.Protobuf, examplev1.SchemeGroupVersion.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			want.encoded += int64(len(kept))
			if f.DefaultedOnRead() {
				want.defaultedBytes += f.Size()
				defaulted = append(defaulted, f)
			} else {
				want.messages += list.Size() - (&examplev1.PodList{}).Size()
			}
			return true
		})
		if v.totals != want.totals {
			t.Fatalf("at %d the view says %+v, its objects %+v", rev, v.totals, want.totals)
		}
		if got := slices.Collect(v.defaulted.All()); !slices.Equal(got, defaulted) {
			t.Fatalf("at %d the view has %d objects that are defaulted on read, want %d", rev, len(got), len(defaulted))
		}
	}
}
