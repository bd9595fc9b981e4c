// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package killed

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// absent is the mark of an object that does not exist.
const absent = ""

// ledger is what one writer's objects may be: by name, the marks of the writes that may have been the last. It belongs to its
// writer while that writes, and to who reads when the writer has stopped.
type ledger map[string]map[string]bool

// acknowledged notes that a write was answered: it is what the object is.
func (l ledger) acknowledged(name, mark string) { l[name] = map[string]bool{mark: true} }

// unanswered notes that a write may have happened.
func (l ledger) unanswered(name, mark string) {
	if l[name] == nil {
		l[name] = map[string]bool{absent: true}
	}
	l[name][mark] = true
}

// sees notes what an object is, and returns an error if it cannot be that.
func (l ledger) sees(name, mark string) error {
	may := l[name]
	if may == nil {
		may = map[string]bool{absent: true}
	}
	if !may[mark] {
		return fmt.Errorf("%s is %s, and can only be %s", name, say(mark), strings.Join(words(may), " or "))
	}
	l.acknowledged(name, mark)
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
	if mark == absent {
		return "absent"
	}
	return "that of write " + mark
}
