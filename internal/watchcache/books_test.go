// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"runtime"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// TestHistoryIsBooked holds what a change is booked with against what keeping it, and the
// state of before it, takes of the heap: for few objects and many, with and without an index.
func TestHistoryIsBooked(t *testing.T) {
	codec := frame.NewCodec(frame.Config{
		Codec: protobufCodec, NewFunc: newPod, Attrs: podAttrs, Versioner: storage.APIObjectVersioner{},
		Store: frame.NewStore(0, &ledger.Ledger{}),
	})
	rev := uint64(0)
	encode := func(i int) *frame.Frame {
		rev++
		p := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("n", i%60), Name: fmt.Sprint("p", i), ResourceVersion: fmt.Sprint(rev)}}
		p.Spec.NodeName = fmt.Sprint("node-", i%100)
		f, err := codec.Encode(podKey(p), p)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, n := range []int{30, 1000, 30_000} {
		for _, names := range [][]string{nil, {storage.FieldIndex("spec.nodeName")}} {
			t.Run(fmt.Sprintf("%d objects, %d indexes", n, len(names)), func(t *testing.T) {
				s := newState(names)
				defer s.unbook()
				for i := range n {
					s.set(encode(i))
				}
				const changes = 5000
				views := make([]view, 0, changes)
				log := make([]*change, 0, changes)
				var booked int64
				before := heap()
				for i := range changes {
					f := encode(i * 7919 % n)
					prev, _ := s.objects.Get(f.Key())
					ch := &change{rev: rev, cur: f, prev: prev}
					s.set(f)
					booked += ch.size(s)
					log, views = append(log, ch), append(views, s.freeze(rev))
				}
				grown := heap() - before
				t.Logf("%d bytes a change are booked, and the heap has grown by %d", booked/changes, grown/changes)
				if ratio := float64(booked) / float64(grown); ratio < 0.75 || ratio > 1.25 {
					t.Errorf("booked are %.2f of that", ratio)
				}
				runtime.KeepAlive(views)
				runtime.KeepAlive(log)
				runtime.KeepAlive(s)
			})
		}
	}
}
