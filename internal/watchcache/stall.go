// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
)

// stallPeriod is how often a watch that waits for its client looks whether that takes
// anything.
const stallPeriod = 5 * time.Second

// stall observes whether a client takes anything while there is no room for the next event.
// It belongs to who has the cursor. The zero stall is one of a client that has not been
// waited for.
type stall struct {
	// timer goes off every stallPeriod while the watch waits; nil if it has not waited since
	// it was parked.
	timer clock.Timer
	// sent counts the events that there was room for; moved is what that, and the bytes that
	// the connection has taken, were when it was last looked at, and since from when on that
	// has been so.
	sent, moved int64
	since       time.Time
	// slow says that the watch has waited, and that this began stallPeriod ago or longer.
	slow bool
}

// end stops the timer.
func (s *stall) end() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// sendOrStall hands an event over, for which it waits as long as the client takes anything,
// and as long as the log has what comes next. The error is then errStalled or the log's. It
// returns true if the watch has ended.
func (w *watcher) sendOrStall(event watch.Event) (ended bool, err error) {
	if w.stopped() {
		return true, nil
	}
	s := &w.stall
	// Mostly there is room, and a select of one channel is the cheaper one.
	select {
	case w.result <- event:
		s.sent++
		return false, nil
	default:
	}
	now := w.cache.cfg.Clock
	if s.timer == nil {
		s.timer = now.NewTimer(stallPeriod)
		s.moved, s.since = w.moved(), now.Now()
	}
	for {
		select {
		case w.result <- event:
			s.sent++
			return false, nil
		case <-w.stop:
			return true, nil
		case <-s.timer.C():
			s.timer.Reset(stallPeriod)
		}
		select {
		case w.result <- event: // there was room, too
			s.sent++
			return false, nil
		default:
		}
		if err := w.cursor.Check(); err != nil {
			return false, err
		}
		s.slow = true
		if moved := w.moved(); moved != s.moved {
			s.moved, s.since = moved, now.Now()
		}
		if now.Since(s.since) >= w.cache.cfg.History {
			return false, errStalled
		}
	}
}

// moved returns a number that grows when the client takes something.
func (w *watcher) moved() int64 { return w.stall.sent + w.stream.Progress() }
