// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import "time"

// faultKind is what is done to a server or to the link in front of it.
type faultKind string

const (
	faultCut     faultKind = "cut"
	faultDelay   faultKind = "delay"
	faultKill    faultKind = "kill"
	faultPause   faultKind = "pause"
	faultCompact faultKind = "compact"
	faultNone    faultKind = "none"
)

// fault is one of the plan's.
type fault struct {
	at     time.Duration // after the load has begun
	kind   faultKind
	server int
	lasts  time.Duration
}

// faults are the plan's, in their order. Each kind comes once before any comes again, and one is over before the next. But
// kills are far apart, and a link is cut in their place: a weir that was started again knows nothing of what was before, and
// tells a herd 410, so that none of its old events would ever be asked for.
func (c Config) faults() []fault {
	if c.NoFaults {
		return nil
	}
	r := c.rand(streamFaults)
	kinds := []faultKind{faultCut, faultDelay, faultKill, faultPause, faultCompact, faultNone}
	var plan []fault
	nextKill := time.Duration(0)
	for at := 4 * time.Second; ; {
		for _, i := range r.Perm(len(kinds)) {
			f := fault{at: at, kind: kinds[i], server: r.IntN(weirs), lasts: time.Duration(300+r.IntN(2700)) * time.Millisecond}
			if at+f.lasts > c.Duration {
				return plan
			}
			if f.kind == faultKill {
				if f.at < nextKill {
					f.kind = faultCut
				} else {
					nextKill = f.at + c.history()*5/2
				}
			}
			plan = append(plan, f)
			at += f.lasts + time.Duration(1500+r.IntN(3000))*time.Millisecond
		}
	}
}
