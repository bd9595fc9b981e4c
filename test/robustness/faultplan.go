// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"math/rand/v2"
	"slices"
	"time"
)

// faultKind is what is done, and to what.
type faultKind string

const (
	// To the link between readers and a weir.
	faultCut      faultKind = "cut"
	faultDelay    faultKind = "delay"
	faultThrottle faultKind = "throttle"
	faultHalfOpen faultKind = "half-open" // what is sent in one direction is lost, and neither side learns of it
	faultStall    faultKind = "stall"     // what is sent in one direction arrives when it is over

	// To the links between a weir and etcd: that to one member, or all of them.
	faultEtcdCut      faultKind = "etcd-cut"
	faultEtcdDelay    faultKind = "etcd-delay"
	faultEtcdThrottle faultKind = "etcd-throttle"
	faultEtcdHalfOpen faultKind = "etcd-half-open"
	faultEtcdStall    faultKind = "etcd-stall"

	// To a weir.
	faultKill   faultKind = "kill"
	faultPause  faultKind = "pause"
	faultMemory faultKind = "memory" // its limit is lowered below what it uses

	// To a member of etcd, or to the one that leads.
	faultMemberKill  faultKind = "member-kill"
	faultMemberPause faultKind = "member-pause"
	faultMemberPart  faultKind = "member-part" // it is kept apart from the others
	faultLeaderKill  faultKind = "leader-kill"
	faultLeaderPause faultKind = "leader-pause"
	faultLeaderPart  faultKind = "leader-part"
	faultDefragment  faultKind = "defragment"

	// To etcd as a whole.
	faultCompact  faultKind = "compact"
	faultNoSpace  faultKind = "no-space"
	faultNoQuorum faultKind = "no-quorum" // all but one of its members are paused

	// To what is in etcd, and to what weirs need beside it.
	faultUnreadable faultKind = "unreadable" // an object that cannot be decrypted, or not decoded
	faultWebhook    faultKind = "webhook"    // the conversion webhook does not answer

	faultNone faultKind = "none"
)

// often and seldom are the kinds. After one that is seldom, a weir knows nothing, of one resource at least, of what was
// before, and tells a herd 410: if these came often, none of its old events would ever be asked for.
var (
	often = []faultKind{
		faultCut, faultDelay, faultThrottle, faultHalfOpen, faultStall,
		faultEtcdCut, faultEtcdDelay, faultEtcdThrottle, faultEtcdHalfOpen, faultEtcdStall,
		faultPause, faultMemberKill, faultMemberPause, faultMemberPart, faultLeaderKill, faultLeaderPause, faultLeaderPart,
		faultDefragment, faultCompact, faultNoSpace, faultNoQuorum, faultWebhook, faultNone,
	}
	seldom = []faultKind{faultKill, faultMemory, faultUnreadable}
)

// needsSeveral tells whether a kind needs an etcd of several members.
func (k faultKind) needsSeveral() bool {
	switch k {
	case faultMemberPart, faultLeaderKill, faultLeaderPause, faultLeaderPart, faultNoQuorum:
		return true
	}
	return false
}

// fault is one of the plan's.
type fault struct {
	at     time.Duration // after the load has begun
	kind   faultKind
	server int
	member int
	all    bool // all links of the server to etcd, in place of that to the member
	other  bool // the other direction, or the other way to do it
	lasts  time.Duration
}

// keepAlive is after how long a weir takes a connection to etcd for lost on which nothing comes: upstream asks after 30 s,
// and waits 10 s for the answer.
const keepAlive = 40 * time.Second

// leaderless is after how long without the others a member of etcd ends the watches that want a leader, which those of
// kube-apiserver do: it takes up to two seconds to know of none, and four to end them.
const leaderless = 6 * time.Second

// deck deals kinds: each once before any comes again.
type deck struct {
	kinds []faultKind
	rand  *rand.Rand
	left  []faultKind
}

func (d *deck) next() faultKind {
	if len(d.left) == 0 {
		d.left = shuffled(d.rand, d.kinds)
	}
	k := d.left[0]
	d.left = d.left[1:]
	return k
}

// wanted are those kinds that there can be and are to be.
func (c Config) wanted(kinds []faultKind) []faultKind {
	return slices.DeleteFunc(slices.Clone(kinds), func(k faultKind) bool {
		return c.members() == 1 && k.needsSeveral() || len(c.Faults) > 0 && !slices.Contains(c.Faults, string(k))
	})
}

// faults are the plan's, in their order. One is over before the next. Of those that are seldom one comes when for two and a
// half times as long as events are kept none has.
func (c Config) faults() []fault {
	if c.NoFaults {
		return nil
	}
	r := c.rand(streamFaults)
	some, few := deck{rand: r, kinds: c.wanted(often)}, deck{rand: r, kinds: c.wanted(seldom)}
	var plan []fault
	nextOfFew := time.Duration(r.IntN(12)) * time.Second
	for at := 4 * time.Second; ; {
		f := fault{
			at: at, server: r.IntN(weirs), member: r.IntN(c.members()), all: r.IntN(2) == 0, other: r.IntN(2) == 0,
			lasts: time.Duration(300+r.IntN(2700)) * time.Millisecond,
		}
		patient := r.IntN(8) == 0 && c.Duration >= 10*time.Minute
		if at+f.lasts > c.Duration {
			return plan
		}
		switch {
		case len(few.kinds) > 0 && at >= nextOfFew:
			f.kind = few.next()
			nextOfFew = at + c.history()*5/2
		case len(some.kinds) > 0:
			f.kind = some.next()
		default:
			f.kind = faultNone
		}
		switch f.kind {
		case faultMemberPart, faultLeaderPart, faultNoQuorum:
			f.lasts += leaderless
		case faultEtcdHalfOpen:
			if patient {
				f.lasts += keepAlive
			}
		}
		plan = append(plan, f)
		at += f.lasts + time.Duration(1500+r.IntN(3000))*time.Millisecond
	}
}
