// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/sharding"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// setOf reads a set of one "key=value" per line, in which both may be anything.
func setOf(text string) map[string]string {
	set := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		set[key] = value
	}
	return set
}

// attributed returns a codec whose objects have what attrs says, whatever they are.
func attributed(attrs storage.AttrFunc) *frame.Codec {
	return frame.NewCodec(frame.Config{
		Codec: protobufCodec, NewFunc: newPod, Attrs: attrs, Versioner: storage.APIObjectVersioner{},
		Store: frame.NewStore(0, &ledger.Ledger{}), KeepUIDs: true,
	})
}

// FuzzSelectors has selectors of labels, of fields and of shards decide about frames, and
// upstream's own about the sets that these were made of.
//
//	go test -fuzz=FuzzSelectors ./internal/watchcache
func FuzzSelectors(f *testing.F) {
	featuregatetesting.SetFeatureGateDuringTest(f, utilfeature.DefaultFeatureGate, features.ShardedListAndWatch, true)
	many := strings.Repeat("app in (a,b,c,d),", 8) + "zone"
	half := "shardRange(object.metadata.uid, '0x0', '0x8000000000000000')"
	for _, seed := range [][4]string{
		{"app=web", "spec.nodeName=n1", "app=web\ntier=front", "spec.nodeName=n1\nmetadata.name=a"},
		{"app in (web,db),!zone,n>3", "spec.nodeName!=,metadata.name=a", "app=db\nn=7", "spec.nodeName=n1\nmetadata.name=a\nmetadata.namespace=b"},
		{many, "a=b\\,c,d\\==\\\\", "app=a\nzone=", "a=b,c\nd==\\"},
		{"", "", "", ""},
		{"a.example.com/b notin (x,)", "metadata.namespace=", strings.Repeat("x", 200) + "=" + strings.Repeat("y", 20000), "=\n\x00=\xff"},
		{"m9", "metadata uid=u", strings.Join([]string{"m1=a", "m2=b", "m3=", "m4=d", "m5=e", "m6", "m7=g", "m8=h", "m9=", "m10", "m11", "m12", "m13", "m14", "m15", "m16", "m17", "m18"}, "\n"), "metadata.name=a"},
	} {
		f.Add(seed[0], seed[1], "", seed[2], seed[3], "uid")
		f.Add(seed[0], seed[1], half, seed[2], seed[3], "another")
	}
	f.Add("app!=web", "a!=b", "shardRange(object.metadata.namespace, '0x8000000000000000', '0x10000000000000000') || "+strings.ReplaceAll(half, "uid", "namespace"), "app=web", "a=b\nmetadata.namespace=n", "")
	f.Fuzz(func(t *testing.T, label, field, shard, labelText, fieldText, uid string) {
		pred := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything()}
		var err error
		if pred.Label, err = labels.Parse(label); err != nil {
			return
		}
		if pred.Field, err = fields.ParseSelector(field); err != nil {
			return
		}
		if shard != "" {
			if pred.ShardSelector, err = sharding.Parse(shard); err != nil {
				return
			}
		}
		l, s := labels.Set(setOf(labelText)), fields.Set(setOf(fieldText))
		for _, r := range pred.Field.Requirements() {
			if r.Field == "metadata uid" {
				return // what a frame packs beside its object's fields; upstream's handlers know no such field
			}
		}
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s["metadata.namespace"], Name: s["metadata.name"], UID: types.UID(uid), ResourceVersion: "7"}}
		codec := attributed(func(runtime.Object) (labels.Set, fields.Set, error) { return l, s, nil })
		fr, err := codec.Encode("/pods/n/a", pod)
		if err != nil {
			t.Fatal(err)
		}
		mine, shardErr := pred.MatchesSharding(pod)
		want := mine && pred.MatchesObjectAttributes(l, s)
		for prefix, under := range map[string]bool{"/pods/": true, "/pods/n/": true, "/pods/n/a": true, "/pods/n/a/": false, "/pods/m/": false, "/pod": false} {
			m := newMatcher(prefix, pred, func() {})
			got, err := m.matches(fr)
			if !under {
				if got || err != nil {
					t.Errorf("it matches under %s: %v, %v", prefix, got, err)
				}
				continue
			}
			if (err == nil) != (shardErr == nil) || err == nil && got != want {
				t.Errorf("%q, %q, %q match labels %q, fields %q, UID %q: %v, %v; upstream: %v, %v", label, field, shard, l, s, uid, got, err, want, shardErr)
			}
			if m.wantsAll() && !want || m.quick && m.slow {
				t.Errorf("%q, %q, %q: wants all: %v, quick: %v, slow: %v", label, field, shard, m.wantsAll(), m.quick, m.slow)
			}
		}
		// What selectors see of two objects is equal only if the sets are.
		for _, other := range []struct {
			labels labels.Set
			fields fields.Set
		}{{l, fields.Set(l)}, {labels.Set(s), s}, {l, s}} {
			o, err := attributed(func(runtime.Object) (labels.Set, fields.Set, error) { return other.labels, other.fields, nil }).Encode("/pods/n/a", pod)
			if err != nil {
				t.Fatal(err)
			}
			if same := labels.Equals(l, other.labels) && labels.Equals(labels.Set(s), labels.Set(other.fields)); fr.SelectedAs(o) != same {
				t.Errorf("labels %q, fields %q are selected as labels %q, fields %q: %v", l, s, other.labels, other.fields, !same)
			}
		}
	})
}

// FuzzScope: whatever a watch selects, and wherever, a change of an object that it selects is
// in the scope that it follows.
func FuzzScope(f *testing.F) {
	f.Add("spec.nodeName=n1", "", "a", "p", "n1", "n2", byte(0))
	f.Add("metadata.name=p", "a", "a", "p", "", "n2", byte(1))
	f.Add("metadata.name=p,metadata.namespace=a,spec.nodeName!=", "", "a", "p", "n1", "", byte(2))
	f.Add("metadata.namespace=a", "b", "b", "p", "n1", "", byte(3))
	f.Add("metadata.name=x", "x", "", "x", "", "", byte(7))
	f.Add("metadata.name=a\\,b", "", "x", "a,b", "n\x00", "", byte(0))
	f.Add("", "x", "", "x", "", "", byte(15))
	f.Fuzz(func(t *testing.T, field, asked, namespace, name, from, to string, how byte) {
		trigger, gone, cluster, nsRequest := how&1 == 0, how&2 != 0, how&4 != 0, how&8 != 0
		sel, err := fields.ParseSelector(field)
		if err != nil || name == "" || strings.ContainsAny(name+namespace+asked, "/") || !cluster && namespace == "" || cluster && asked != "" && !nsRequest {
			return // no such object, or no such request
		}
		pred := storage.SelectionPredicate{Label: labels.Everything(), Field: sel, GetAttrs: podAttrs, IndexFields: []string{"spec.nodeName"}}
		c := &Cache{follower: &follower{cfg: Config{GroupResource: schema.GroupResource{Resource: "pods"}}}}
		if trigger {
			c.trigger = "spec.nodeName"
		}
		key := podPrefix + namespace + "/" + name
		if cluster {
			// A Namespace, or another object that is in none.
			namespace, key = "", podPrefix+name
			if nsRequest {
				c.cfg.GroupResource.Resource = "namespaces"
			}
		}
		p := placeOf(t.Context(), asked, &pred)
		if cluster {
			// RequestInfo says that a request for one Namespace is in it.
			p.key = podPrefix
			if nsRequest && asked != "" {
				if _, ok := sel.RequiresExactMatch("metadata.name"); !sel.Empty() && !ok {
					return // upstream refuses a selector that does not name the same
				}
				pred.Field = fields.OneTermEqualSelector("metadata.name", asked)
				p = placeOf(t.Context(), asked, &pred)
				p.key = podPrefix + asked
			}
		}
		codec := attributed(podAttrs)
		frameOf := func(node string) *frame.Frame {
			pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: "7"}}
			pod.Spec.NodeName = node
			fr, err := codec.Encode(key, pod)
			if err != nil {
				t.Fatal(err)
			}
			return fr
		}
		ch := &change{rev: 7, prev: frameOf(from)}
		if !gone {
			ch.cur = frameOf(to)
		}
		prefix := p.key
		if p.recursive && !strings.HasSuffix(prefix, "/") && !cluster {
			prefix += "/"
		}
		m := newMatcher(prefix, pred, func() {})
		wanted := false
		for _, fr := range []*frame.Frame{ch.prev, ch.cur} {
			if fr == nil {
				continue
			}
			ok, err := m.matches(fr)
			if err != nil {
				t.Fatal(err)
			}
			wanted = wanted || ok
		}
		follows := c.scopeOf(p.ctx, pred)
		told := follows.kind == wholeResource
		scopesOf(c.trigger)(ch, func(s scope) { told = told || s == follows })
		if wanted && !told {
			t.Errorf("a watch of %q with the fields %q follows %+v, and is not told of %q, on %q and then on %q (gone: %v)", p.key, pred.Field, follows, key, from, to, gone)
		}
	})
}
