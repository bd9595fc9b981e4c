// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// writePatience is how long a writer waits for an answer. A write without one may have happened or not.
const writePatience = 3 * time.Second

// presence is what writers know of objects, so that few of their writes are refused.
type presence struct {
	mu    sync.Mutex
	there map[history.Key]bool
}

func (p *presence) get(k history.Key) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.there[k]
}

func (p *presence) set(k history.Key, there bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.there[k] = there
}

// writer makes one write after the other, at either server.
type writer struct {
	run     *Run
	id      int
	rand    *rand.Rand
	clients []*http.Client // one for each server
	count   int
	base    int64 // the revision that the next write is to say that it is of; 0 for none
}

func (w *writer) write(ctx context.Context) {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.count++
		w.once(ctx)
	}
}

// mark is that of the write that is made now.
func (w *writer) mark() string { return fmt.Sprintf("%d-%d", w.id, w.count) }

// once draws all that it may need, whether it needs it or not, so that the plan does not depend on answers.
func (w *writer) once(ctx context.Context) {
	r := w.rand
	k, at, choice := anyKey(r), r.IntN(weirs), r.IntN(10)
	labels := map[string]string{side: pick(r, sides)}
	node := node(r.IntN(nodes))
	fill := 150
	if r.IntN(150) == 0 {
		fill = 100_000 + r.IntN(100_000)
	}
	if w.run.down(at) {
		at = (at + 1) % weirs
	}
	meta := metadata{Name: k.Name, Namespace: k.Namespace, Labels: labels, Annotations: map[string]string{
		opMark: w.mark(),
	}}
	body := map[string]any{"metadata": &meta}
	text := strings.Repeat(string(rune('a'+r.IntN(26))), fill)
	if k.Resource == pods {
		meta.Annotations["fill"] = text
	} else {
		body["data"] = map[string]string{"fill": text, "op": meta.Annotations[opMark]}
	}
	base := fmt.Sprintf("/api/v1/namespaces/%s/%s", k.Namespace, k.Resource)
	path := base + "/" + k.Name
	switch {
	case !w.run.presence.get(k):
		if k.Resource == pods {
			body["spec"] = map[string]any{"nodeName": node, "containers": []any{map[string]any{"name": "c", "image": "i"}}}
		}
		w.send(ctx, at, http.MethodPost, base, "application/json", k, body)
	case choice < 2:
		w.send(ctx, at, http.MethodDelete, path+"?gracePeriodSeconds=0", "application/json", k, nil)
	case choice < 6 && k.Resource == configMaps:
		w.send(ctx, at, http.MethodPut, path, "application/json", k, body)
	default:
		w.send(ctx, at, http.MethodPatch, path, "application/merge-patch+json", k, body)
	}
}

func (w *writer) send(ctx context.Context, at int, method, path, contentType string, k history.Key, body any) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			w.run.fail(err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	s := w.run.servers[at]
	done := history.Write{Begun: time.Now(), Server: s.name, Verb: method, Key: k, Sent: w.mark(), Base: w.base, Outcome: history.Unanswered}
	req, err := http.NewRequestWithContext(ctx, method, s.rig.Base+path, bytes.NewReader(data))
	if err != nil {
		w.run.fail(err)
		return
	}
	s.rig.Authorize(req)
	req.Header.Set("Content-Type", contentType)
	resp, err := w.clients[at].Do(req)
	if err != nil {
		w.run.wrote(done)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		w.run.wrote(done)
		return
	}
	done.Status = resp.StatusCode
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
	case http.StatusNotFound:
		w.run.presence.set(k, false)
		fallthrough
	default:
		if resp.StatusCode == http.StatusConflict && method == http.MethodPost {
			w.run.presence.set(k, true)
		}
		if resp.StatusCode < http.StatusInternalServerError {
			done.Outcome = history.Refused
		}
		w.run.refusals.note(fmt.Sprintf("%s %d", method, resp.StatusCode), answer)
		w.run.wrote(done)
		return
	}
	w.run.presence.set(k, method != http.MethodDelete)
	done.Outcome = history.Acknowledged
	if err := w.acknowledged(done, answer); err != nil {
		w.run.fail(fmt.Errorf("%s %s at %s: %w", method, path, s.name, err))
	}
}

// acknowledged records a write with what its answer says.
func (w *writer) acknowledged(done history.Write, answer []byte) error {
	var o object
	if err := json.Unmarshal(answer, &o); err != nil {
		return err
	}
	done.UID, done.Op, done.Deleted = o.Metadata.UID, o.Metadata.Annotations[opMark], done.Verb == http.MethodDelete
	if o.Metadata.DeletionTimestamp != "" && !done.Deleted {
		// An update of what is being deleted, with nothing more to wait for, deletes it. Upstream answers with an object
		// that was never written, and with the revision before.
		done.Deleted = true
		w.run.wrote(done)
		return nil
	}
	if o.Kind == "Status" { // a deletion's, which names a UID and no revision
		var details struct {
			UID string `json:"uid"`
		}
		if err := json.Unmarshal(o.Details, &details); err != nil {
			return err
		}
		done.UID = details.UID
	} else if o.Metadata.ResourceVersion != "" || !done.Deleted {
		// The object of a deletion that met another one has none.
		var err error
		if done.Revision, err = o.revision(); err != nil {
			return err
		}
		done.Digests = o.digests(done.Key.Resource, inJSON)
	}
	w.run.wrote(done)
	return nil
}
