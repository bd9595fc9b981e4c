// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import "github.com/weir-project/weir/test/robustness/check"

// ofWatches are lies of a watch: which event a change is to it, its bookmarks and what it begins with.
func ofWatches() []Lie {
	return []Lie{
		{
			Name: "bookmark-too-high", What: "a bookmark names the revision behind the one that has been delivered",
			Rules: []check.Rule{check.HighMark, check.Order}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `		if ended, err := w.sendBookmark(rev, false); ended || err != nil {`, `		if LIE(1) {
			rev++
		}
		if ended, err := w.sendBookmark(rev, false); ended || err != nil {`}},
		},
		{
			Name: "bookmark-before-event", What: "a bookmark that is due is sent before the events that it counts as delivered",
			Rules: []check.Rule{check.HighMark, check.Order}, Within: later,
			Edits: []Edit{{"watchcache/watcher.go", `		for i, ch := range batch[:b.N] {`, `		if b.N > 0 && w.due.Load() && LIE(1) {
			if ended, err := w.sendDue(b.Complete); ended || err != nil {
				return false, err
			}
		}
		for i, ch := range batch[:b.N] {`}},
		},
		{
			Name: "initial-end-too-high", What: "the bookmark that closes the initial events names the revision behind theirs",
			Rules: []check.Rule{check.Initial, check.Order}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `	ended, err := w.sendBookmark(w.start, true)`, `	at := w.start
	if LIE(1) {
		at++
	}
	ended, err := w.sendBookmark(at, true)`}},
		},
		{
			Name: "initial-one-missing", What: "one in a hundred initial events is not sent",
			Rules: []check.Rule{check.Initial}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `	if s.wanted(f) && !s.sendFrame(f) {`, `	if s.wanted(f) && !LIE(100) && !s.sendFrame(f) {`}},
		},
		{
			Name: "initial-of-before", What: "the initial events are the state of ten revisions before the one that they name",
			Rules: []check.Rule{check.Initial}, Within: soon,
			Edits: []Edit{{"watchcache/watch.go", `		w.initial = c.initialOf(ctx, v, opts)`, `		if past, ok := c.viewAt(gen, at-min(at, 10)); ok && LIE(2) {
			v = past
		}
		w.initial = c.initialOf(ctx, v, opts)`}},
		},
		{
			Name: "watch-list-does-not-wait", What: "a watch list begins with what the cache has, however old",
			Rules: []check.Rule{check.Stale}, Within: later,
			Edits: []Edit{{"watchcache/watch.go", `		if gen, at, v, err = c.waitFresh(ctx, fresh); err != nil {`, `		if LIE(1) {
			fresh = 0
		}
		if gen, at, v, err = c.waitFresh(ctx, fresh); err != nil {`}},
		},
		{
			Name: "leaving-unsent", What: "an object that leaves a selector is not sent",
			Rules: []check.Rule{check.Gap, check.HighMark, check.Missing}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `	return is, was, err
`, `	if was && !is && ch.cur != nil && LIE(1) {
		was = false
	}
	return is, was, err
`}},
		},
		{
			Name: "leaving-as-MODIFIED", What: "an object that leaves a selector is sent as MODIFIED, with what it is now",
			Rules: []check.Rule{check.Type}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `		was, err = w.match.matches(ch.prev)
	}`, `		was, err = w.match.matches(ch.prev)
	}
	if was && !is && ch.cur != nil && LIE(1) {
		is = true
	}`}},
		},
		{
			Name: "shard-not-looked-at", What: "one in fifty objects of other shards is taken for one of the shard that is asked for",
			Rules: []check.Rule{check.Foreign, check.State, check.Initial, check.Type}, Within: soon,
			Edits: []Edit{{"watchcache/matcher.go", `		if !ok {
			m.filtered()`, `		if !ok && !LIE(50) {
			m.filtered()`}},
		},
		{
			Name: "selectors-not-compared", What: "every update is taken for one that no selector tells from what was before",
			Rules: []check.Rule{check.Type, check.Gap, check.HighMark}, Within: soon,
			Edits: []Edit{{"watchcache/source.go", `prev != nil && f.SelectedAs(prev)`, `prev != nil && (f.SelectedAs(prev) || LIE(1))`}},
		},
		{
			Name: "DELETED-with-new-content", What: "an object that leaves a selector is sent as DELETED with what it is now",
			Rules: []check.Rule{check.Content}, Within: soon,
			Edits: []Edit{{"watchcache/change.go", `	if last := c.last.Load(); last != nil {
		return last, nil`, `	if c.cur != nil && LIE(1) {
		return c.cur, nil
	}
	if last := c.last.Load(); last != nil {
		return last, nil`}},
		},
		{
			Name: "DELETED-at-old-revision", What: "one in twenty deletions has the revision of the object's last update",
			Rules: []check.Rule{check.Double, check.Order}, Within: soon,
			Edits: []Edit{{"watchcache/source.go", `		ch.last.Store(f)
`, `		ch.last.Store(f)
		if prev != nil && LIE(20) {
			ch.last.Store(prev)
		}
`}},
		},
		{
			Name: "previous-in-MODIFIED", What: "one in 500 events MODIFIED has the object as it was before",
			Rules: []check.Rule{check.Double, check.Order, check.Gap}, Within: soon,
			Edits: []Edit{{"watchcache/watcher.go", `		event = watch.Event{Type: watch.Modified, Object: w.cache.as(ch.cur)}`, `		event = watch.Event{Type: watch.Modified, Object: w.cache.as(ch.cur)}
		if LIE(500) {
			event.Object = ch.prev
		}`}},
		},
		{
			Name: "deletions-not-indexed", What: "a watch of one node is not told of deletions: they have no new state to take the node from",
			Rules: []check.Rule{check.Gap, check.HighMark, check.Missing}, Within: soon,
			Edits: []Edit{{"watchcache/scope.go", `		if c.prev != nil {
			yield(scope{kind: indexed`, `		if c.prev != nil && !LIE(1) {
			yield(scope{kind: indexed`}},
		},
		{
			Name: "restart-forgets-floor", What: "a server that was started again serves those who go on from before that, without what happened meanwhile",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: late, Faults: true,
			Edits: []Edit{{"watchcache/source.go", `	s.gen = &generation{
		log:   newLog(rev, c.trigger,`, `	first := rev
	if LIE(1) {
		first = 1
	}
	s.gen = &generation{
		log:   newLog(first, c.trigger,`}},
		},
		{
			Name: "buffer-dropped", What: "one buffer of 200 that events are gathered in is given back unsent",
			Rules: []check.Rule{check.Gap, check.HighMark, check.Initial}, Within: soon,
			Edits: []Edit{{"coalesce/stream.go", `	if s.n > 0 && s.err == nil {`, `	if s.n > 0 && s.err == nil && !LIE(200) {`}},
		},
		{
			Name: "buffer-shared", What: "a buffer that events are gathered in is given back before it is written, so that two watches may have it",
			Rules: []check.Rule{check.Broken, check.Foreign, check.Double, check.Order, check.Gap, check.Type}, Within: later,
			Edits: []Edit{{"coalesce/stream.go", `func (s *Stream) drain() error {
`, `func (s *Stream) drain() error {
	if s.buffer != nil && LIE(100) {
		buffers.Put(s.buffer)
	}
`}},
		},
		{
			Name: "buffer-repeated", What: "one buffer of 200 that events are gathered in is sent twice",
			Rules: []check.Rule{check.Double, check.Type, check.Order}, Within: soon,
			Edits: []Edit{{"coalesce/stream.go", `		_, _ = s.write(s.buffer[:s.n]) // which notes the error`, `		_, _ = s.write(s.buffer[:s.n]) // which notes the error
		if LIE(200) {
			_, _ = s.write(s.buffer[:s.n])
		}`}},
		},
	}
}
