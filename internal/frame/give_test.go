// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	api "k8s.io/kubernetes/pkg/apis/core"
)

// TestGive: an object that was given for a frame is the answer to one who decodes it, and to nobody else, and all others get equal ones of their own. Frames
// in protobuf are given nothing.
func TestGive(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection takes what was given
	for _, mediaType := range []string{apiruntime.ContentTypeJSON, apiruntime.ContentTypeProtobuf} {
		pods := core("Pod", "pods")
		pods.mediaType = mediaType
		c, _ := pods.codec(t, 1<<20)
		type one struct {
			*Frame
			obj apiruntime.Object
		}
		var all []one
		for i := range 10 {
			obj := internal(t, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), ResourceVersion: fmt.Sprint(i + 1)}, Spec: v1.PodSpec{NodeName: fmt.Sprint("n", i)}})
			f, err := c.Encode("/pods/"+fmt.Sprint(i), obj)
			if err != nil {
				t.Fatal(err)
			}
			c.Give(f, obj)
			all = append(all, one{f, obj})
		}
		for i, o := range all {
			const readers = 8
			got := make([]apiruntime.Object, readers)
			var wg sync.WaitGroup
			for r := range readers {
				wg.Go(func() {
					obj, err := o.Decode()
					if err != nil {
						t.Error(err)
					}
					got[r] = obj
				})
			}
			wg.Wait()
			given := 0
			for r, obj := range got {
				if !equality.Semantic.DeepEqual(obj, o.obj) {
					t.Errorf("%s %d: %v and not %v", mediaType, i, obj, o.obj)
				}
				if obj == o.obj {
					given++
				}
				for _, other := range got[:r] {
					if obj == other {
						t.Errorf("%s %d: two have one object", mediaType, i)
					}
				}
			}
			// The last few are remembered.
			want := 0
			if mediaType == apiruntime.ContentTypeJSON && i >= len(all)-len(c.given.last) {
				want = 1
			}
			if given != want {
				t.Errorf("%s %d: the object that was given came %d times, and not %d", mediaType, i, given, want)
			}
		}
	}
}

// TestGivenIsNotKept: what nobody asks for goes with the next collection.
func TestGivenIsNotKept(t *testing.T) {
	pods := core("Pod", "pods")
	pods.mediaType = apiruntime.ContentTypeJSON
	c, _ := pods.codec(t, 1<<20)
	gone := make(chan struct{})
	func() {
		obj := internal(t, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", ResourceVersion: "1"}})
		runtime.AddCleanup(obj.(*api.Pod), func(struct{}) { close(gone) }, struct{}{})
		f, err := c.Encode("/pods/p", obj)
		if err != nil {
			t.Fatal(err)
		}
		c.Give(f, obj)
	}()
	for range 20 {
		runtime.GC()
		select {
		case <-gone:
			return
		default:
		}
	}
	t.Error("it is held after 20 collections")
}
