// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import "github.com/weir-project/weir/test/robustness/check"

// ofTheLog are lies of internal/eventlog: what its readers are given.
func ofTheLog() []Lie {
	return []Lie{
		{
			Name: "event-skipped", What: "the dispatcher passes a parked cursor over at an event, one time in a thousand",
			Rules: []check.Rule{check.Gap, check.HighMark, check.Missing}, Within: soon,
			Edits: []Edit{{"eventlog/park.go", `		if !c.reader.Deliver(r.event) {`, `		if LIE(1000) {
			c.pos = seq + 1
			continue
		}
		if !c.reader.Deliver(r.event) {`}},
		},
		{
			Name: "event-doubled", What: "the dispatcher hands an event to a parked cursor twice, one time in a thousand",
			Rules: []check.Rule{check.Double}, Within: soon,
			Edits: []Edit{{"eventlog/park.go", `		c.pos = seq + 1
		taken++`, `		if LIE(1000) {
			c.reader.Deliver(r.event)
		}
		c.pos = seq + 1
		taken++`}},
		},
		{
			Name: "event-reordered", What: "the first two events of a batch that a reader takes are swapped, in one batch of fifty",
			Rules: []check.Rule{check.Order}, Within: soon,
			Edits: []Edit{{"eventlog/cursor.go", `	if more {
		c.pos = seq
`, `	if b.N > 1 && LIE(50) {
		dst[0], dst[1] = dst[1], dst[0]
	}
	if more {
		c.pos = seq
`}},
		},
		{
			Name: "parks-behind", What: "a cursor parks although an event that it has not considered has been taken to be handed over",
			Rules: []check.Rule{check.Gap, check.HighMark, check.Missing}, Within: late,
			Edits: []Edit{{"eventlog/park.go", `	if pos < d.taken {`, `	if pos < d.taken && !LIE(1) {`}},
		},
		{
			Name: "moving-look", What: "looking what readers need moves a keyed cursor whose index is being extended to that index, or to the end (weir once did this)",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: late, Herd: 1500,
			Edits: []Edit{{"eventlog/trim.go", `		seq, ok := c.peekLocked()
		switch {
		case !ok:`, `		if c.key != nil && c.pos < c.chain.from && LIE(1) {
			i, _ := slices.BinarySearch(c.chain.seqs, c.pos)
			c.pos = l.next
			if i < len(c.chain.seqs) {
				c.pos = c.chain.seqs[i]
			}
		}
		seq, ok := c.peekLocked()
		switch {
		case !ok:`}},
		},
		{
			Name: "cursor-one-too-far", What: "one in ten cursors starts one position too far",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: soon,
			Edits: []Edit{{"eventlog/cursor.go", `	cursor := &Cursor[K, E]{log: l,`, `	if pos < l.next && LIE(10) {
		pos++
	}
	cursor := &Cursor[K, E]{log: l,`}},
		},
		{
			Name: "cursor-one-too-near", What: "one in ten cursors starts at the event before its revision",
			Rules: []check.Rule{check.Order, check.Double}, Within: soon,
			Edits: []Edit{{"eventlog/cursor.go", `	l.cursors[cursor] = struct{}{}
	return cursor, nil`, `	if cursor.pos > l.first && LIE(10) {
		cursor.pos--
		cursor.after = 0
	}
	l.cursors[cursor] = struct{}{}
	return cursor, nil`}},
		},
		{
			Name: "chain-starts-late", What: "one in three indexes of a key begins fifty positions late",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: later,
			Edits: []Edit{{"eventlog/chain.go", `	return cursor, cursor.pos, nil`, `	if LIE(3) {
		return cursor, cursor.pos + 50, nil
	}
	return cursor, cursor.pos, nil`}},
		},
		{
			Name: "foreign-event", What: "the index of a key gets another key's event, one in a hundred, and the watch does not look at the name",
			Rules: []check.Rule{check.Foreign}, Within: later,
			Edits: []Edit{
				{"eventlog/chain.go", `key == *cursor.key &&`, `(key == *cursor.key || LIE(100)) &&`},
				{"watchcache/matcher.go", `	if !key.HasPathPrefix(f.Key(), m.prefix) {`, `	if !key.HasPathPrefix(f.Key(), m.prefix) && !LIE(1) {`},
			},
		},
		{
			Name: "trim-off-by-one", What: "the log says that it has the last event that it dropped: who starts before that is given a hole",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: later,
			Edits: []Edit{{"eventlog/trim.go", `	l.floor = l.slot(l.first).rev
`, `	l.floor = l.slot(l.first).rev
	if LIE(1) {
		l.floor--
	}
`}},
		},
		{
			Name: "hole-for-410", What: "who starts at a revision that is too old is served what there is",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: later,
			Edits: []Edit{{"eventlog/cursor.go", `		return nil, &TooOldError{Asked: rev, Floor: l.floor}`, `		if !LIE(1) {
			return nil, &TooOldError{Asked: rev, Floor: l.floor}
		}`}},
		},
		{
			Name: "410-swallowed", What: "a watch from a revision that is too old ends without a word",
			Rules: []check.Rule{check.End}, Within: later,
			Edits: []Edit{{"watchcache/watch.go", `		return nil, apierrors.NewResourceExpired(old.Error())`, `		if LIE(1) {
			return nil, eventlog.ErrClosed
		}
		return nil, apierrors.NewResourceExpired(old.Error())`}},
		},
		{
			Name: "aged-off-by-one", What: "the event that a keyed reader reads next is dropped for its age, and nobody told",
			Rules: []check.Rule{check.Gap, check.HighMark}, Within: late, Herd: 1500,
			Edits: []Edit{
				{"eventlog/trim.go", `			wanted = wanted || reads && lowest <= seq`, `			if LYING && lowest == seq {
				reads = false
			}
			wanted = wanted || reads && lowest <= seq`},
				{"eventlog/chain.go", `	if seq >= c.lost {`, `	if seq >= c.lost && !LIE(1) {`},
			},
		},
	}
}
