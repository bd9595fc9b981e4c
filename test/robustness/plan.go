// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// Config says what a run does. The zero value of all but Seed and Duration is a choice of the run's.
type Config struct {
	// Seed makes the plan: the operations of each writer, the scopes and starts of each reader, and the faults, each in
	// their order. When they happen, and so what they meet, is not the plan's.
	Seed uint64
	// Duration is that of the load, after the servers are ready.
	Duration time.Duration
	// History is how long the weirs keep events: 75 s, or less for a short run, but 16 s at least.
	History time.Duration
	// Herd is the number of watches in each herd, at 300 writes a second.
	Herd int
	// Writes is how many writes are asked for in a second; 0 is 300. What is read is in proportion, but not less than a
	// fifth: below 60 writes a second it stays the same.
	Writes int
	// Members are etcd's; 0 is 1. With one there are no faults between them.
	Members int
	// NoFaults leaves the faults out.
	NoFaults bool
	// StopAtFirst ends the run with the first violation; see Run.First.
	StopAtFirst bool
	// Faults are the kinds of faults that there are; without any there are all.
	Faults []string
}

// The resources that are written and read. They are named as in their paths.
const (
	pods       = "pods"
	configMaps = "configmaps"
	eventsOf   = "events"  // etcd deletes them, many at once, when their lease expires
	widgets    = "widgets" // a custom resource of two versions, whose definition changes
)

var resources = []string{pods, configMaps, eventsOf, widgets}

const (
	group = "robustness.example.com" // of widgets
	kind  = "Widget"
)

var versions = []string{"v1", "v2"} // of widgets; the first is stored

// arguments are those of the weirs. Events are not cached unless a size is given; upstream's leases are of one twentieth of
// the time that an Event has, and all Events that are written within that share one.
var arguments = []string{
	"--event-ttl=20s", "--watch-cache-sizes=events#100,events.events.k8s.io#100",
	"--feature-gates=ShardedListAndWatch=true",
}

const (
	writers    = 10
	fullWrites = 300 // a second

	namespaces = 6
	nodes      = 8

	side = "side" // the label that moves

	opMark = "op" // the annotation that says which write made a state

	herdEvery = 2500 * time.Millisecond // a little more than two seconds: not always at the same time after a weir looks for old events
)

var (
	sides  = []string{"left", "right"}
	phases = []string{"Pending", "Running", "Failed"}
	words  = []string{"red", "green", "blue"} // a widget's color, an Event's reason
)

// names is how many objects of a resource there may be in a namespace. Those of Events are many, so that most are not written
// again before they expire.
func names(resource string) int {
	if resource == eventsOf {
		return 120
	}
	return 8
}

// The streams of the plan's random numbers: one for each that acts, so that none changes another's.
const (
	streamFaults = iota
	streamHerds
	streamStorms
	streamLists
	streamDefinitions
	streamEdges
	streamTwins    = 400
	streamShared   = 500
	streamWriters  = 1_000
	streamSessions = 2_000
	streamGetters  = 3_000
	streamGadgets  = 4_000
)

func (c Config) rand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(c.Seed, stream)) }

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func namespace(i int) string { return fmt.Sprintf("robust-%d", i) }
func name(i int) string      { return fmt.Sprintf("object-%d", i) }
func node(i int) string      { return fmt.Sprintf("node-%d", i) }

// The share of each resource, of 20.
var shares = slices.Concat(slices.Repeat([]string{pods}, 7), slices.Repeat([]string{configMaps}, 6), slices.Repeat([]string{widgets}, 4), slices.Repeat([]string{eventsOf}, 3))

func anyKey(r *rand.Rand) history.Key {
	resource := pick(r, shares)
	return history.Key{Resource: resource, Namespace: namespace(r.IntN(namespaces)), Name: name(r.IntN(names(resource)))}
}

// scopeOf is all of a resource, in any of its versions.
func scopeOf(r *rand.Rand, resource string) history.Scope {
	c, version := history.Scope{Resource: resource}, pick(r, versions)
	if resource == widgets {
		c.Version = version
	}
	return c
}

// everything is all that is judged, in all versions.
func everything() []history.Scope {
	var all []history.Scope
	for _, resource := range resources {
		if resource != widgets {
			all = append(all, history.Scope{Resource: resource})
			continue
		}
		for _, v := range versions {
			all = append(all, history.Scope{Resource: resource, Version: v})
		}
	}
	return all
}

// anyScope is keyed in most cases: by namespace, by name or by node.
func anyScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	c := scopeOf(r, k.Resource)
	switch n := r.IntN(20); {
	case n < 2:
	case n < 4:
		c.LabelKey, c.LabelValue = side, pick(r, sides)
	case n < 6:
		c.Namespace, c.LabelKey, c.LabelValue = k.Namespace, side, pick(r, sides)
	case n < 8:
		byField(r, &c)
		if n == 7 {
			c.Namespace = k.Namespace
		}
	case n == 8:
		c.Shards = 4
		c.Shard = r.Uint64N(c.Shards)
	case n == 9:
		c.Namespace, c.ByField = k.Namespace, true
	default:
		return keyedScope(r)
	}
	return c
}

// byField has a scope select by a field that has no index, where the resource has one.
func byField(r *rand.Rand, c *history.Scope) {
	phase, word := pick(r, phases), pick(r, words)
	switch c.Resource {
	case pods:
		c.Field, c.FieldValue = "status.phase", phase
	case eventsOf:
		c.Field, c.FieldValue = "reason", word
	case widgets:
		c.Field, c.FieldValue = "color", word
	}
}

func keyedScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	c := scopeOf(r, k.Resource)
	switch n := r.IntN(8); {
	case n < 2:
		c.Namespace = k.Namespace
	case n < 5:
		return history.Scope{Resource: pods, Node: node(r.IntN(nodes))}
	default:
		c.Namespace, c.Name = k.Namespace, k.Name
	}
	return c
}

// herdScope is most often a name: what such a watch is given is little, so that many can begin together.
func herdScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	c := scopeOf(r, k.Resource)
	if r.IntN(4) == 0 {
		return keyedScope(r)
	}
	c.Namespace, c.Name = k.Namespace, k.Name
	return c
}

func (c Config) writes() int { return cmp.Or(c.Writes, fullWrites) }

// scaled is n in proportion to the writes: a fifth of it at least, and n at most.
func (c Config) scaled(n int) int {
	return min(n, max(n*c.writes()/fullWrites, n/5, 1))
}

// every is how long is between two of n in a second, in proportion to the writes.
func (c Config) every(n float64) time.Duration {
	share := min(1, max(float64(c.writes())/fullWrites, 0.2))
	return time.Duration(float64(time.Second) / (n * share))
}

// calm is how long a run goes on before the first herd: longer than events are kept, where it is long enough for that.
func (c Config) calm() time.Duration { return min(c.history()+2*time.Second, c.Duration/2) }

func (c Config) members() int { return max(c.Members, 1) }

func (c Config) history() time.Duration { return cmp.Or(c.History, 75*time.Second) }

// ago is how far back a watch of a herd goes: from a quarter of what is kept to a little more than all of it.
func (c Config) ago(r *rand.Rand) time.Duration {
	least := c.history() / 4
	return least + time.Duration(r.Int64N(int64(c.history()*17/16-least)))
}

func shuffled[T any](r *rand.Rand, list []T) []T {
	list = slices.Clone(list)
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// every yields once in a period, until ctx is done.
func every(ctx context.Context, period time.Duration) func(yield func() bool) {
	return func(yield func() bool) {
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !yield() {
				return
			}
		}
	}
}
