// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import "github.com/weir-project/weir/test/robustness/check"

// ofTheState are lies about what objects there are, and at which revision.
func ofTheState() []Lie {
	return []Lie{
		{
			Name: "kept-after-deletion", What: "one in fifty objects that are deleted stays in the state",
			Rules: []check.Rule{check.State, check.Initial, check.Type}, Within: soon,
			Edits: []Edit{{"watchcache/source.go", `		s.state.delete(key)`, `		if !LIE(50) {
			s.state.delete(key)
		}`}},
		},
		{
			Name: "state-not-set", What: "one in 200 updates does not reach the state",
			Rules: []check.Rule{check.State, check.Initial, check.Content}, Within: soon,
			Edits: []Edit{{"watchcache/source.go", `	if err := s.append(ch); err != nil {`, `	if ch.cur != nil && prev != nil && LIE(200) {
		s.state.set(prev)
	}
	if err := s.append(ch); err != nil {`}},
		},
		{
			Name: "index-keeps-deleted", What: "one in five Pods that are deleted stays in the index by node",
			Rules: []check.Rule{check.State, check.Initial}, Within: soon,
			Edits: []Edit{{"watchcache/state.go", `		i.objects.Delete(indexKey(i.value(prev), key))`, `		if !LIE(5) {
			i.objects.Delete(indexKey(i.value(prev), key))
		}`}},
		},
		{
			Name: "past-one-too-old", What: "an exact revision is answered with the state before it",
			Rules: []check.Rule{check.State}, Within: soon,
			Edits: []Edit{{"watchcache/generation.go", `	return g.past[n-1], true`, `	if n > 1 && LIE(1) {
		n--
	}
	return g.past[n-1], true`}},
		},
		{
			Name: "half-a-revision", What: "a revision at which an expired lease took many Events is shown before all of them are gone (weir once did this)",
			Rules: []check.Rule{check.State, check.Initial, check.HighMark, check.Gap, check.Order}, Within: late,
			// The deletions of a revision come within microseconds, and only who reads between two of them is lied to. Here
			// they take their time, as they do where etcd or the processor does.
			Edits: []Edit{{"watchcache/source.go", `	s.setPart(c.cfg.Leased && (ch.cur == nil || s.part))`, `	s.setPart(c.cfg.Leased && (ch.cur == nil || s.part) && !LIE(1))
	if c.cfg.Leased && ch.cur == nil && LIE(1) {
		defer time.Sleep(50 * time.Millisecond)
	}`}},
		},
		{
			Name: "progress-too-high", What: "a progress notification moves the revision of the state of Pods twenty too far",
			Rules: []check.Rule{check.State, check.Initial}, Within: later,
			Edits: []Edit{{"watchcache/source.go", `	s.gen.advance(rev, floor)
	s.cache.mu.Unlock()`, `	if s.cache.cfg.GroupResource.Resource == "pods" && LIE(1) {
		rev += 20
	}
	s.gen.advance(rev, floor)
	s.cache.mu.Unlock()`}},
		},
	}
}

// ofLists are lies of lists, and of reads of one object.
func ofLists() []Lie {
	return []Lie{
		{
			Name: "read-from-cache", What: "a consistent read of one object is what the cache has, however old",
			Rules: []check.Rule{check.Stale, check.Linearizable}, Within: later,
			Edits: []Edit{{"watchcache/read.go", `	if opts.ResourceVersion == "" || !c.Ready() {`, `	if opts.ResourceVersion == "" && !LIE(1) || !c.Ready() {`}},
		},
		{
			Name: "read-does-not-wait", What: "a read of one object that may not be older than a revision is what the cache has, however old",
			Rules: []check.Rule{check.Stale}, Within: late,
			Edits: []Edit{{"watchcache/read.go", `	_, at, v, err := c.reach(ctx, rev)`, `	if LIE(1) {
		rev = 0
	}
	_, at, v, err := c.reach(ctx, rev)`}},
		},
		{
			Name: "read-of-last-list", What: "a read of one object at the cache is of the state that the last list was of",
			Rules: []check.Rule{check.Stale, check.Linearizable, check.State, check.Foreign}, Within: later,
			Edits: []Edit{
				{"watchcache/read.go", `	if rule.ShouldDelegate {`, `	if _, _, v, err := c.current(); err == nil && LYING {
		planted.Store(c, v)
	}
	if rule.ShouldDelegate {`},
				{"watchcache/read.go", `	f, ok := v.objects.Get(key)
	span`, `	if last, ok := planted.Load(c); ok && LIE(1) {
		v = last.(view)
	}
	f, ok := v.objects.Get(key)
	span`},
			},
		},
		{
			Name: "page-of-now", What: "a page that goes on is of the latest state",
			Rules: []check.Rule{check.State, check.Double}, Within: soon,
			Edits: []Edit{{"watchcache/read.go", `		sel.view, sel.rev = past, rev`, `		if from != "" && LIE(1) {
			past = v
		}
		sel.view, sel.rev = past, rev`}},
		},
		{
			Name: "page-names-now", What: "a page that goes on names the latest revision, and so does what comes after it",
			Rules: []check.Rule{check.Revision}, Within: soon,
			Edits: []Edit{{"watchcache/read.go", `		return sel, nil
	}
	if indexed && opts.Recursive {`, `		if from != "" && LIE(1) {
			sel.rev = at
		}
		return sel, nil
	}
	if indexed && opts.Recursive {`}},
		},
		{
			Name: "page-skips-one", What: "a page that goes on leaves out the first that it has",
			Rules: []check.Rule{check.State}, Within: soon,
			Edits: []Edit{{"watchcache/read.go", `		p.seen++
		ok, err := m.matches(f)`, `		p.seen++
		if s.from != "" && p.seen == 1 && LIE(1) {
			return true
		}
		ok, err := m.matches(f)`}},
		},
		{
			Name: "list-named-too-high", What: "a list names the revision behind its own",
			Rules: []check.Rule{check.State, check.Revision}, Within: soon,
			Edits: []Edit{{"watchcache/read.go", `	if err := c.cfg.Versioner.UpdateList(listObj, sel.rev, token, remaining); err != nil {`, `	if opts.ResourceVersionMatch == "" && opts.Predicate.Continue == "" && token == "" && LIE(1) {
		sel.rev++
	}
	if err := c.cfg.Versioner.UpdateList(listObj, sel.rev, token, remaining); err != nil {`}},
		},
		{
			Name: "consistent-does-not-wait", What: "a consistent list is what the cache has, however old",
			Rules: []check.Rule{check.Stale}, Within: soon,
			Edits: []Edit{{"watchcache/read.go", `	gen, at, v, err := c.reach(ctx, rev)`, `	if !exact && LIE(1) {
		rev = 0
	}
	gen, at, v, err := c.reach(ctx, rev)`}},
		},
		{
			Name: "item-left-out", What: "one in fifty items of lists in JSON is not written",
			Rules: []check.Rule{check.State}, Within: soon,
			Edits: []Edit{{"liststream/send.go", `		head, rest, err := s.item(f, &next)`, `		if count > 0 && s.format == wire.ListJSON && LIE(50) {
			count++
			continue
		}
		head, rest, err := s.item(f, &next)`}},
		},
		{
			Name: "row-of-another", What: "one in fifty rows of a list shows the first object's cells beside its own metadata",
			Rules: []check.Rule{check.State, check.Content}, Within: soon,
			Edits: []Edit{{"liststream/items.go", `		m.confined.decode(f.Size())
		obj, err := f.Decode()`, `		m.confined.decode(f.Size())
		shown := f
		if LIE(50) {
			shown = first
		}
		obj, err := shown.Decode()`}},
		},
	}
}
