// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Widgets are custom resources that are stored under a prefix, indexed by spec.nodeName.
func Widgets(prefix string) Kind {
	return Kind{
		New:     func() runtime.Object { return &unstructured.Unstructured{} },
		NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
		Prefix:  prefix, IndexFields: []string{"spec.nodeName"},
		Attrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
			u, ok := obj.(*unstructured.Unstructured)
			if !ok {
				return nil, nil, fmt.Errorf("%T is no Widget", obj)
			}
			phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
			return u.GetLabels(), fields.Set{
				"metadata.name": u.GetName(), "metadata.namespace": u.GetNamespace(), "spec.nodeName": WidgetNode(u), "status.phase": phase,
			}, nil
		},
		Make: func(namespace, name string, c Content) runtime.Object {
			u := &unstructured.Unstructured{Object: map[string]any{
				"spec":   map[string]any{"nodeName": c.Node, "n": int64(c.N), "half": 0.5, "list": []any{}},
				"status": map[string]any{"phase": c.Phase},
			}}
			u.SetAPIVersion("example.io/v1")
			u.SetKind("Widget")
			u.SetNamespace(namespace)
			u.SetName(name)
			u.SetUID(c.UID)
			if c.App != "" {
				u.SetLabels(map[string]string{"app": c.App})
			}
			return u
		},
	}
}

// WidgetNode returns the value of the indexed field.
func WidgetNode(u *unstructured.Unstructured) string {
	node, _, _ := unstructured.NestedString(u.Object, "spec", "nodeName")
	return node
}
