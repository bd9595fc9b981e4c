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
	"sync"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// writePatience is how long a writer waits for an answer. A write without one may have happened or not.
const writePatience = 3 * time.Second

// presence is what writers know of objects, so that few of their writes are refused.
type presence struct {
	mu        sync.Mutex
	there     map[history.Key]bool
	revisions map[history.Key]int64 // the latest that a writer was told
}

func (p *presence) get(k history.Key) (there bool, revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.there[k], p.revisions[k]
}

func (p *presence) set(k history.Key, there bool, revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.there[k] = there; !there {
		delete(p.there, k)
	}
	if p.revisions == nil {
		p.revisions = map[history.Key]int64{}
	}
	if p.revisions[k] = revision; revision == 0 {
		delete(p.revisions, k)
	}
}

// writer makes one write after the other, at either server.
type writer struct {
	run     *Run
	id      int
	rand    *rand.Rand
	clients []*http.Client // one for each server
	count   int
}

func (w *writer) write(ctx context.Context) {
	for range every(ctx, writers*time.Second/time.Duration(w.run.config.writes())) {
		w.count++
		d := draw(w.rand)
		if w.run.down(d.at) {
			d.at = (d.at + 1) % weirs
		}
		there, revision := w.run.presence.get(d.key)
		w.send(ctx, d.at, d.operation(w.mark(), there, revision))
	}
}

// mark is that of the write that is made now.
func (w *writer) mark() string { return fmt.Sprintf("%d-%d", w.id, w.count) }

// send makes a write and records what became of it.
func (w *writer) send(ctx context.Context, at int, o operation) {
	var data []byte
	if o.body != nil {
		var err error
		if data, err = json.Marshal(o.body); err != nil {
			w.run.fail(err)
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	s := w.run.servers[at]
	done := o.record
	done.Begun, done.Server, done.Sent, done.Outcome, done.Known = time.Now(), s.name, w.mark(), history.Unanswered, w.run.known.Load()
	req, err := http.NewRequestWithContext(ctx, o.method, s.rig.Base+o.path, bytes.NewReader(data))
	if err != nil {
		w.run.fail(err)
		return
	}
	s.rig.Authorize(req)
	req.Header.Set("Content-Type", o.contentType)
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
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		switch {
		case resp.StatusCode == http.StatusNotFound:
			w.run.presence.set(done.Key, false, 0)
			if !bytes.Contains(answer, []byte(done.Key.Name)) {
				done.Status = 0 // the resource is not there, which says nothing of the object
			}
		case resp.StatusCode == http.StatusConflict && done.Verb == http.MethodPost:
			w.run.presence.set(done.Key, true, 0)
		case resp.StatusCode == http.StatusConflict && done.Verb == http.MethodPut:
			w.run.presence.set(done.Key, true, 0) // its revision is not known any more
		}
		// What was refused to delete many may have deleted some.
		if resp.StatusCode < http.StatusInternalServerError && done.Verb != history.DeleteCollection {
			done.Outcome = history.Refused
		}
		w.run.refusals.note(fmt.Sprintf("%s %d", done.Verb, resp.StatusCode), answer)
		w.run.wrote(done)
		return
	}
	done.Outcome = history.Acknowledged
	if err := w.acknowledged(done, answer); err != nil {
		w.run.fail(fmt.Errorf("%s %s at %s: %w", o.method, o.path, s.name, err))
	}
}

// acknowledged records a write with what its answer says.
func (w *writer) acknowledged(done history.Write, answer []byte) error {
	var o object
	if err := json.Unmarshal(answer, &o); err != nil {
		return err
	}
	if done.Verb == history.DeleteCollection {
		for i := range o.Items {
			k := o.Items[i].key(done.Key.Resource)
			w.run.presence.set(k, false, 0)
			done.Collected = append(done.Collected, history.Collected{Key: k, UID: o.Items[i].Metadata.UID})
		}
		w.run.wrote(done)
		return nil
	}
	done.UID, done.Op, done.Deleted = o.Metadata.UID, o.Metadata.Annotations[opMark], done.Verb == http.MethodDelete
	if o.Metadata.DeletionTimestamp != "" && !done.Deleted {
		// An update of what is being deleted, with nothing more to wait for, deletes it. Upstream answers with an object
		// that was never written, and with the revision before.
		done.Deleted = true
		w.run.presence.set(done.Key, false, 0)
		w.run.wrote(done)
		return nil
	}
	if o.Kind == "Status" { // a deletion's, which names a UID and no revision
		done.UID = o.Details.UID
	} else if o.Metadata.ResourceVersion != "" || !done.Deleted {
		// The object of a deletion that met another one has none.
		var err error
		if done.Revision, err = o.revision(); err != nil {
			return err
		}
		done.Digests = o.digests(done.Key.Resource, inJSON)
	}
	if done.Deleted {
		w.run.presence.set(done.Key, false, 0)
	} else {
		w.run.presence.set(done.Key, true, done.Revision)
	}
	w.run.wrote(done)
	return nil
}
