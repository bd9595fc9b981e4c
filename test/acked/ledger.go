// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package acked is the bookkeeping of tests that hold that no acknowledged write is lost: what an object may be after writes of which
// some were not answered. It imports nothing of weir's.
package acked

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Absent is the mark of an object that does not exist.
const Absent = ""

// Ledger is what one writer's objects may be: by name, the marks of the writes that may have been the last. It belongs to its
// writer while that writes, and to who reads when the writer has stopped. The zero value cannot be written to.
type Ledger map[string]map[string]bool

// Acknowledged notes that a write was answered: it is what the object is.
func (l Ledger) Acknowledged(name, mark string) { l[name] = map[string]bool{mark: true} }

// Unanswered notes that a write may have happened.
func (l Ledger) Unanswered(name, mark string) {
	if l[name] == nil {
		l[name] = map[string]bool{Absent: true}
	}
	l[name][mark] = true
}

// Sees notes what an object is, and returns an error if it cannot be that.
func (l Ledger) Sees(name, mark string) error {
	may := l[name]
	if may == nil {
		may = map[string]bool{Absent: true}
	}
	if !may[mark] {
		return fmt.Errorf("%s is %s, and can only be %s", name, say(mark), strings.Join(words(may), " or "))
	}
	l.Acknowledged(name, mark)
	return nil
}

func words(may map[string]bool) []string {
	var list []string
	for _, m := range slices.Sorted(maps.Keys(may)) {
		list = append(list, say(m))
	}
	return list
}

func say(mark string) string {
	if mark == Absent {
		return "absent"
	}
	return "that of write " + mark
}
