// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"cmp"
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
	// Herd is the number of watches in each herd.
	Herd int
	// Members are etcd's; 0 is 1. There are no faults between them yet.
	Members int
	// NoFaults leaves the faults out.
	NoFaults bool
	// StopAtFirst ends the run with the first violation; see Run.First.
	StopAtFirst bool
}

const (
	pods       = "pods"
	configMaps = "configmaps"

	writers    = 10
	writeEvery = 33 * time.Millisecond // each writer; together 300 a second

	namespaces = 6
	names      = 8 // of each resource in each namespace
	nodes      = 8

	side = "side" // the label that moves

	opMark = "op" // the annotation that says which write made a state

	herdEvery = 2500 * time.Millisecond // a little more than two seconds: not always at the same time after a weir looks for old events
)

var sides = []string{"left", "right"}

// The streams of the plan's random numbers: one for each that acts, so that none changes another's.
const (
	streamFaults = iota
	streamHerds
	streamStorms
	streamLists
	streamEdges
	streamWriters  = 1_000
	streamSessions = 2_000
)

func (c Config) rand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(c.Seed, stream)) }

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func namespace(i int) string { return fmt.Sprintf("robust-%d", i) }
func name(i int) string      { return fmt.Sprintf("object-%d", i) }
func node(i int) string      { return fmt.Sprintf("node-%d", i) }

func anyKey(r *rand.Rand) history.Key {
	return history.Key{Resource: pick(r, []string{pods, configMaps}), Namespace: namespace(r.IntN(namespaces)), Name: name(r.IntN(names))}
}

// anyScope is keyed in most cases: by namespace, by name or by node.
func anyScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	switch n := r.IntN(10); {
	case n == 0:
		return history.Scope{Resource: k.Resource}
	case n == 1:
		return history.Scope{Resource: k.Resource, LabelKey: side, LabelValue: pick(r, sides)}
	case n == 2:
		return history.Scope{Resource: k.Resource, Namespace: k.Namespace, LabelKey: side, LabelValue: pick(r, sides)}
	default:
		return keyedScope(r)
	}
}

func keyedScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	switch n := r.IntN(8); {
	case n < 2:
		return history.Scope{Resource: k.Resource, Namespace: k.Namespace}
	case n < 5:
		return history.Scope{Resource: pods, Node: node(r.IntN(nodes))}
	default:
		return history.Scope{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
	}
}

// herdScope is most often a name: what such a watch is given is little, so that many can begin together.
func herdScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	if r.IntN(4) == 0 {
		return keyedScope(r)
	}
	return history.Scope{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
}

// calm is how long a run goes on before the first herd: longer than events are kept, where it is long enough for that.
func (c Config) calm() time.Duration { return min(c.history()+2*time.Second, c.Duration/2) }

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
