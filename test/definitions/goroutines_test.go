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

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// mostGoroutines is how many a definition may have that has been read in two versions. Upstream's server has 50.
const mostGoroutines = 12

// TestGoroutines counts the goroutines of definitions that share a store, after each has been written and listed in both of its versions.
func TestGoroutines(t *testing.T) {
	for _, gates := range []string{"CustomResourceCachesOnDemand=false", "CustomResourceCachesOnDemand=true"} {
		t.Run(gates, func(t *testing.T) {
			t.Parallel()
			s := servers.Start(t, servers.Weir, etcd.Run(t).Endpoints()[0], "--feature-gates="+gates).Wait()
			const some = 10
			// What the first ones have made, others use.
			readDefinitions(t, s, 0, some)
			servers.Eventually(t, "what asks for progress to end", func() bool { return stacksOf(t, s).with("requester") == 0 })
			before := stacksOf(t, s)
			readDefinitions(t, s, some, 2*some)
			var more stacks
			defer func() {
				t.Logf("%.1f goroutines each:\n%v", float64(more.all())/some, more)
			}()
			servers.Eventually(t, fmt.Sprintf("definitions to have %d goroutines each", mostGoroutines), func() bool {
				more = stacksOf(t, s).since(before)
				return more.all() <= mostGoroutines*some
			})
		})
	}
}

// readDefinitions makes definitions, has an object of each written, and lists it in both versions.
func readDefinitions(t *testing.T, s *servers.Server, from, to int) {
	t.Helper()
	any := object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	for i := from; i < to; i++ {
		s.Must(http.MethodPost, crds, define(fmt.Sprintf("g%d.example.com", i), "Thing", "Namespaced", version("v1", true, any, nil), version("v2", false, any, nil)))
	}
	for i := from; i < to; i++ {
		path := func(version string) string {
			return fmt.Sprintf("/apis/g%d.example.com/%s/namespaces/default/things", i, version)
		}
		servers.Eventually(t, "the definition to be served", func() bool {
			status, _ := s.Do(http.MethodPost, path("v1"), object{"apiVersion": fmt.Sprintf("g%d.example.com/v1", i), "kind": "Thing", "metadata": object{"name": "a"}})
			return status == http.StatusCreated
		})
		for _, version := range []string{"v1", "v2"} {
			servers.Eventually(t, "it to be listed", func() bool {
				status, _ := s.Do(http.MethodGet, path(version), nil)
				return status == http.StatusOK
			})
		}
	}
}

// stacks are the goroutines of a server by their functions, outermost first.
type stacks map[string]int

var goroutines = regexp.MustCompile(`^(\d+) @ `)

// stacksOf returns the goroutines of a server.
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

// with returns how many have a name in their stack.
func (s stacks) with(name string) (n int) {
	for stack, of := range s {
		if strings.Contains(stack, name) {
			n += of
		}
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
