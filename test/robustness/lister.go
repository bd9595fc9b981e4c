// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

const (
	listsASecond = 7 // at the full load
	listPatience = 5 * time.Second
	// maxLeft is how many lists are left after their first page at a time.
	maxLeft = 20
)

var modes = []history.Mode{history.Consistent, history.Any, history.Exact, history.NotOlderThan, history.Unmatched}

// left is a list that was begun, and is gone on with later.
type left struct {
	list *history.List
	next url.Values
	due  time.Time
}

// lists makes one list after the other, at either server. Some are left after their first page and gone on with later, at
// either server, when their state may be gone.
func (r *Run) lists(ctx context.Context) {
	rnd := r.config.rand(streamLists)
	clients := r.clients(1)
	defer closeAll(clients)
	var parked []left
	for range every(ctx, r.config.every(listsASecond)) {
		at, back, limit, fresh, leaves := rnd.IntN(weirs), r.config.ago(rnd)/2, 1+rnd.IntN(20), rnd.IntN(3) == 0, rnd.IntN(4) == 0
		l := &history.List{Scope: anyScope(rnd), Format: string(pick(rnd, formats)), Mode: pick(rnd, modes)}
		if rnd.IntN(5) < 2 {
			l.Limit = limit
		}
		switch l.Mode {
		case history.Exact, history.NotOlderThan, history.Unmatched:
			if l.Asked = max(r.truth.RevisionAt(time.Now().Add(-back)), r.begin); fresh {
				l.Asked = r.known.Load()
			}
		}
		if i := slices.IndexFunc(parked, func(p left) bool { return time.Now().After(p.due) }); i >= 0 {
			p := parked[i]
			parked = slices.Delete(parked, i, i+1)
			r.pages(ctx, clients[0][at], r.servers[at], p.list, p.next, false)
			continue
		}
		if !leaves || l.Limit == 0 || len(parked) >= maxLeft {
			r.list(ctx, clients[0][at], r.servers[at], l)
			continue
		}
		r.start(l, r.servers[at])
		if next, _ := r.pages(ctx, clients[0][at], r.servers[at], l, query(l), true); next != nil {
			parked = append(parked, left{l, next, time.Now().Add(2 * back)})
		}
	}
}

func (r *Run) start(l *history.List, s *server) {
	l.ID, l.Server, l.Opened, l.Known = r.id(), s.name, time.Now(), r.known.Load()
	l.Format = string(format(l.Format).of(l.Scope.Resource))
}

// query is what a list begins with.
func query(l *history.List) url.Values {
	q := url.Values{}
	if l.Limit > 0 {
		q.Set("limit", strconv.Itoa(l.Limit))
	}
	asked := strconv.FormatInt(l.Asked, 10)
	switch l.Mode {
	case history.Any:
		q.Set("resourceVersion", "0")
	case history.Exact:
		q.Set("resourceVersion", asked)
		q.Set("resourceVersionMatch", "Exact")
	case history.NotOlderThan:
		q.Set("resourceVersion", asked)
		q.Set("resourceVersionMatch", "NotOlderThan")
	case history.Unmatched:
		q.Set("resourceVersion", asked)
	}
	return q
}

// list makes a list, of all its pages, and judges it. It reports whether it was answered to its end.
func (r *Run) list(ctx context.Context, client *http.Client, s *server, l *history.List) bool {
	r.start(l, s)
	_, all := r.pages(ctx, client, s, l, query(l), false)
	return all
}

// pages reads the pages of a list from one on, or that alone if it leaves, and judges the list unless it leaves it there: then it
// returns how it goes on. It reports whether the list was answered to its end. What came of one that was not is judged too.
func (r *Run) pages(ctx context.Context, client *http.Client, s *server, l *history.List, q url.Values, leaves bool) (next url.Values, all bool) {
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	if l.Server != s.name {
		l.Server += ", " + s.name
	}
	for {
		known := r.known.Load()
		page, status, err := r.page(ctx, client, s, l, q)
		if status == http.StatusGone && q.Has("continue") && page.Metadata.Continue != "" {
			// Upstream offers to go on with what is there now, behind what came.
			l.Breaks = append(l.Breaks, history.Break{Pages: len(l.Revisions), Items: len(l.Items), Known: known})
			r.stats.wentOn.Add(1)
			q = url.Values{"limit": q["limit"], "continue": {page.Metadata.Continue}}
			continue
		}
		if err != nil || status != http.StatusOK {
			r.stats.listsRefused.Add(1)
			if l.Partial = true; len(l.Revisions) > 0 {
				r.judgeList(l)
			}
			return nil, false
		}
		if err := r.take(l, &page); err != nil {
			r.broken(fmt.Sprintf("list %d (%s, %s) of %+v at %s", l.ID, l.Mode, l.Format, l.Scope, s.name), err)
			return nil, false
		}
		if page.Metadata.Continue == "" {
			r.judgeList(l)
			return nil, true
		}
		q = url.Values{"limit": q["limit"], "continue": {page.Metadata.Continue}}
		if leaves {
			return q, false
		}
	}
}

// take adds a page to a list.
func (r *Run) take(l *history.List, page *object) error {
	rev, err := page.revision()
	if err != nil {
		return err
	}
	r.told(rev)
	l.Revisions = append(l.Revisions, rev)
	items := page.Items
	for i := range page.Rows {
		items = append(items, page.Rows[i].shown(l.Scope.Resource))
	}
	for i := range items {
		it := history.Item{Key: items[i].key(l.Scope.Resource), Digests: items[i].digests(l.Scope.Resource, format(l.Format))}
		if it.Revision, err = items[i].revision(); err != nil {
			return err
		}
		if err := items[i].inVersion(l.Scope, format(l.Format)); err != nil {
			return err
		}
		l.Items = append(l.Items, it)
	}
	return nil
}

func (r *Run) page(ctx context.Context, client *http.Client, s *server, l *history.List, q url.Values) (object, int, error) {
	f := format(l.Format)
	req, err := s.request(ctx, f, forList, path(l.Scope, q))
	if err != nil {
		return object{}, 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return object{}, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(unzipped(resp))
	if errors.Is(err, errStream) {
		r.broken(fmt.Sprintf("list %d (%s, %s) of %+v at %s", l.ID, l.Mode, f, l.Scope, s.name), err)
	}
	if err != nil {
		return object{}, 0, err
	}
	o, err := decode(body)
	if resp.StatusCode != http.StatusOK {
		r.refusals.note(fmt.Sprintf("LIST %s %d", l.Mode, resp.StatusCode), body)
		return o, resp.StatusCode, nil
	}
	if err != nil {
		r.broken(fmt.Sprintf("list %d (%s, %s) of %+v at %s", l.ID, l.Mode, f, l.Scope, s.name), err)
	}
	return o, resp.StatusCode, err
}
