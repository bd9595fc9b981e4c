// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

const (
	// sharers is the number of writers who all change the same few objects, and sharedNames that of the objects.
	sharers, sharedNames = 4, 3

	shareEvery = 80 * time.Millisecond
)

// share reads objects and writes what depends on what was read, under few names, so that many writes meet: each says which
// revision it is an update of, and may be refused. Reads and writes go to either server.
func (r *Run) share(ctx context.Context, i int) {
	w := &writer{run: r, id: writers + i, rand: r.config.rand(streamShared + uint64(i)), clients: r.direct()}
	defer closeAll([][]*http.Client{w.clients})
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w.count++
		w.share(ctx)
	}
}

func (w *writer) share(ctx context.Context) {
	k := history.Key{Resource: configMaps, Namespace: namespace(0), Name: fmt.Sprintf("shared-%d", w.rand.IntN(sharedNames))}
	from, to, choice := w.rand.IntN(weirs), w.rand.IntN(weirs), w.rand.IntN(8)
	if w.run.down(from) {
		from = to
	}
	if w.run.down(to) {
		to = from
	}
	read := w.get(ctx, from, k)
	if read == nil {
		return
	}
	meta := &metadata{Name: k.Name, Namespace: k.Namespace, Annotations: map[string]string{opMark: w.mark()}}
	body := map[string]any{"metadata": meta, "data": map[string]string{"after": read.Op}}
	base := fmt.Sprintf("/api/v1/namespaces/%s/%s", k.Namespace, k.Resource)
	path := base + "/" + k.Name
	defer func() { w.base = 0 }()
	switch {
	case !read.Found:
		w.send(ctx, to, http.MethodPost, base, "application/json", k, body)
	case choice == 0:
		w.base = read.Revision
		options := map[string]any{"preconditions": map[string]string{"resourceVersion": strconv.FormatInt(w.base, 10)}}
		w.send(ctx, to, http.MethodDelete, path, "application/json", k, options)
	default:
		w.base, meta.ResourceVersion = read.Revision, strconv.FormatInt(read.Revision, 10)
		w.send(ctx, to, http.MethodPut, path, "application/json", k, body)
	}
}

// get reads one object, and has it judged. It returns nil if it was not answered.
func (w *writer) get(ctx context.Context, at int, k history.Key) *history.Read {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	s := w.run.servers[at]
	read := &history.Read{ID: w.run.id(), Server: s.name, Key: k, Format: string(inJSON), Mode: history.Consistent, Opened: time.Now(), Known: w.run.known.Load()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/v1/namespaces/%s/%s/%s", s.rig.Base, k.Namespace, k.Resource, k.Name), nil)
	if err != nil {
		w.run.fail(err)
		return nil
	}
	s.rig.Authorize(req)
	resp, err := w.clients[at].Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	read.Closed = time.Now()
	switch resp.StatusCode {
	case http.StatusNotFound:
	case http.StatusOK:
		var o object
		err := json.Unmarshal(answer, &o)
		if err == nil {
			read.Revision, err = o.revision()
		}
		if err != nil {
			w.run.fail(fmt.Errorf("GET %v at %s: %w", k, s.name, err))
			return nil
		}
		read.Found, read.UID, read.Op, read.Digests = true, o.Metadata.UID, o.Metadata.Annotations[opMark], o.digests(k.Resource, inJSON)
	default:
		w.run.refusals.note(fmt.Sprintf("GET %d", resp.StatusCode), answer)
		return nil
	}
	w.run.judgeRead(read)
	return read
}
