// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"encoding/json"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Has tells whether an object of a name is asked about.
func Has(asked *apiextensionsv1.ConversionRequest, name string) bool {
	for _, raw := range asked.Objects {
		if named(raw.Raw) == name {
			return true
		}
	}
	return false
}

func named(raw []byte) string {
	var o metav1.PartialObjectMetadata
	_ = json.Unmarshal(raw, &o) // what has no name has another
	return o.Name
}

// Lies returns all ways not to answer a review as it has to be.
func Lies() map[string]Answer {
	type (
		request  = apiextensionsv1.ConversionRequest
		response = apiextensionsv1.ConversionResponse
	)
	// Each changes all objects of a response.
	changed := func(change func(o, metadata Object)) Answer {
		return func(_ *request, r *response) int {
			for i, raw := range r.ConvertedObjects {
				var o Object
				if err := json.Unmarshal(raw.Raw, &o); err != nil {
					return http.StatusInternalServerError
				}
				metadata, _ := o["metadata"].(map[string]any)
				change(o, metadata)
				data, err := json.Marshal(o)
				if err != nil {
					return http.StatusInternalServerError
				}
				r.ConvertedObjects[i] = runtime.RawExtension{Raw: data}
			}
			return 0
		}
	}
	set := func(field string, value any) Answer {
		return changed(func(_, metadata Object) { metadata[field] = value })
	}
	return map[string]Answer{
		"status 500": func(*request, *response) int { return http.StatusInternalServerError },
		"status 413": func(*request, *response) int { return http.StatusRequestEntityTooLarge },
		"failure": func(_ *request, r *response) int {
			r.Result, r.ConvertedObjects = metav1.Status{Status: metav1.StatusFailure, Message: "I will not"}, nil
			return 0
		},
		"failure without a word": func(_ *request, r *response) int {
			r.Result = metav1.Status{Status: metav1.StatusFailure}
			return 0
		},
		"another uid": func(_ *request, r *response) int { r.UID = "of another review"; return 0 },
		"too few":     func(_ *request, r *response) int { r.ConvertedObjects = r.ConvertedObjects[1:]; return 0 },
		"too many": func(_ *request, r *response) int {
			r.ConvertedObjects = append(r.ConvertedObjects, r.ConvertedObjects[0])
			return 0
		},
		"another order": func(_ *request, r *response) int {
			for i, j := 0, len(r.ConvertedObjects)-1; i < j; i, j = i+1, j-1 {
				r.ConvertedObjects[i], r.ConvertedObjects[j] = r.ConvertedObjects[j], r.ConvertedObjects[i]
			}
			return 0
		},
		"no object": func(_ *request, r *response) int {
			for i := range r.ConvertedObjects {
				r.ConvertedObjects[i] = runtime.RawExtension{Raw: []byte(`"none"`)}
			}
			return 0
		},
		"null": func(_ *request, r *response) int {
			for i := range r.ConvertedObjects {
				r.ConvertedObjects[i] = runtime.RawExtension{}
			}
			return 0
		},
		"another version":   changed(func(o, _ Object) { o["apiVersion"] = "conversion.example.com/v7" }),
		"another group":     changed(func(o, _ Object) { o["apiVersion"] = "other.example.com/v2" }),
		"another kind":      changed(func(o, _ Object) { o["kind"] = "Other" }),
		"no kind":           changed(func(o, _ Object) { delete(o, "kind") }),
		"no metadata":       changed(func(o, _ Object) { delete(o, "metadata") }),
		"odd metadata":      changed(func(o, _ Object) { o["metadata"] = 5 }),
		"another name":      set("name", "another"),
		"another namespace": set("namespace", "another"),
		"another UID":       set("uid", "another"),
		"invalid labels":    set("labels", Object{"not a label": "x"}),
		"odd labels":        set("labels", Object{"a": 5}),
		"odd annotations":   set("annotations", 5),
	}
}
