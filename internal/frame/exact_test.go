// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// customCodec returns the Codec of a custom resource.
func customCodec() *Codec {
	return NewCodec(Config{
		Codec:     unstructured.UnstructuredJSONScheme,
		NewFunc:   func() runtime.Object { return &unstructured.Unstructured{} },
		Attrs:     attrsOf,
		Versioner: storage.APIObjectVersioner{},
		Store:     storeOf(1 << 20),
	})
}

// custom returns a custom resource with a value in it.
func custom(value any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget",
		"metadata": map[string]any{"name": "w", "resourceVersion": "9"},
		"spec":     map[string]any{"value": value, "list": []any{"x", value}},
	}}
}

// TestCustomIsExact: a custom resource is decoded as what it was, bit by bit, and is kept a
// second time only where JSON does not have all of it.
func TestCustomIsExact(t *testing.T) {
	c := customCodec()
	for _, test := range []struct {
		value any
		twice bool
	}{
		{nil, false}, {true, false}, {int64(1), false}, {int64(math.MaxInt64), false}, {int64(math.MinInt64), false},
		{"", false}, {"<a>\u2028\ufffd\x00\x7f", false}, {`\ufffd`, false}, {"\xff", true},
		{map[string]any{}, false}, {[]any{}, false}, {map[string]any{"a": nil}, false}, {[]any{nil}, false}, {map[string]any{"\xff": "a"}, true},
		{0.5, false}, {-0.1, false}, {1e-7, false}, {math.SmallestNonzeroFloat64, false}, {math.MaxFloat64, false}, {math.Pi, false},
		{1.0, true}, {0.0, true}, {math.Copysign(0, -1), true}, {1e6, true}, {-1e6, true}, {float64(1 << 53), true},
		// The largest that is read as an integer, and the first that is not.
		{math.Nextafter(1<<63, 0), true}, {float64(1 << 63), false}, {-float64(1 << 63), true}, {math.Nextafter(-(1 << 63), math.Inf(-1)), false},
		{1e20, false}, {1e21, false}, {-1e22, false},
	} {
		obj := custom(test.value)
		want := obj.DeepCopy()
		f := frameOf(t, c, obj)
		got, err := f.Decode()
		if err != nil || !reflect.DeepEqual(got, runtime.Object(want)) || !sameBits(got.(*unstructured.Unstructured).Object, want.Object) {
			t.Errorf("%T %v: decoded as %v, %v", test.value, test.value, got, err)
		}
		if f.Exact() != test.twice {
			t.Errorf("%T %v is kept twice: %v", test.value, test.value, f.Exact())
		}
		stock, err := runtime.Encode(unstructured.UnstructuredJSONScheme, want)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "JSON", append(f.primary.object(), '\n'), stock)
	}
}

// sameBits compares numbers bit by bit: 0.0 is equal to -0.0.
func sameBits(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		for k, v := range a {
			if !sameBits(v, b.(map[string]any)[k]) {
				return false
			}
		}
	case []any:
		for i, v := range a {
			if !sameBits(v, b.([]any)[i]) {
				return false
			}
		}
	case float64:
		return math.Float64bits(a) == math.Float64bits(b.(float64))
	}
	return true
}

// TestCustomWithItems: a custom resource that has a field "items" is no list.
func TestCustomWithItems(t *testing.T) {
	obj := custom("x")
	obj.Object["items"] = []any{map[string]any{"a": int64(1)}}
	got, err := frameOf(t, customCodec(), obj).Decode()
	if err != nil || !reflect.DeepEqual(got, runtime.Object(obj)) {
		t.Errorf("decoded as a %T %v, %v", got, got, err)
	}
}

// FuzzNumbers: JSON is told to keep a number only if it does.
func FuzzNumbers(f *testing.F) {
	for _, v := range []float64{0, 1, -1, 0.1, 1e6, 1e18, 1 << 62, 1 << 63, 1e20, 1e21, 1e300, 5e-324} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v float64) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		obj, err := customCodec().decode([]byte(`{"kind":"K","v":` + string(text) + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got, kept := obj.(*unstructured.Unstructured).Object["v"].(float64)
		if kept = kept && math.Float64bits(got) == math.Float64bits(v); kept != survivesJSON(v) {
			t.Errorf("%v is %s and read as %v; survivesJSON says %v", v, text, obj, survivesJSON(v))
		}
	})
}

// BenchmarkEncodePod is what it costs to make the frame of a Pod, and of that to look for
// what protobuf loses.
func BenchmarkEncodePod(b *testing.B) {
	c, _ := core("Pod", "pods").codec(b, 0)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", ResourceVersion: "1", Labels: map[string]string{"app": "a", "b": "c"}}}
	for range 3 {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{
			Name: "c", Image: "registry.example.com/image:v1", Args: []string{"--a", "--b=c"},
			Env:            []v1.EnvVar{{Name: "A", Value: "b"}, {Name: "C", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
			VolumeMounts:   []v1.VolumeMount{{Name: "v", MountPath: "/a"}, {Name: "w", MountPath: "/b"}},
			ReadinessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}},
		})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, v1.ContainerStatus{Name: "c"})
	}
	obj := internal(b, pod)
	b.Run("frame", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if f, err := c.Encode("/k", obj); err != nil || f.Exact() {
				b.Fatal(err)
			}
		}
	})
	b.Run("look", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if hasEmpty(obj) {
				b.Fatal("a Pod has something empty")
			}
		}
	})
}
