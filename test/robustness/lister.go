// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

const (
	listEvery    = 150 * time.Millisecond
	listPatience = 5 * time.Second
)

// lists makes one list after the other, at either server.
func (r *Run) lists(ctx context.Context) {
	rnd := r.config.rand(streamLists)
	clients := r.clients(1)
	defer closeAll(clients)
	tick := time.NewTicker(listEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		at, back, limit := rnd.IntN(weirs), r.config.ago(rnd)/2, 1+rnd.IntN(20)
		l := &history.List{Scope: anyScope(rnd), Format: string(pick(rnd, formats))}
		l.Mode = pick(rnd, []history.Mode{history.Consistent, history.Any, history.Exact})
		if rnd.IntN(3) == 0 {
			l.Limit = limit
		}
		if l.Mode == history.Exact {
			l.Asked = max(r.truth.RevisionAt(time.Now().Add(-back)), r.begin)
		}
		r.list(ctx, clients[0][at], r.servers[at], l)
	}
}

// list makes a list, of all its pages, and judges it. It reports whether it was answered to its end.
func (r *Run) list(ctx context.Context, client *http.Client, s *server, l *history.List) bool {
	l.ID, l.Server, l.Opened, l.Known = r.id(), s.name, time.Now(), r.known.Load()
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	q := url.Values{}
	if l.Limit > 0 {
		q.Set("limit", strconv.Itoa(l.Limit))
	}
	switch l.Mode {
	case history.Any:
		q.Set("resourceVersion", "0")
	case history.Exact:
		q.Set("resourceVersion", strconv.FormatInt(l.Asked, 10))
		q.Set("resourceVersionMatch", "Exact")
	}
	for more := true; more; {
		page, status, err := r.page(ctx, client, s, l, q)
		if err != nil || status != http.StatusOK {
			r.stats.listsRefused.Add(1)
			return false
		}
		rev, err := page.revision()
		if err != nil {
			r.fail(fmt.Errorf("list %d at %s: %w", l.ID, s.name, err))
			return false
		}
		l.Revisions = append(l.Revisions, rev)
		items := page.Items
		for i := range page.Rows {
			items = append(items, page.Rows[i].shown())
		}
		for i := range items {
			it := history.Item{Key: items[i].key(l.Scope.Resource), Digests: items[i].digests(l.Scope.Resource, format(l.Format))}
			if it.Revision, err = items[i].revision(); err != nil {
				r.fail(fmt.Errorf("list %d at %s: %w", l.ID, s.name, err))
				return false
			}
			l.Items = append(l.Items, it)
		}
		if more = page.Metadata.Continue != ""; more {
			q = url.Values{"limit": q["limit"], "continue": {page.Metadata.Continue}}
		}
	}
	r.judgeList(l)
	return true
}

func (r *Run) page(ctx context.Context, client *http.Client, s *server, l *history.List, q url.Values) (object, int, error) {
	f := format(l.Format)
	req, err := s.request(ctx, f.accept(false), path(l.Scope, q))
	if err != nil {
		return object{}, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return object{}, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return object{}, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		r.refusals.note(fmt.Sprintf("LIST %s %d", l.Mode, resp.StatusCode), body)
		return object{}, resp.StatusCode, nil
	}
	var o object
	if f == inProtobuf {
		o, err = decodeProtobuf(body)
	} else {
		err = json.Unmarshal(body, &o)
	}
	if err != nil {
		r.broken(fmt.Sprintf("list %d (%s, %s) of %+v at %s", l.ID, l.Mode, f, l.Scope, s.name), err)
	}
	return o, resp.StatusCode, err
}
