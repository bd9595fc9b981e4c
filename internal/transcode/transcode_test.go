// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package transcode

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/randfill"
)

// decodedKinds are those of which objects have something that a message does not: the
// kind of claims in a StatefulSet, or of the options in an Eviction.
var decodedKinds = []string{"StatefulSet", "Eviction"}

// builtIn returns all types that objects in storage can have.
func builtIn(t testing.TB) (*runtime.Scheme, []schema.GroupVersionKind) {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	var kinds []schema.GroupVersionKind
	for kind := range s.AllKnownTypes() {
		obj, err := s.New(kind)
		if err != nil {
			t.Fatal(err)
		}
		_, isObject := obj.(metav1.ObjectMetaAccessor)
		_, isMessage := obj.(protoObject)
		if isObject && isMessage && !meta.IsListType(obj) {
			kinds = append(kinds, kind)
		}
	}
	slices.SortFunc(kinds, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return s, kinds
}

type protoObject interface {
	runtime.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// decoded is what AppendJSON has to equal.
func decoded(t testing.TB, typ reflect.Type, apiVersion, kind string, body []byte) ([]byte, error) {
	t.Helper()
	obj := reflect.New(typ).Interface().(protoObject)
	if err := obj.Unmarshal(body); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(apiVersion, kind))
	var out bytes.Buffer
	err := json.NewEncoder(&out).Encode(obj)
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), err
}

// TestUpstreamFixtures writes the JSON of every protobuf message among upstream's
// compatibility fixtures, of this release and of earlier ones.
func TestUpstreamFixtures(t *testing.T) {
	s, kinds := builtIn(t)
	known := map[schema.GroupVersionKind]bool{}
	for _, kind := range kinds {
		known[kind] = true
	}
	looked, unwritten := 0, map[string]error{}
	for _, module := range []string{"k8s.io/api", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator"} {
		dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatalf("go list -m %s: %v", module, err)
		}
		files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "*", "*.pb"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			object, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var unknown runtime.Unknown
			if err := unknown.Unmarshal(object[len("k8s\x00"):]); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			kind := schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind)
			if !known[kind] {
				continue
			}
			looked++
			if err := compare(t, s, kind, unknown.Raw); err != nil {
				unwritten[kind.Kind] = err
			}
		}
	}
	if looked < 500 {
		t.Errorf("only %d fixtures were found", looked)
	}
	for kind, err := range unwritten {
		if !slices.Contains(decodedKinds, kind) {
			t.Errorf("%s cannot be written without decoding it: %v", kind, err)
		}
	}
}

// compare writes the JSON of a message, and fails the test if it was written in another
// way than decoding and encoding does. It returns why it was not.
func compare(t testing.TB, s *runtime.Scheme, kind schema.GroupVersionKind, body []byte) error {
	t.Helper()
	empty, err := s.New(kind)
	if err != nil {
		t.Fatal(err)
	}
	typ := reflect.TypeOf(empty).Elem()
	apiVersion, name := kind.ToAPIVersionAndKind()
	got, err := For(typ).AppendJSON(nil, apiVersion, name, body)
	if err != nil {
		return err
	}
	want, err := decoded(t, typ, apiVersion, name, body)
	if err != nil {
		t.Fatalf("%s: written, but decoding says: %v", kind, err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n%.3000s\nwant\n%.3000s", kind, got, want)
	}
	return nil
}

// TestRandomObjects writes the JSON of objects of every built-in type, with random
// contents.
func TestRandomObjects(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	s, kinds := builtIn(t)
	codecs := serializer.NewCodecFactory(s)
	filler := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, randomFuncs), rand.NewSource(seed), codecs).NilChance(0.3).NumElements(0, 3).MaxDepth(12)
	written := map[string]int{}
	for _, kind := range kinds {
		for range 50 {
			obj, err := s.New(kind)
			if err != nil {
				t.Fatal(err)
			}
			filler.Fill(obj)
			body, err := obj.(protoObject).Marshal()
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if compare(t, s, kind, body) == nil {
				written[kind.Kind]++
			}
		}
		if written[kind.Kind] == 0 && !slices.Contains(decodedKinds, kind.Kind) {
			t.Errorf("no %s could be written", kind)
		}
	}
}

// texts are what random strings are put together from.
var texts = []string{"a", "Ω", "<&>", `"`, `\`, "\n", "\x01", "\x7f", "\u2028", "\xff", "日本", `{"x":1}`, " "}

func randomText(c randfill.Continue) string {
	var b strings.Builder
	for range c.Intn(4) {
		b.WriteString(texts[c.Intn(len(texts))])
	}
	return b.String()
}

func randomFuncs(serializer.CodecFactory) []any {
	return []any{
		func(s *string, c randfill.Continue) { *s = randomText(c) },
		func(q *resource.Quantity, c randfill.Continue) {
			*q = resource.MustParse([]string{"0", "1", "100m", "1000m", "1Gi", "1.5Gi", "1e3", "0.5", "1536Mi", "1000k", "12345678901234567890", "3n"}[c.Intn(12)])
		},
		func(r *runtime.RawExtension, c randfill.Continue) {
			if c.Bool() {
				r.Raw = []byte([]string{`{}`, `{"a": "<b>"}`, "[1,\n2]", `"x"`, `null`}[c.Intn(5)])
			}
		},
		func(j *apiextensionsv1.JSON, c randfill.Continue) { j.Raw = []byte(`{"a": ["<b>"]}`) },
		func(t *metav1.Time, c randfill.Continue) {
			if c.Bool() {
				*t = metav1.Unix(c.Int63n(1<<38)-1<<36, 0)
			}
		},
		func(t *metav1.MicroTime, c randfill.Continue) {
			if c.Bool() {
				*t = metav1.NewMicroTime(time.UnixMicro(c.Int63n(1 << 52)))
			}
		},
		func(f *metav1.FieldsV1, c randfill.Continue) {
			f.SetRawString([]string{
				"", `{}`, `{"f:metadata":{"f:labels":{".":{},"f:a":{}}}}`, `{"k:{\"type\":\"Ready\"}":{".":{}},"f:b":{"f:c":{}}}`,
				`{"f:<a>":{}}`, `{ "f:a" : {} }`, `{"v:\\\"x\\\"":{}}`, "{\"f:\u2028\":{}}", `{"f:a":1}`, `[]`,
			}[c.Intn(10)])
		},
	}
}

// TestObjectsOnly states what a set of owned fields may be so that it is copied.
func TestObjectsOnly(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:                      true,
		`{"a":{}}`:                true,
		`{"a":{},"b":{"c":{}}}`:   true,
		`{"a\"b\\":{}}`:           true,
		``:                        false,
		`{`:                       false,
		`}`:                       false,
		`{}}`:                     false,
		`{},{}`:                   false,
		`{"a"}`:                   false,
		`{"a":}`:                  false,
		`{"a":{}`:                 false,
		`{"a":{},}`:               false,
		`{,"a":{}}`:               false,
		`{"a":{}"b":{}}`:          false,
		`{"a":{}},`:               false,
		`{"a":1}`:                 false,
		`{"a":"b"}`:               false,
		`{ "a":{}}`:               false,
		`{"\u0041":{}}`:           false,
		`{"a\":{}}`:               false,
		`{"<":{}}`:                false,
		"{\"\u2028\":{}}":         false,
		`{"a":{"b":{},"c":{}}} `:  false,
		`{"a":{"b":{}},"c":{{}}}`: false,
	} {
		if got := objectsOnly([]byte(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
		if want {
			var compact bytes.Buffer
			if err := json.Compact(&compact, []byte(text)); err != nil || compact.String() != text {
				t.Errorf("%s is not JSON as encoding/json compacts it", text)
			}
		}
	}
}

// FuzzAppendJSON: whatever the bytes are, they are written as they would be decoded, or
// not at all. The type is any that objects in storage can have.
//
//	go test -fuzz=FuzzAppendJSON ./internal/transcode
func FuzzAppendJSON(f *testing.F) {
	s, kinds := builtIn(f)
	filler := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, randomFuncs), rand.NewSource(1), serializer.NewCodecFactory(runtime.NewScheme())).NilChance(0.3).NumElements(0, 2).MaxDepth(9)
	for _, kind := range kinds {
		obj, err := s.New(kind)
		if err != nil {
			f.Fatal(err)
		}
		filler.Fill(obj)
		body, err := obj.(protoObject).Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind.Group+"/"+kind.Version+"/"+kind.Kind, body)
	}
	byName := map[string]schema.GroupVersionKind{}
	for _, kind := range kinds {
		byName[kind.Group+"/"+kind.Version+"/"+kind.Kind] = kind
	}
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		kind, ok := byName[name]
		if !ok {
			// What is no type's name chooses one all the same.
			hash := fnv.New32a()
			hash.Write([]byte(name))
			kind = kinds[int(hash.Sum32()%uint32(len(kinds)))]
		}
		_ = compare(t, s, kind, body)
	})
}

// FuzzObjectsOnly: what is copied as it is, is JSON as encoding/json writes it.
func FuzzObjectsOnly(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"f:metadata":{"f:labels":{".":{},"f:a":{}}}}`, `{"k:{\"type\":\"Ready\"}":{".":{}},"f:b":{"f:c":{}}}`,
		`{"f:<a>":{}}`, `{ "f:a" : {} }`, `{"v:\\\"x\\\"":{}}`, "{\"f:\u2028\":{}}", `{"f:a":1}`, `{"a\":{}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !objectsOnly(text) {
			return
		}
		// Marshalling raw JSON checks, compacts and escapes it.
		again, err := json.Marshal(json.RawMessage(text))
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q is copied; encoding/json writes %q, %v", text, again, err)
		}
	})
}

// BenchmarkPod compares with what it saves.
func BenchmarkPod(b *testing.B) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", CreationTimestamp: metav1.Unix(1e9, 0)}}
	for i := range 3 {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
			Name: "c", Image: "registry.example.com/image:v1", Args: []string{"--a", "--b=c", strings.Repeat("x", 100*i)},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}},
		})
	}
	var fields strings.Builder
	for i := range 60 {
		fields.WriteString(`"f:` + strings.Repeat("x", i%20) + `":{},`)
	}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1("{" + strings.TrimSuffix(fields.String(), ",") + "}")}}
	body, err := pod.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("transcode", func(b *testing.B) {
		b.ReportAllocs()
		var out []byte
		for b.Loop() {
			out, err = For(reflect.TypeFor[corev1.Pod]()).AppendJSON(out[:0], "v1", "Pod", body)
			if err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(out)))
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			out, err := decoded(b, reflect.TypeFor[corev1.Pod](), "v1", "Pod", body)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(out)))
		}
	})
}
