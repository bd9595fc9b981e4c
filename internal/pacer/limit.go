// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// Automatic asks FindLimit for the limit of the process's control group.
	Automatic = -1
	// LeastLimit is the least that a process may be limited to, in bytes: a server without data takes
	// about half of it.
	LeastLimit = 256 << 20

	// besideShare, besideLeast and besideMost say how much of a limit is left to what Go's runtime does not
	// count; see Limit.Go.
	besideShare = 8
	besideLeast = 96 << 20
	besideMost  = 512 << 20
)

// Limit is how much memory this process may take. The zero Limit is none. It never changes.
type Limit struct {
	// Total is what the process may take as the kernel counts it, in bytes; 0 if that is not limited.
	Total int64
	// Go is what Go's runtime may take of it, in bytes: the heap, what is free in it and has not been given
	// back, stacks, and the runtime's own. 0 if that is not limited. What is live has to stay below it.
	//
	// The rest is for what the runtime does not count: the program's own pages that are in use (some 60 MB),
	// pages of files that are mapped, as bbolt's of an embedded etcd, what the kernel keeps for connections, and
	// what is allocated while a collection that the limit has started is still going on. It is an
	// eighth, at least 96 MiB (a half of what is small) and at most 512 MiB.
	Go int64
	// Source is who has set it, for people: "--memory-limit", "control group" or "GOMEMLIMIT"; "" if nobody has.
	Source string

	// given says that the environment has told the runtime.
	given bool
}

// FindLimit returns the limit of this process. asked is a number of bytes, 0 for none, or Automatic
// for that of the control group (cgroup v1 or v2), if there is one. Where the
// environment has GOMEMLIMIT, that is what Go's runtime keeps to, whatever is asked. The error is of
// finding out about the control group, and the limit is then as if there were no such group.
func FindLimit(asked int64) (Limit, error) {
	var l Limit
	var err error
	switch {
	case asked > 0:
		l = Limit{Total: asked, Source: "--memory-limit"}
	case asked == Automatic:
		if l.Total, err = ofControlGroup(memlimit.FromCgroup); l.Total > 0 {
			l.Source = "control group"
		}
	}
	l.Go = forGo(l.Total)
	if os.Getenv("GOMEMLIMIT") != "" {
		l.given = true
		if told := debug.SetMemoryLimit(-1); told < math.MaxInt64 && (l.Go == 0 || told < l.Go) {
			l.Go, l.Source = told, "GOMEMLIMIT"
		}
	}
	return l, err
}

// ofControlGroup returns 0 if there is no limit.
func ofControlGroup(find memlimit.Provider) (int64, error) {
	total, err := find()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("cannot find the memory limit of the control group: %w", err)
	case total >= math.MaxInt64:
		return 0, nil
	default:
		return int64(total), nil
	}
}

// forGo returns how much of a limit Go's runtime may take.
func forGo(total int64) int64 {
	beside := min(max(total/besideShare, besideLeast), besideMost)
	return max(total-beside, total/2)
}

// Set tells Go's runtime, unless the environment has. undo takes it back.
//
// The runtime then collects as often as it takes to stay below, but spends no more than half of the
// processors on it: when more is live than the limit allows, the heap grows past it, up to where the
// kernel ends the process. What can be done without is let go of before that.
func (l Limit) Set() (undo func()) {
	if l.Go == 0 || l.given {
		return func() {}
	}
	before := debug.SetMemoryLimit(l.Go)
	return func() { debug.SetMemoryLimit(before) }
}
