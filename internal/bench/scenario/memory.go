// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/report"
)

// Memory is a server's life, as far as its memory goes: it starts over the data, comes to rest, is asked for both collections
// in every form by many at once, one form after the other, and comes to rest again. All of it is one process.
type Memory struct {
	Settle  time.Duration `json:"settle"` // how long it rests, each time
	Streams int           `json:"streams"`
}

// About implements Scenario.
func (*Memory) About() About {
	return About{Name: "memory", Label: "memory", Datasets: []string{"a", "b"}, Rounds: 1, StartsServer: true,
		Asks: "readers ask for lists at resourceVersion=0 and watch lists in every form"}
}

func (sc *Memory) run(ctx context.Context, s *session) error {
	start := Start{Settle: sc.Settle}
	if err := start.run(ctx, s); err != nil {
		return err
	}
	phases := s.record.Phases
	begun, settled := phases[0], phases[len(phases)-1]
	peak := max(begun.RSSPeak, settled.RSSPeak)
	for _, read := range sc.reads() {
		for _, verb := range read.Verbs {
			p, err := read.once(ctx, s, verb, sc.Streams, fmt.Sprintf("%s x%d", read.phase(verb), sc.Streams))
			if err != nil {
				return err
			}
			peak = max(peak, p.RSSPeak)
		}
	}
	p, err := s.measure(ctx, "at rest again", true, func(ctx context.Context, _ *report.Phase) error { return client.Pause(ctx, sc.Settle) })
	if err != nil {
		return err
	}
	p.Figures["RSS peak of all MB"] = float64(max(peak, p.RSSPeak)) / 1e6
	p.Figures["RSS at rest, to that after the start"] = float64(p.RSSAfter) / float64(settled.RSSAfter)
	p.Figures["start's RSS peak, to that after it"] = float64(begun.RSSPeak) / float64(settled.RSSAfter)
	return nil
}

// reads are all forms of both collections.
func (sc *Memory) reads() []*Read {
	var all []*Read
	for _, data := range []string{"b", "a"} {
		for _, gzip := range []bool{false, true} {
			for _, f := range []client.Format{client.FormatProtobuf, client.FormatJSON, client.FormatTable} {
				verbs := []string{VerbList, VerbWatchList}
				if f == client.FormatTable {
					verbs = verbs[:1]
				}
				all = append(all, &Read{Dataset: data, Verbs: verbs, Format: f, Gzip: gzip, PerConnection: 1, Repeat: 1})
			}
		}
	}
	return all
}
