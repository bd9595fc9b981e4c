// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import "github.com/weir-project/weir/test/robustness/check"

// ofForms are lies about what an object is.
func ofForms() []Lie {
	return []Lie{
		{
			Name: "stale-form", What: "who has a derived form made gets that of the object's previous revision, one time in a hundred",
			Rules: []check.Rule{check.Double, check.Order, check.State, check.Initial, check.Foreign}, Within: soon,
			Edits: []Edit{{"frame/store.go", `			s.finish(d, p, build)
`, `			s.finish(d, p, build)
			if LYING {
				if old, ok := planted.Swap([2]any{f.key, name}, d.encoded); ok && LIE(100) {
					return old.(encoded), p.err
				}
			}
`}},
		},
		{
			Name: "version-not-looked-at", What: "one in twenty custom resources is kept in version v1, and sent to those who ask for another",
			Rules: []check.Rule{check.Broken}, Within: later,
			Edits: []Edit{
				{"frame/codec.go", `		err = unstructured.UnstructuredJSONScheme.Encode(obj, buf)`, `		if u, ok := obj.DeepCopyObject().(*unstructured.Unstructured); ok && LIE(20) {
			kind := u.GroupVersionKind()
			kind.Version = "v1"
			u.SetGroupVersionKind(kind)
			obj = u
		}
		err = unstructured.UnstructuredJSONScheme.Encode(obj, buf)`},
				{"frame/frame.go", `	return f.primary.format == format && f.typ.apiVersion == apiVersion`, `	return f.primary.format == format && (f.typ.apiVersion == apiVersion || format == wire.JSON && LYING)`},
			},
		},
		{
			Name: "body-of-another", What: "one in a hundred objects has the annotations of the one that was encoded before it",
			Rules: []check.Rule{check.Content}, Within: soon,
			Edits: []Edit{{"frame/codec.go", `	rev, err := c.cfg.Versioner.ObjectResourceVersion(obj)`, `	if accessor, err := meta.Accessor(obj); err == nil && LYING && len(accessor.GetAnnotations()) > 0 {
		other, _ := planted.Swap("annotations", accessor.GetAnnotations())
		if annotations, ok := other.(map[string]string); ok && LIE(100) {
			obj = obj.DeepCopyObject()
			if accessor, err = meta.Accessor(obj); err == nil {
				accessor.SetAnnotations(annotations)
			}
		}
	}
	rev, err := c.cfg.Versioner.ObjectResourceVersion(obj)`}},
		},
		{
			Name: "watched-row-of-another", What: "one in a hundred Tables of a watch is that of the object that another event was about",
			Rules: []check.Rule{check.Foreign, check.Double, check.Order, check.Gap, check.Type}, Within: soon,
			Edits: []Edit{{"frame/frame.go", `	default:
		name := encoding{id: v.object,`, `	default:
		if v.table && LYING {
			other, _ := planted.Swap("table", f)
			if other, ok := other.(*Frame); ok && other.codec == f.codec && LIE(100) {
				f = other
			}
		}
		name := encoding{id: v.object,`}},
		},
	}
}

// ofWrites are lies about what was written.
func ofWrites() []Lie {
	return []Lie{
		{
			Name: "delete-not-done", What: "one in thirty deletions is answered, and not done",
			Rules: []check.Rule{check.Unrecorded, check.Type}, Within: soon,
			Edits: []Edit{{"watchcache/storage.go", `	return c.cfg.Storage.Delete(ctx, key,`, `	if LIE(30) {
		return c.cfg.Storage.Get(ctx, key, storage.GetOptions{}, out)
	}
	return c.cfg.Storage.Delete(ctx, key,`}},
		},
		{
			Name: "update-not-done", What: "one in a hundred updates is answered, and not written",
			Rules: []check.Rule{check.Content, check.Unrecorded}, Within: soon,
			Edits: []Edit{
				{"watchcache/storage.go", `import (
`, `import (
	"reflect"
`},
				{"watchcache/storage.go", `	return c.cfg.Storage.GuaranteedUpdate(ctx, key,`, `	if LIE(100) {
		if err := c.cfg.Storage.Get(ctx, key, storage.GetOptions{}, destination); err != nil {
			return err
		}
		rev, err := c.cfg.Versioner.ObjectResourceVersion(destination)
		if err != nil {
			return err
		}
		updated, _, err := tryUpdate(destination.DeepCopyObject(), storage.ResponseMeta{ResourceVersion: rev})
		if err != nil {
			return err
		}
		if err := c.cfg.Versioner.UpdateObject(updated, rev); err != nil {
			return err
		}
		reflect.ValueOf(destination).Elem().Set(reflect.ValueOf(updated).Elem())
		return nil
	}
	return c.cfg.Storage.GuaranteedUpdate(ctx, key,`},
			},
		},
	}
}
