// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package convoy

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// patience is how long a reader waits for others, beside fairness times as long as he has walked.
	patience = time.Second
	fairness = 3
	// slowest is the part of a window that a reader has to pass in the time of patience, or nobody waits for him any more. It is little,
	// because what is compressed for all comes slowly.
	slowest = 4
	// most is how long a reader waits at most, however long he walks: a list has to be sent before its request ends.
	most = 10 * time.Second
	// steps is the part of the window after which a reader says where he is.
	steps = 16
	// A convoy can be joined until its first has gone joinable windows, and for joinableFor in any case: clients that begin together do not
	// begin at once.
	joinable    = 4
	joinableFor = 100 * time.Millisecond
)

// Convoys are the convoys of a server. The methods may be called by any number of goroutines.
type Convoys struct {
	window int64
	clock  clock.Clock

	// mu guards what follows, and the fields of all convoys and walks. It is held for a number of steps that grows with the number of
	// readers in one convoy, by each of them once in a sixteenth of the window.
	mu sync.Mutex
	// open has the convoys that can be joined.
	open map[any]*convoy
}

// New returns Convoys whose readers are kept within window of each other. Its unit is that of Walk.Pass.
func New(window int64, clock clock.Clock) *Convoys {
	return &Convoys{window: window, clock: clock, open: map[any]*convoy{}}
}

// convoy has the walks that wait for each other. Its fields are guarded by Convoys.mu.
type convoy struct {
	key   any
	began time.Time
	walks map[*Walk]struct{}
	// first is how far the first is. least is how far the last was when somebody last looked: nobody is further behind, and while somebody
	// waits for the last, that is where it is.
	first, least int64
	// waiting is how many of them wait.
	waiting int
	// moved is closed when somebody has passed something or left; nil if nobody waits for that.
	moved chan struct{}
}

// Walk is one reader's way through what he reads. Its methods may be called by one goroutine at a time; those of a nil Walk do nothing.
type Walk struct {
	convoys *Convoys
	done    <-chan struct{}
	// untold is what has been passed since others were told.
	untold int64
	began  time.Time
	// waited is how long this one has waited in all while half of the convoy did so, too: while fewer do, those behind are at work,
	// and what is waited for is the processor.
	waited time.Duration

	// What follows is guarded by Convoys.mu. convoy is nil when the walk is over.
	convoy *convoy
	at     int64
	// passed and since are where the walk was, and when, as it had last passed the slowest part of a window, or waited for others. waits
	// says that it does.
	passed int64
	since  time.Time
	waits  bool
}

// Join begins a walk, in a convoy with those who have just begun one with an equal key, which has to be comparable. When done is closed it
// does not wait any more. Leave has to be called.
func (c *Convoys) Join(key any, done <-chan struct{}) *Walk {
	if c == nil {
		return nil
	}
	now := c.clock.Now()
	w := &Walk{convoys: c, done: done, began: now, since: now}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.open[key]
	if v == nil || v.first > joinable*c.window && now.Sub(v.began) > joinableFor {
		v = &convoy{key: key, began: now, walks: map[*Walk]struct{}{}}
		c.open[key] = v
	}
	v.least = 0
	v.add(w)
	return w
}

func (v *convoy) add(w *Walk) {
	w.convoy = v
	v.walks[w] = struct{}{}
}

// Pass says that the reader has n more behind him, and waits while he is too far ahead of others.
func (w *Walk) Pass(n int64) {
	if w == nil {
		return
	}
	if w.untold += n; w.untold >= w.convoys.window/steps {
		w.tell()
	}
}

func (w *Walk) tell() {
	c := w.convoys
	c.mu.Lock()
	defer c.mu.Unlock()
	v := w.convoy
	if v == nil {
		return // it is over
	}
	if w.at <= v.least {
		v.move() // it may have been the last
	}
	w.at += w.untold
	w.untold = 0
	v.first = max(v.first, w.at)
	// Who waits goes on when there is half a window to go: each time costs a change of goroutines.
	for limit := c.window; w.ahead(limit); limit = c.window / 2 {
		w.waits = true
		if long := c.leaveBehind(w); long <= 0 || !w.wait(long) {
			break
		}
	}
	if w.waits || w.at-w.passed >= c.window/slowest {
		w.waits = false
		w.passed, w.since = w.at, c.clock.Now()
	}
}

// move wakes those who wait for somebody to move.
func (v *convoy) move() {
	if v.moved != nil {
		close(v.moved)
		v.moved = nil
	}
}

// ahead tells whether the walk is more than limit ahead of the last.
func (w *Walk) ahead(limit int64) bool {
	v := w.convoy
	if w.at-v.least <= limit {
		return false
	}
	v.least = w.at
	for other := range v.walks {
		v.least = min(v.least, other.at)
	}
	return w.at-v.least > limit
}

// leaveBehind leaves those behind for whom w, which is too far ahead of them, is not to wait any more: those who are too slow, and all if w has
// waited long enough. They get a convoy of their own. It returns how long w may wait for the others, 0 if there are none.
func (c *Convoys) leaveBehind(w *Walk) time.Duration {
	now := c.clock.Now()
	walked := now.Sub(w.began) - w.waited
	left := min(patience+fairness*walked, most) - w.waited
	v := w.convoy
	var behind *convoy
	others := false
	for other := range v.walks {
		if w.at-other.at <= c.window/2 {
			continue
		}
		still := patience - now.Sub(other.since)
		if left > 0 && (other.waits || still > 0) {
			others = true
			if !other.waits {
				left = min(left, still)
			}
			continue
		}
		if behind == nil {
			behind = &convoy{key: v.key, walks: map[*Walk]struct{}{}, least: other.at}
		}
		delete(v.walks, other)
		behind.add(other)
		behind.first, behind.least = max(behind.first, other.at), min(behind.least, other.at)
	}
	if behind != nil {
		v.move() // they may wait for each other elsewhere
	}
	if !others {
		return 0
	}
	return left
}

// wait waits until somebody of the convoy moves, or for so long. It returns false if the walk is not to wait any more. mu is held
// when it is called and when it returns.
func (w *Walk) wait(long time.Duration) bool {
	c, v := w.convoys, w.convoy
	if v.moved == nil {
		v.moved = make(chan struct{})
	}
	moved := v.moved
	v.waiting++
	counts := 2*v.waiting >= len(v.walks)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		v.waiting--
	}()
	began := c.clock.Now()
	timer := c.clock.NewTimer(long)
	defer timer.Stop()
	goOn := true
	select {
	case <-moved:
	case <-timer.C():
	case <-w.done:
		goOn = false
	}
	if counts {
		w.waited += c.clock.Since(began)
	}
	return goOn
}

// Leave ends the walk. It may be called more than once.
func (w *Walk) Leave() {
	if w == nil {
		return
	}
	c := w.convoys
	c.mu.Lock()
	defer c.mu.Unlock()
	v := w.convoy
	if v == nil {
		return
	}
	w.convoy = nil
	delete(v.walks, w)
	v.move()
	if len(v.walks) == 0 && c.open[v.key] == v {
		delete(c.open, v.key)
	}
}
