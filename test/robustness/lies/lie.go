// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import (
	"time"

	"github.com/weir-project/weir/test/robustness/check"
)

// Lie is one fault that is planted.
type Lie struct {
	// Name is what WEIR_LIE has to be for it to be told.
	Name string
	// What says what weir then does.
	What string
	// Rules are those of which one has to find it.
	Rules []check.Rule
	// Within is how long the load may last until it has been found. It is several times what it took.
	Within time.Duration
	// Herd is the number of watches in each herd, 0 for usualHerd.
	Herd int
	// Faults says that there are faults in the run, without which it does not show.
	Faults bool
	// Edits plant it.
	Edits []Edit
}

// Edit is a change of a source file.
type Edit struct {
	// File is a path below internal/.
	File string
	// Find is a text that stands in it exactly once; no other edit's may overlap it.
	Find string
	// Put is what stands there in its place. In it LIE(n) is whether the lie is to be told now: at every n-th time that it is
	// evaluated, if it is the lie that is told. LYING is whether it is that, and planted a sync.Map that each package has.
	Put string
}

const (
	usualHerd = 240
	soon      = 30 * time.Second
	later     = time.Minute // what is found by those who come back: the first do when events have begun to age
	late      = 2 * time.Minute
)

// All are all lies.
func All() []Lie {
	var all []Lie
	for _, some := range [][]Lie{ofTheLog(), ofWatches(), ofTheState(), ofLists(), ofForms(), ofCompression(), ofWrites()} {
		all = append(all, some...)
	}
	return all
}
