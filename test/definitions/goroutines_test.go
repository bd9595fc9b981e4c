// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// stacks are the goroutines of a server, by where they were started: the outermost function, and the one that it runs in if that says more.
type stacks map[string]int

var goroutines = regexp.MustCompile(`^(\d+) @ `)

// stacksOf returns the goroutines of a server by their stacks, outermost first.
func stacksOf(t *testing.T, s *servers.Server) stacks {
	t.Helper()
	status, profile := s.Do(http.MethodGet, "/debug/pprof/goroutine?debug=1", nil)
	if status != http.StatusOK {
		t.Fatalf("%s: the profile of goroutines: %d %.200s", s.Name, status, profile)
	}
	found, n, frames := stacks{}, 0, []string(nil)
	end := func() {
		if n > 0 {
			slices.Reverse(frames)
			found[strings.Join(frames, " > ")] += n
		}
		n, frames = 0, nil
	}
	for lines := bufio.NewScanner(bytes.NewReader(profile)); lines.Scan(); {
		line := lines.Text()
		if m := goroutines.FindStringSubmatch(line); m != nil {
			end()
			n, _ = strconv.Atoi(m[1])
		} else if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "#" {
			name, _, _ := strings.Cut(fields[2], "+0x")
			if !strings.HasPrefix(name, "runtime.") {
				frames = append(frames, name[strings.LastIndex(name, "/")+1:])
			}
		}
	}
	end()
	return found
}

func (s stacks) all() (n int) {
	for _, of := range s {
		n += of
	}
	return n
}

// since returns how many there are more of each stack.
func (s stacks) since(before stacks) stacks {
	more := stacks{}
	for stack, n := range s {
		if d := n - before[stack]; d != 0 {
			more[stack] = d
		}
	}
	for stack, n := range before {
		if _, there := s[stack]; !there {
			more[stack] = -n
		}
	}
	return more
}

func (s stacks) String() string {
	var out strings.Builder
	for _, stack := range slices.SortedFunc(maps.Keys(s), func(a, b string) int { return s[b] - s[a] }) {
		fmt.Fprintf(&out, "%5d %s\n", s[stack], stack)
	}
	return out.String()
}
