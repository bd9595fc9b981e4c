// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/robustness/history"
)

// Gadgets are custom resources of two versions. They are stored in v1 and read in v2, which a webhook converts to: what is
// "text" in the one is "value" in the other.
const (
	gadgets      = "gadgets"
	gadgetsGroup = "converted.robustness.test"

	gadgetNamespaces = 2
	gadgetNames      = 5 // in each namespace; the first is never deleted
	gadgetEvery      = 250 * time.Millisecond
	gadgetSessions   = 6
)

// convertedData is what the webhook makes of a gadget's data: from the name of the one version to that of the other.
var convertedData = map[string]struct{ from, to string }{
	gadgetsGroup + "/v1": {"value", "text"},
	gadgetsGroup + "/v2": {"text", "value"},
}

func gadgetPath(version string, namespace int) string {
	return fmt.Sprintf("/apis/%s/%s/namespaces/robust-%d/%s", gadgetsGroup, version, namespace, gadgets)
}

func gadgetName(i int) string { return fmt.Sprintf("gadget-%d", i) }

// converter is the conversion webhook, behind a link.
type converter struct {
	server *http.Server
	link   *link.Link
	served sync.WaitGroup
}

func newConverter(room *rig.Room) (*converter, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("conversion webhook: %w", err)
	}
	c := &converter{server: &http.Server{
		Handler:           http.HandlerFunc(convert),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12},
		ErrorLog:          log.New(io.Discard, "", 0), // it tells of every connection that a fault ends
		ReadHeaderTimeout: healing,
	}}
	cert, key := room.Certificate()
	c.served.Go(func() { _ = c.server.ServeTLS(listener, cert, key) }) // ends with Close
	if c.link, err = link.New(listener.Addr().String()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends it.
func (c *converter) Close() error {
	if c.link != nil {
		c.link.Close()
	}
	err := c.server.Close()
	c.served.Wait()
	return err
}

func convert(w http.ResponseWriter, req *http.Request) {
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, fmt.Sprintf("no ConversionReview: %v", err), http.StatusBadRequest)
		return
	}
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		converted, err := convertGadget(raw.Raw, review.Request.DesiredAPIVersion)
		if err != nil {
			answer.ConvertedObjects, answer.Result = nil, metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Raw: converted})
	}
	review.Request, review.Response = nil, answer
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&review) // who asked may be gone
}

func convertGadget(raw []byte, version string) ([]byte, error) {
	names, known := convertedData[version]
	if !known {
		return nil, fmt.Errorf("version %q is not known", version)
	}
	var o map[string]any
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, err
	}
	o["apiVersion"] = version
	if data, ok := o["data"].(map[string]any); ok {
		if value, ok := data[names.from]; ok {
			delete(data, names.from)
			data[names.to] = value
		}
	}
	return json.Marshal(o)
}

// defineGadgets makes the definition and the first gadgets, and waits until both servers have them in both versions.
func (r *Run) defineGadgets(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	text := map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
	version := func(name string) map[string]any {
		return map[string]any{
			"name": name, "served": true, "storage": name == "v1",
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{"data": text}}},
		}
	}
	definition := map[string]any{
		"metadata": metadata{Name: gadgets + "." + gadgetsGroup},
		"spec": map[string]any{
			"group": gadgetsGroup, "scope": "Namespaced",
			"names":    map[string]any{"plural": gadgets, "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
			"versions": []any{version("v1"), version("v2")},
			"conversion": map[string]any{"strategy": "Webhook", "webhook": map[string]any{
				"conversionReviewVersions": []string{"v1"},
				"clientConfig":             map[string]any{"url": "https://" + r.converter.link.Address() + "/", "caBundle": r.servers[0].rig.CA},
			}},
		},
	}
	const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	if err := wants(http.StatusCreated, "define gadgets")(answer(ctx, r.servers[0].rig, http.MethodPost, definitions, definition)); err != nil {
		return err
	}
	for namespace := range gadgetNamespaces {
		err := until(ctx, "make the first gadgets", func(ctx context.Context) error {
			w := map[string]any{"metadata": metadata{Name: gadgetName(0)}, "data": map[string]string{"text": "first"}}
			return wants(http.StatusCreated, "make a gadget")(answer(ctx, r.servers[0].rig, http.MethodPost, gadgetPath("v1", namespace), typed("v1", w)))
		})
		if err != nil {
			return err
		}
	}
	for _, s := range r.servers {
		for version := range map[string]bool{"v1": true, "v2": true} {
			err := until(ctx, "gadgets at "+s.name, func(ctx context.Context) error {
				return wants(http.StatusOK, "list gadgets in "+version)(answer(ctx, s.rig, http.MethodGet, gadgetPath(version, 0), nil))
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func typed(version string, gadget map[string]any) map[string]any {
	gadget["apiVersion"], gadget["kind"] = gadgetsGroup+"/"+version, "Gadget"
	return gadget
}

// learnGadget adds a change of a gadget, as it has to look in v2. parts are those of its key: group, resource, namespace, name.
func learnGadget(truth *history.Truth, parts []string, value []byte, rev int64) error {
	k := history.Key{Resource: gadgets, Namespace: parts[2], Name: parts[3]}
	var state *history.State
	if value != nil {
		converted, err := convertGadget(value, gadgetsGroup+"/v2")
		if err != nil {
			return fmt.Errorf("%v in etcd: %w", k, err)
		}
		var o object
		if err := json.Unmarshal(converted, &o); err != nil {
			return fmt.Errorf("%v in etcd: %w", k, err)
		}
		state = &history.State{Revision: rev, UID: o.Metadata.UID, Labels: o.Metadata.Labels, Digests: o.digests(gadgets, inJSON)}
	}
	return truth.Add(rev, time.Now(), k, state)
}

// convertedLoad writes gadgets in both versions until writing is done, and reads them in v2 until reading is.
func (r *Run) convertedLoad(writing, reading context.Context, acts, reads *sync.WaitGroup) {
	acts.Go(func() { r.writeGadgets(writing, r.config.rand(streamGadgets)) })
	for i := range gadgetSessions {
		rnd := r.config.rand(streamGadgets + 1 + uint64(i))
		s := &session{run: r, rand: rnd, scope: gadgetScope(rnd), format: gadgetFormats[i%len(gadgetFormats)], habit: quick, clients: r.clients(1)[0]}
		reads.Go(func() {
			defer closeAll([][]*http.Client{s.clients})
			s.live(reading)
		})
	}
	acts.Go(func() { r.listGadgets(writing, r.config.rand(streamGadgets+100)) })
}

var gadgetFormats = []format{inJSON, asMetadata, asTable}

func gadgetScope(r *rand.Rand) history.Scope {
	c := history.Scope{Resource: gadgets}
	all, namespace, name := r.IntN(3), r.IntN(gadgetNamespaces), r.IntN(gadgetNames)
	if all > 0 {
		c.Namespace = fmt.Sprintf("robust-%d", namespace)
	}
	if all > 1 {
		c.Name = gadgetName(name)
	}
	return c
}

// writeGadgets makes one write after the other. What becomes of it, etcd tells.
func (r *Run) writeGadgets(ctx context.Context, rnd *rand.Rand) {
	clients := r.direct()
	defer closeAll([][]*http.Client{clients})
	for n := 0; ctx.Err() == nil; n++ {
		wait(ctx, gadgetEvery)
		at, namespace, i, choice := rnd.IntN(weirs), rnd.IntN(gadgetNamespaces), rnd.IntN(gadgetNames), rnd.IntN(8)
		version, field := "v1", "text"
		if rnd.IntN(2) == 0 {
			version, field = "v2", "value"
		}
		if r.down(at) {
			at = (at + 1) % weirs
		}
		path := gadgetPath(version, namespace)
		body := typed(version, map[string]any{
			"metadata": map[string]any{"name": gadgetName(i), "labels": map[string]string{side: pick(rnd, sides)}},
			"data":     map[string]string{field: fmt.Sprintf("value %d", n)},
		})
		method := http.MethodPost
		switch {
		case i > 0 && choice == 0:
			method, path, body = http.MethodDelete, path+"/"+gadgetName(i), nil
		case i == 0 || choice > 3:
			method, path = http.MethodPatch, path+"/"+gadgetName(i)
		}
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
		status, data, err := answer(ask, r.servers[at].rig, method, path, body)
		cancel()
		if err == nil && status >= http.StatusInternalServerError {
			r.refusals.note(fmt.Sprintf("%s of a gadget in %s %d", method, version, status), data)
		}
	}
}

// listGadgets makes one list after the other, at either server.
func (r *Run) listGadgets(ctx context.Context, rnd *rand.Rand) {
	clients := r.clients(1)
	defer closeAll(clients)
	for ctx.Err() == nil {
		wait(ctx, gadgetEvery)
		at, back, limited := rnd.IntN(weirs), r.config.ago(rnd)/2, rnd.IntN(3) == 0
		l := &history.List{Scope: gadgetScope(rnd), Format: string(pick(rnd, gadgetFormats))}
		l.Mode = pick(rnd, []history.Mode{history.Consistent, history.Any, history.Exact})
		if limited {
			l.Limit = 1 + rnd.IntN(4)
		}
		if l.Mode == history.Exact {
			l.Asked = max(r.truth.RevisionAt(time.Now().Add(-back)), r.begin)
		}
		r.list(ctx, clients[0][at], r.servers[at], l)
	}
}

// webhook has the conversion webhook not answer, or refuse connections. Gadgets cannot be had in v2 then, other than from what
// was converted before, and go on in v1.
func (r *Run) webhook(ctx context.Context, f fault) (err error) {
	l := r.converter.link
	defer func() { err = errors.Join(err, l.Heal()) }()
	over := time.Now().Add(f.lasts)
	if f.other {
		l.Cut()
		err = refuses(l)
	} else {
		err = l.Lose(link.ToClient)
	}
	for _, s := range r.servers {
		if err != nil {
			return err
		}
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), silence)
		status, data, _ := answer(ask, s.rig, http.MethodGet, gadgetPath("v2", 0)+"/"+gadgetName(0), nil)
		cancel()
		if status == http.StatusOK {
			return fmt.Errorf("%w: %s has converted %s", errNothing, s.name, rig.FirstLine(data))
		}
		err = bites(ctx, "gadgets in the version that needs no conversion", func(ctx context.Context) error {
			return wants(http.StatusOK, "read one at "+s.name)(answer(ctx, s.rig, http.MethodGet, gadgetPath("v1", 0)+"/"+gadgetName(0), nil))
		})
	}
	wait(ctx, time.Until(over))
	return err
}
