// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact_test

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
)

// generator makes objects, by chance.
type generator struct{ *rand.Rand }

// names are of what the schemas have, and of what they have not.
var names = []string{"n", "s", "b", "f", "null", "either", "any", "partly", "pruned", "d", "x", "kept", "list", "a", "more", "texts", "nulls", "map",
	"words", "lists", "all", "opt", "o", "a<b", "é", "bare", "kinds", "template", "templates", "unknown", "type", "conditions", "metadata", "kind", "apiVersion", "\"q\""}

func pick[T any](g generator, of ...T) T { return of[g.IntN(len(of))] }

// shaped makes a value that the schema of a name would have, mostly.
func (g generator) shaped(name string, depth int) any {
	if g.IntN(40) == 0 || depth > 5 {
		return g.any(depth)
	}
	some := func(of ...string) map[string]any {
		m := map[string]any{}
		for _, name := range of {
			if g.IntN(6) > 0 {
				m[name] = g.shaped(name, depth+1)
			}
		}
		return m
	}
	many := func(item string) []any {
		l := []any{}
		for range g.IntN(3) {
			l = append(l, g.shaped(item, depth+1))
		}
		return l
	}
	switch name {
	case "spec":
		of := slices.Clone(names[:26])
		g.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		var known []string
		for _, name := range of[:g.IntN(6)] {
			if !slices.Contains([]string{"pruned", "d", "x", "a", "more", "o"}, name) || g.IntN(60) == 0 {
				known = append(known, name)
			}
		}
		return some(append(known, "n", "s")...)
	case "status":
		return some("conditions", "unknown")
	case "conditions":
		return many("condition")
	case "condition":
		return some("type")
	case "list":
		return many("item")
	case "item":
		m := some("a", "more")
		if g.IntN(10) > 0 {
			m["d"] = "x"
		}
		return m
	case "more":
		return []any{many("inner")}
	case "inner", "pruned":
		return some("a")
	case "partly":
		return some("pruned", "unknown")
	case "map":
		return map[string]any{"k": map[string]any{"a": "x", "d": int64(1)}}
	case "opt":
		return map[string]any{"d": int64(1), "o": pick[any](g, nil, int64(1))}
	case "words":
		return map[string]any{"a": g.text(), "b": nil}
	case "lists":
		return map[string]any{"a": many("s")}
	case "texts":
		return many("s")
	case "nulls":
		return []any{nil, g.text()}
	case "kinds":
		return []any{some("a", "unknown")}
	case "bare", "all":
		return map[string]any{}
	case "any", "kept", "unknown", "template":
		return g.any(depth)
	case "n":
		return pick[any](g, int64(1), int64(0), int64(-5), int64(math.MaxInt64), int64(math.MinInt64))
	case "f":
		return g.number()
	case "b":
		return g.IntN(2) == 0
	case "null":
		return pick[any](g, nil, "x")
	default:
		return g.text()
	}
}

func (g generator) text() string {
	return pick(g, "", "x", "<&>", "\u2028", "é😀", "\"\\\n\b\x01", "2026-01-02T03:04:05Z", "a/b", string(rune(g.IntN(0x3000))))
}

func (g generator) number() any {
	return pick[any](g, 1.5, 1e21, 1e-7, 0.1, -2.25e-9, math.MaxFloat64, 1e19, int64(3), math.Float64frombits(g.Uint64()&^(1<<62)))
}

func (g generator) any(depth int) any {
	if depth > 6 {
		return nil
	}
	switch g.IntN(8) {
	case 0:
		m := map[string]any{}
		for range g.IntN(4) {
			m[pick(g, names...)] = g.any(depth + 1)
		}
		return m
	case 1:
		l := []any{}
		for range g.IntN(3) {
			l = append(l, g.any(depth+1))
		}
		return l
	case 2:
		return nil
	case 3:
		return g.number()
	case 4:
		return int64(g.Uint64())
	case 5:
		return g.IntN(2) == 0
	default:
		return g.text()
	}
}

// metadata makes those of an object, as the server writes them, mostly.
func (g generator) metadata() map[string]any {
	m := map[string]any{"name": "a", "namespace": "b", "uid": "u", "generation": int64(1 + g.IntN(3)), "creationTimestamp": "2026-01-02T03:04:05Z"}
	for name, value := range map[string]any{
		"labels":      map[string]any{"a": "x", "app.kubernetes.io/name": g.text()},
		"annotations": map[string]any{"a": g.text(), g.text(): "y"},
		"finalizers":  []any{g.text()},
		"managedFields": []any{map[string]any{"apiVersion": "example.io/v1", "fieldsType": "FieldsV1", "manager": pick(g, "m", ""), "operation": "Update", "time": "2026-01-02T03:04:05Z",
			"fieldsV1": map[string]any{"f:spec": map[string]any{".": map[string]any{}, "k:{\"a\":\"" + g.text() + "\"}": map[string]any{}, "v:\"x\"": map[string]any{}}}}},
		"ownerReferences":            []any{map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", pick(g, "controller", "blockOwnerDeletion"): g.IntN(2) == 0}},
		"deletionTimestamp":          pick(g, "2026-01-02T03:04:05Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z"),
		"deletionGracePeriodSeconds": int64(g.IntN(3)),
		"generateName":               "a-",
	} {
		if g.IntN(3) == 0 {
			m[name] = value
		}
	}
	if g.IntN(10) == 0 {
		delete(m, pick(g, "name", "namespace", "uid", "generation", "creationTimestamp"))
	}
	if g.IntN(20) == 0 {
		m[pick(g, "selfLink", "resourceVersion", "unknown", "labels", "annotations", "finalizers", "generation", "name", "uid", "managedFields", "ownerReferences", "creationTimestamp")] = g.any(4)
	}
	return m
}

// object makes an object in JSON, as encoding/json writes it.
func (g generator) object() []byte {
	o := map[string]any{"apiVersion": pick(g, "example.io/v1", "example.io/v1", "example.io/v1beta1", "example.io/v1alpha1"), "kind": "Thing", "metadata": g.metadata()}
	for _, name := range []string{"spec", "status"} {
		if g.IntN(4) > 0 {
			o[name] = g.shaped(name, 0)
		}
	}
	if g.IntN(30) == 0 {
		o[pick(g, "unknown", "items", "Upper", "kind", "spec")] = g.any(3)
	}
	var buf bytes.Buffer
	if err := json.NewEncoder(&buf).Encode(o); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// change changes data a little.
func (g generator) change(data []byte) []byte {
	data = slices.Clone(data)
	bits := []string{`"`, `,`, `:`, `{}`, `[]`, `null`, `0`, `1`, ` `, `\`, `\u003c`, `.`, `-`, `e`, `a`, `"a":1,`, `,"z":{}`, "\xff", "é", `""`}
	for range 1 + g.IntN(2) {
		at := g.IntN(len(data))
		switch g.IntN(4) {
		case 0:
			data = slices.Delete(data, at, min(len(data), at+1+g.IntN(3)))
		case 1:
			data[at] = pick(g, data...)
		case 2:
			data = slices.Insert(data, at, []byte(pick(g, bits...))...)
		default:
			data[at]++
		}
		if len(data) == 0 {
			return data
		}
	}
	return data
}
