// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/weir-project/weir/test/robustness/history"
)

// operation is a write as it is sent.
type operation struct {
	method, path, contentType string
	body                      any
	record                    history.Write // with its verb, key and selector
}

// drawn is all that the plan says of a write. What of it is used depends on what is there.
type drawn struct {
	key              history.Key
	at               int // the server
	choice, creation int
	side, phase      string
	word             string
	node, version    string
	fill             int
	letter           rune
}

// draw draws all that may be needed, whether it is or not, so that the plan does not depend on answers.
func draw(r *rand.Rand) drawn {
	d := drawn{
		key: anyKey(r), at: r.IntN(weirs), choice: r.IntN(1000), creation: r.IntN(4),
		side: pick(r, sides), phase: pick(r, phases), word: pick(r, words), node: node(r.IntN(nodes)), version: pick(r, versions),
		letter: 'a' + rune(r.IntN(26)),
	}
	size, small, large, huge := r.IntN(3000), r.IntN(300), 100_000+r.IntN(100_000), 400_000+r.IntN(1_000_000)
	switch {
	case size < 2:
		d.fill = huge
	case size < 20:
		d.fill = large
	default:
		d.fill = small
	}
	return d
}

// most is how much one may be filled with: annotations and a ConfigMap's data have limits, what etcd takes is less than 1.5 MiB.
func most(resource string) int {
	switch resource {
	case configMaps:
		return 1_000_000
	case widgets:
		return 1_400_000
	default:
		return 200_000
	}
}

const (
	mergePatch = "application/merge-patch+json"
	applyPatch = "application/apply-patch+yaml"
	plainJSON  = "application/json"
)

// operation is the write that was drawn, for an object that is there or not, at a revision, 0 if that is not known.
func (d *drawn) operation(mark string, there bool, revision int64) operation {
	if d.key.Resource != widgets {
		d.version = ""
	}
	many := collection(d.key.Resource, d.version, d.key.Namespace)
	one := many + "/" + d.key.Name
	meta := metadata{Name: d.key.Name, Namespace: d.key.Namespace, Labels: map[string]string{side: d.side}, Annotations: map[string]string{opMark: mark}}
	body := d.body(&meta, mark)
	o := operation{contentType: plainJSON, body: body}
	send := func(method, path string) operation {
		o.method, o.path, o.record.Verb, o.record.Key = method, path, method, d.key
		return o
	}
	patch := func(contentType, path string) operation {
		o = send(http.MethodPatch, path)
		if o.contentType = contentType; contentType == applyPatch {
			o.record.Verb = history.Apply
		}
		return o
	}
	apply := func(manager string) operation {
		return patch(applyPatch, one+"?"+url.Values{"fieldManager": {manager}, "force": {"true"}}.Encode())
	}
	resource := d.key.Resource
	switch {
	case d.choice < 7 && resource != eventsOf:
		return d.collect(many)
	case !there || resource == eventsOf && d.choice < 700:
		d.born(body)
		if d.creation == 0 && resource != eventsOf {
			// What makes a Pod owns its spec, which cannot be left out later: it is not who applies the rest.
			return apply("maker")
		}
		return send(http.MethodPost, many)
	case d.choice < 200 || resource == eventsOf && d.choice < 800:
		o.body = nil
		return send(http.MethodDelete, one+"?gracePeriodSeconds=0")
	case resource == pods && d.choice < 400:
		body["status"] = map[string]any{"phase": d.phase}
		return patch(mergePatch, one+"/status")
	case resource == configMaps && d.choice < 400:
		return send(http.MethodPut, one)
	case (resource == configMaps && d.choice < 600 || resource == widgets && d.choice < 500) && revision != 0:
		// A custom resource is updated at a revision only. It is refused if it has another by now.
		meta.ResourceVersion, o.record.Base = strconv.FormatInt(revision, 10), revision
		return send(http.MethodPut, one)
	case d.choice < 750 && resource != eventsOf:
		return apply("robustness")
	default:
		return patch(mergePatch, one)
	}
}

// body is what an object gets of any write.
func (d *drawn) body(meta *metadata, mark string) map[string]any {
	body := map[string]any{"apiVersion": "v1", "metadata": meta}
	text := strings.Repeat(string(d.letter), min(d.fill, most(d.key.Resource)))
	switch d.key.Resource {
	case pods:
		body["kind"] = "Pod"
		meta.Annotations["fill"] = text
	case eventsOf:
		body["kind"] = "Event"
		meta.Annotations["fill"] = text
		body["reason"] = d.word
	case configMaps:
		body["kind"] = "ConfigMap"
		body["data"] = map[string]string{"fill": text, "op": mark}
	case widgets:
		body["kind"], body["apiVersion"] = kind, group+"/"+d.version
		body["data"] = map[string]string{"fill": text, "op": mark}
		body["color"] = d.word
	}
	return body
}

// born adds what is said of an object when it is made, and not later.
func (d *drawn) born(body map[string]any) {
	switch d.key.Resource {
	case pods:
		body["spec"] = map[string]any{"nodeName": d.node, "containers": []any{map[string]any{"name": "c", "image": "i"}}}
	case eventsOf:
		body["involvedObject"] = map[string]string{"kind": "Pod", "namespace": d.key.Namespace, "name": "p"}
	}
}

// collect deletes all of a namespace that have a label.
func (d *drawn) collect(many string) operation {
	o := operation{method: http.MethodDelete, contentType: plainJSON}
	o.path = many + "?" + url.Values{"labelSelector": {side + "=" + d.side}, "gracePeriodSeconds": {"0"}}.Encode()
	o.record = history.Write{
		Verb: history.DeleteCollection, Key: history.Key{Resource: d.key.Resource, Namespace: d.key.Namespace},
		LabelKey: side, LabelValue: d.side,
	}
	return o
}
