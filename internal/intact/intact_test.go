// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// twins has those of definitions, made once.
var twins = sync.OnceValue(func() []twin {
	var all []twin
	for _, d := range definitions() {
		all = append(all, newTwin(panics{}, d))
	}
	return all
})

// panics is a testing.TB for what is made once for all tests.
type panics struct{ testing.TB }

func (panics) Helper()           {}
func (panics) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func twinOf(tb testing.TB, name string) twin {
	tb.Helper()
	all := twins()
	i := slices.IndexFunc(all, func(x twin) bool { return x.name == name })
	if i < 0 {
		tb.Fatalf("there is no definition %q", name)
	}
	return all[i]
}

const (
	head = `{"apiVersion":"example.io/v1","kind":"Thing","metadata":{"creationTimestamp":"2026-01-02T03:04:05Z","generation":1,"name":"a","namespace":"b","uid":"u"}`
	tail = "}\n"
)

// TestLook holds which objects are intact, and each yes against upstream's codec. What the server writes has to be, or nothing is gained.
func TestLook(t *testing.T) {
	with := func(metadata string) string {
		return `{"apiVersion":"example.io/v1","kind":"Thing","metadata":{` + metadata + `}}` + "\n"
	}
	spec := func(spec string) string { return head + `,"spec":` + spec + tail }
	deep := func(n int) string {
		return head + `,"spec":{"any":` + strings.Repeat(`{"a":`, n) + `1` + strings.Repeat(`}`, n) + `}` + tail
	}
	for _, test := range []struct {
		what, of, data string
		intact         bool
	}{
		{"nothing but metadata", "rich", head + tail, true},
		{"without a newline", "rich", head + "}", true},
		{"two newlines", "rich", head + tail + "\n", false},
		{"white space", "rich", strings.Replace(head, `,"kind"`, `, "kind"`, 1) + tail, false},
		{"white space before", "rich", " " + head + tail, false},
		{"something behind", "rich", head + "}{}", false},
		{"cut off", "rich", head, false},
		{"empty", "rich", "", false},
		{"an empty object", "rich", "{}", false},
		{"CBOR", "rich", "\xd9\xd9\xf7\xa0", false},
		{"a list", "rich", head + `,"items":[]` + tail, false},
		{"a list that is none", "none pruned", head + `,"items":1` + tail, false},
		{"another kind", "rich", strings.Replace(head, "Thing", "Other", 1) + tail, false},
		{"another group", "rich", strings.Replace(head, "example.io", "example.com", 1) + tail, false},
		{"another version", "rich", strings.Replace(head, "io/v1", "io/v1beta1", 1) + tail, true},
		{"another schema", "rich", strings.Replace(head, "io/v1", "io/v1alpha1", 1) + tail, true},
		{"another version, by webhook", "by webhook", strings.Replace(head, "io/v1", "io/v1beta1", 1) + tail, false},
		{"by webhook", "by webhook", head + tail, true},
		{"no such version", "rich", strings.Replace(head, "io/v1", "io/v9", 1) + tail, false},
		{"no version", "rich", strings.Replace(head, "io/v1", "io/", 1) + tail, false},
		{"a key before apiVersion", "rich", `{"Upper":"u",` + head[1:] + tail, false},

		{"no metadata", "rich", `{"apiVersion":"example.io/v1","kind":"Thing"}`, false},
		{"no kind", "rich", `{"apiVersion":"example.io/v1","metadata":{"generation":1,"name":"a"}}`, false},
		{"the least", "rich", with(`"generation":1,"name":"a"`), true},
		{"no name", "rich", with(`"generation":1,"namespace":"a"`), false},
		{"no generation", "rich", with(`"name":"a"`), false},
		{"generation 0", "rich", with(`"generation":0,"name":"a"`), false},
		{"generation 1.0", "rich", with(`"generation":1.0,"name":"a"`), false},
		{"resourceVersion", "rich", with(`"generation":1,"name":"a","resourceVersion":"1"`), false},
		{"selfLink", "rich", with(`"generation":1,"name":"a","selfLink":"l"`), false},
		{"unknown", "rich", with(`"generation":1,"name":"a","unknown":"l"`), false},
		{"unknown before", "rich", with(`"generation":1,"label":{},"name":"a"`), false},
		{"another case", "rich", with(`"Name":"a","generation":1,"name":"a"`), false},
		{"twice", "rich", with(`"generation":1,"name":"a","name":"a"`), false},
		{"out of order", "rich", with(`"name":"a","generation":1`), false},
		{"an escape", "rich", with(`"generation":1,"name":"a\u0026"`), false},
		{"an empty namespace", "rich", with(`"generation":1,"name":"a","namespace":""`), false},
		{"generateName", "rich", with(`"generateName":"a-","generation":1,"name":"a-b"`), true},
		{"labels", "rich", with(`"generation":1,"labels":{"a":"","b":"x"},"name":"a"`), true},
		{"no labels", "rich", with(`"generation":1,"labels":{},"name":"a"`), false},
		{"labels null", "rich", with(`"generation":1,"labels":null,"name":"a"`), false},
		{"a label of null", "rich", with(`"generation":1,"labels":{"a":null},"name":"a"`), false},
		{"a label with an escape", "rich", with(`"generation":1,"labels":{"a":"\""},"name":"a"`), false},
		{"a label with escapes", "rich", with(`"generation":1,"labels":{"\"\"a":"x"},"name":"a"`), false},
		{"a label that is a number", "rich", with(`"generation":1,"labels":{"a":1},"name":"a"`), false},
		{"annotations", "rich", with(`"annotations":{"a":"{\"x\":\"\u003c\u003e\u0026\\\n\"}","b":"é😀"},"generation":1,"name":"a"`), true},
		{"no annotations", "rich", with(`"annotations":{},"generation":1,"name":"a"`), false},
		{"finalizers", "rich", with(`"finalizers":["a/b"],"generation":1,"name":"a"`), true},
		{"no finalizers", "rich", with(`"finalizers":[],"generation":1,"name":"a"`), false},
		{"a finalizer of null", "rich", with(`"finalizers":[null],"generation":1,"name":"a"`), false},
		{"being deleted", "rich", with(`"creationTimestamp":"2026-01-02T03:04:05Z","deletionGracePeriodSeconds":0,"deletionTimestamp":"2026-01-02T03:04:05Z","generation":2,"name":"a"`), true},
		{"a time with an offset", "rich", with(`"creationTimestamp":"2026-01-02T03:04:05+01:00","generation":2,"name":"a"`), false},
		{"a time with a fraction", "rich", with(`"creationTimestamp":"2026-01-02T03:04:05.1Z","generation":2,"name":"a"`), false},
		{"a time that is none", "rich", with(`"creationTimestamp":"2026-02-31T03:04:05Z","generation":2,"name":"a"`), false},
		{"the time 0", "rich", with(`"creationTimestamp":"0001-01-01T00:00:00Z","generation":2,"name":"a"`), false},
		{"a time of null", "rich", with(`"creationTimestamp":null,"generation":2,"name":"a"`), false},
		{"a grace period that is a float64", "rich", with(`"deletionGracePeriodSeconds":92233720368547758080,"generation":2,"name":"a"`), false},
		{"an owner", "rich", with(`"generation":1,"name":"a","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":false,"kind":"Pod","name":"p","uid":"u"}]`), true},
		{"an owner without UID", "rich", with(`"generation":1,"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p"}]`), false},
		{"an owner with more", "rich", with(`"generation":1,"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"Pod","more":1,"name":"p","uid":"u"}]`), false},
		{"no owners", "rich", with(`"generation":1,"name":"a","ownerReferences":[]`), false},
		{"managed fields", "rich", with(`"generation":1,"managedFields":[{"apiVersion":"example.io/v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:finalizers":{".":{},"v:\"a/b\"":{}}},"f:spec":{".":{},"f:list":{"k:{\"a\":\"x\"}":{".":{},"f:a":{}},"k:{\"a\":\"y\"}":{}}}},"manager":"kubectl","operation":"Update","subresource":"status","time":"2026-01-02T03:04:05Z"}],"name":"a"`), true},
		{"managed fields, empty", "rich", with(`"generation":1,"managedFields":[],"name":"a"`), false},
		{"managed fields of no manager", "rich", with(`"generation":1,"managedFields":[{"manager":""}],"name":"a"`), false},
		{"managed fields that are no set", "rich", with(`"generation":1,"managedFields":[{"fieldsV1":{"a":1},"manager":"m"}],"name":"a"`), false},
		{"managed fields out of order", "rich", with(`"generation":1,"managedFields":[{"fieldsV1":{"v:\"b\"":{},"v:\"a\"":{}},"manager":"m"}],"name":"a"`), false},

		{"all kinds of fields", "rich", spec(`{"a\u003cb":"x","any":{"z":[1,null,{"y":null}]},"b":true,"bare":{},"either":"x","f":1.5,"kept":[{"a":{}}],"kinds":[{"a":"x","more":{"q":1}}],"list":[{"a":"","d":"x","more":[[{"a":"x"}],[]]}],"lists":{"a":["x"]},"map":{"k":{"d":1}},"n":-9223372036854775808,"null":null,"nulls":[null,"x"],"opt":{"d":1,"o":null},"partly":{"d":{"x":1},"more":{"q":{}},"pruned":{"a":"x"}},"s":"","texts":[],"words":{"a":null,"b":"x"},"é":"x"}`), true},
		{"a status", "rich", head + `,"spec":{},"status":{"conditions":[{"type":"Ready"}],"more":{"a":1}}` + tail, true},
		{"a field that is pruned", "rich", spec(`{"unknown":1}`), false},
		{"a root field that is pruned", "rich", head + `,"unknown":1` + tail, false},
		{"pruned in an item", "rich", spec(`{"list":[{"d":"x","unknown":1}]}`), false},
		{"pruned in an item of an item", "rich", spec(`{"list":[{"d":"x","more":[[{"b":1}]]}]}`), false},
		{"pruned in a value", "rich", spec(`{"map":{"k":{"d":1,"unknown":1}}}`), false},
		{"pruned below what is preserved", "rich", spec(`{"partly":{"d":{"x":1},"pruned":{"b":1}}}`), false},
		{"pruned below what has no fields", "rich", spec(`{"bare":{"a":1}}`), false},
		{"pruned in a status", "rich", head + `,"status":{"conditions":[{"more":1}]}` + tail, false},
		{"no default", "rich", spec(`{"opt":{"o":1}}`), false},
		{"no default in an item", "rich", spec(`{"list":[{"a":"x"}]}`), false},
		{"no default in a value", "rich", spec(`{"map":{"k":{}}}`), false},
		{"no default below what is preserved", "rich", spec(`{"partly":{"d":{}}}`), false},
		{"values that have a default", "rich", spec(`{"preset":{"a":"x","b":"y"}}`), true},
		{"a value of null that has a default", "rich", spec(`{"preset":{"a":null}}`), false},
		{"no default at the root", "defaults", head + tail, false},
		{"defaults", "defaults", spec(`{"list":[{"a":"x"}],"n":1}`), true},
		{"an item of null that has a default", "defaults", spec(`{"list":[null],"n":1}`), false},
		{"null", "rich", spec(`{"s":null}`), false},
		{"null for an object", "rich", head + `,"spec":null` + tail, false},
		{"null that is preserved", "none pruned", head + `,"spec":null` + tail, true},
		{"a value of null", "rich", spec(`{"lists":{"a":null}}`), false},
		{"text for a number", "rich", spec(`{"n":"x"}`), true}, // only validation minds
		{"an object for text", "rich", spec(`{"s":{"a":1}}`), false},
		{"an empty object for text", "rich", spec(`{"s":{}}`), true},
		{"a list for text", "rich", spec(`{"s":[1,[2]]}`), true},
		{"a list of objects for text", "rich", spec(`{"s":[{"a":1}]}`), false},
		{"1.0", "rich", spec(`{"f":1.0}`), false},
		{"1e3", "rich", spec(`{"f":1e3}`), false},
		{"1e+21", "rich", spec(`{"f":1e+21}`), true},
		{"1e21", "rich", spec(`{"f":1e21}`), false},
		{"1e-7", "rich", spec(`{"f":1e-7}`), true},
		{"1e-07", "rich", spec(`{"f":1e-07}`), false},
		{"0.1", "rich", spec(`{"f":0.1}`), true},
		{"0.10", "rich", spec(`{"f":0.10}`), false},
		{"1e999", "rich", spec(`{"f":1e999}`), false},
		{"-0", "rich", spec(`{"n":-0}`), false},
		{"-0.0", "rich", spec(`{"n":-0.0}`), false},
		{"01", "rich", spec(`{"n":01}`), false},
		{"+1", "rich", spec(`{"n":+1}`), false},
		{"-", "rich", spec(`{"n":-}`), false},
		{"9223372036854775807", "rich", spec(`{"n":9223372036854775807}`), true},
		{"9223372036854775808", "rich", spec(`{"n":9223372036854775808}`), false}, // 9223372036854776000 as a float64
		{"10000000000000000000", "rich", spec(`{"n":10000000000000000000}`), true},
		{"-9223372036854775809", "rich", spec(`{"n":-9223372036854775809}`), false},
		{"a raw <", "rich", spec(`{"s":"<"}`), false},
		{"a raw line separator", "rich", spec("{\"s\":\"\u2028\"}"), false},
		{"an escape that is not needed", "rich", spec(`{"s":"\u0041"}`), false},
		{"an escape in capitals", "rich", spec(`{"s":"\u003C"}`), false},
		{"an escaped slash", "rich", spec(`{"s":"\/"}`), false},
		{"a surrogate", "rich", spec(`{"s":"\ud83d\ude00"}`), false},
		{"no UTF-8", "rich", spec("{\"s\":\"\xff\"}"), false},
		{"U+FFFD", "rich", spec("{\"s\":\"\ufffd\"}"), true},
		{"U+FFFD escaped", "rich", spec(`{"s":"\ufffd"}`), false},
		{"a control character", "rich", spec("{\"s\":\"\x01\"}"), false},
		{"an escaped control character", "rich", spec(`{"s":"\u0001\u007f"}`), false},
		{"keys that are out of order but for their escapes", "none pruned", head + `,"spec":{"=":1,"\u003c":1}` + tail, false},
		{"keys that are in order but for their escapes", "none pruned", head + `,"spec":{"\u003c":1,"=":1}` + tail, true},
		{"a comma too many", "rich", spec(`{"n":1,}`), false},
		{"a comma too many in a list", "rich", spec(`{"texts":["a",]}`), false},
		{"no value", "rich", spec(`{"n":}`), false},
		{"no colon", "rich", spec(`{"n"1}`), false},
		{"a word", "rich", spec(`{"b":truE}`), false},
		{"deep", "rich", deep(100), true},
		{"too deep", "rich", deep(100000), false},
		{"embedded", "embedded", spec(`{"template":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}}`), false},
		{"embedded in a list", "embedded", spec(`{"templates":[{"apiVersion":"v1"}]}`), false},
		{"nothing embedded", "embedded", spec(`{"n":1}`), true},
		{"unknown preserved", "unknown preserved", spec(`{"list":[{"d":"x","unknown":{"a":[{}]}}],"unknown":{"a":1}}`), true},
		{"unknown preserved, at the root", "unknown preserved", head + `,"unknown":{"a":null}` + tail, true},
		{"not pruned", "none pruned", head + `,"x":{"y":[{"z":null}]}` + tail, true},
		{"all pruned", "all pruned", head + tail, true},
	} {
		t.Run(test.what, func(t *testing.T) {
			if got := twinOf(t, test.of).look(t, "v1", []byte(test.data)); got != test.intact {
				t.Errorf("%s is intact: %v, want %v", test.data, got, test.intact)
			}
			for _, version := range []string{"v1beta1", "v1alpha1"} {
				twinOf(t, test.of).look(t, version, []byte(test.data))
			}
		})
	}
}

// TestOtherVersions: what is stored in another version has to be intact for the schema of that, and of the one that is served.
func TestOtherVersions(t *testing.T) {
	in := func(version, spec string) []byte {
		return []byte(strings.Replace(head, "io/v1", "io/"+version, 1) + `,"spec":` + spec + tail)
	}
	x := twinOf(t, "rich")
	for _, test := range []struct {
		stored, spec, served string
		intact               bool
	}{
		{"v1", `{"b":true,"n":1}`, "v1beta1", true},
		{"v1beta1", `{"b":true,"n":1}`, "v1", true},
		{"v1", `{"n":1}`, "v1alpha1", true}, // the default of v1alpha1 is for what is stored so
		{"v1", `{"b":true,"n":1}`, "v1alpha1", false},
		{"v1", `{"list":[{"a":"x","d":"x"}]}`, "v1alpha1", false},
		{"v1alpha1", `{"n":1}`, "v1", false},
		{"v1alpha1", `{"n":1,"s":"x"}`, "v1", true},
		{"v1alpha1", `{"list":[{"a":"x"}],"s":"x"}`, "v1", true}, // the default of v1 is not for it
	} {
		if got := x.look(t, test.served, in(test.stored, test.spec)); got != test.intact {
			t.Errorf("%s, stored in %s, is intact in %s: %v, want %v", test.spec, test.stored, test.served, got, test.intact)
		}
	}
}

// TestTexts holds strings of each character against encoding/json: as it writes them they are intact, and in no other way.
func TestTexts(t *testing.T) {
	x := twinOf(t, "none pruned")
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if r == 0x3100 {
			r = 0xd700 // between them all are alike
		}
		if r == 0x10100 {
			r = utf8.MaxRune - 2
		}
		text := string(r)
		written, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if utf8.ValidRune(r) {
			judge := x.judges["v1"]
			if _, ok := judge.Look([]byte(head + `,"x":` + string(written) + tail)); !ok {
				t.Errorf("%U, as encoding/json writes it, is not intact", r)
			}
			if _, ok := judge.Look([]byte(head + `,"x":{` + string(written) + `:1}` + tail)); !ok {
				t.Errorf("%U as a key, as encoding/json writes it, is not intact", r)
			}
		}
		for _, other := range []string{`"` + text + `"`, fmt.Sprintf(`"\u%04x"`, r), fmt.Sprintf(`"\u%04X"`, r), `"\` + text + `"`} {
			if other != string(written) && len(other) < 12 {
				x.look(t, "v1", []byte(head+`,"x":`+other+tail))
			}
		}
	}
}

// TestRandom makes objects of what the schemas have and what they have not, and changes them a little; some have to be intact.
func TestRandom(t *testing.T) {
	rounds := 30000
	if testing.Short() {
		rounds = 3000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 1))}
	intact, changed := 0, 0
	for range rounds {
		x := twins()[g.IntN(len(twins()))]
		data := g.object()
		for _, version := range []string{"v1", "v1alpha1"} {
			if x.look(t, version, data) {
				intact++
			}
		}
		if x.look(t, "v1", g.change(data)) {
			changed++
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d are intact, and %d of those that were changed", intact, 2*rounds, changed)
	if intact < rounds/5 || changed < rounds/50 {
		t.Errorf("%d and %d are intact of %d: the judge has become too strict, or the generator too wild", intact, changed, rounds)
	}
}

// TestTogether has objects be looked at by several goroutines, by a Judge that has seen none.
func TestTogether(t *testing.T) {
	x := newTwin(t, definitions()[0])
	data := []byte(head + `,"spec":{"list":[{"a":"x","d":"x"}],"map":{"k":{"d":1}}}` + tail)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for _, version := range []string{"v1", "v1beta1"} {
				if _, ok := x.judges[version].Look(data); !ok {
					t.Errorf("%s is not intact", data)
				}
			}
		})
	}
	all.Wait()
}

// FuzzLook holds whatever is intact against upstream's codec.
func FuzzLook(f *testing.F) {
	g := generator{rand.New(rand.NewPCG(1, 2))}
	for i := range 40 {
		f.Add(uint8(i), g.object())
	}
	for _, spec := range []string{`{"f":1.5,"s":"\u003c"}`, `{"list":[{"a":"x","d":"x"}]}`, `{"any":{"a":null}}`, `{"opt":{"d":1,"o":null}}`} {
		f.Add(uint8(0), []byte(head+`,"spec":`+spec+tail))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		x := twins()[int(which)%len(twins())]
		for _, version := range []string{"v1", "v1beta1", "v1alpha1"} {
			x.look(t, version, data)
		}
	})
}
