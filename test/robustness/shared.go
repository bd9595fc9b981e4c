// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
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
	for range every(ctx, shareEvery) {
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
	read := &history.Read{Key: k, Format: string(inJSON), Mode: history.Consistent}
	if !w.run.get(ctx, w.clients[from], w.run.servers[from], read) {
		return
	}
	meta := &metadata{Name: k.Name, Namespace: k.Namespace, Annotations: map[string]string{opMark: w.mark()}}
	body := map[string]any{"metadata": meta, "data": map[string]string{"after": read.Op}}
	many := collection(k.Resource, "", k.Namespace)
	o := operation{method: http.MethodPut, path: many + "/" + k.Name, contentType: plainJSON, body: body}
	switch {
	case !read.Found:
		o.method, o.path = http.MethodPost, many
	case choice == 0:
		o.method, o.record.Base = http.MethodDelete, read.Revision
		o.body = map[string]any{"preconditions": map[string]string{"resourceVersion": strconv.FormatInt(read.Revision, 10)}}
	default:
		o.record.Base, meta.ResourceVersion = read.Revision, strconv.FormatInt(read.Revision, 10)
	}
	o.record.Verb, o.record.Key = o.method, k
	w.send(ctx, to, o)
}
