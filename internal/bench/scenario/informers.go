// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/report"
)

// Informers has real client-go informers sync, a growing number of them on one server.
type Informers struct {
	Command   string        `json:"-"` // its name
	Dataset   string        `json:"dataset"`
	Informers []int         `json:"informers"`
	Format    client.Format `json:"format"`
	WatchList bool          `json:"watchList"`
	Gzip      bool          `json:"gzip"`
}

func (sc *Informers) label() string {
	return labelled(fmt.Sprintf("%s-%s-%s", sc.Command, sc.Format, sc.how()), sc.Gzip)
}

func (sc *Informers) how() string {
	if sc.WatchList {
		return "watchlist"
	}
	return "list"
}

// About implements Scenario.
func (sc *Informers) About() About {
	what := "lists and watches"
	if sc.WatchList {
		what = "watch lists"
	}
	return About{
		Name: sc.Command, Label: sc.label(), Datasets: []string{sc.Dataset}, Rounds: 1,
		Asks: asks("client-go informers", what, sc.Format, sc.Gzip),
	}
}

func (sc *Informers) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	for _, count := range sc.Informers {
		if err := sc.once(ctx, s, count); err != nil {
			return err
		}
	}
	return nil
}

func (sc *Informers) once(ctx context.Context, s *session, count int) error {
	child, err := s.children().StartInformers(ctx, client.InformerJob{
		Access: s.server.Access, Data: sc.Dataset, Namespace: s.Place.Only,
		Format: sc.Format, Gzip: sc.Gzip, WatchList: sc.WatchList, Count: count, Expect: int(s.Data[sc.Dataset].Served),
	})
	if err != nil {
		return err
	}
	defer child.End()
	_, err = s.phase(ctx, fmt.Sprintf("%s %s %s x%d", sc.Command, form(sc.Format, sc.Gzip), sc.how(), count), func(ctx context.Context, p *report.Phase) error {
		if err := child.Go(); err != nil {
			return err
		}
		done, err := child.Hear(ctx, client.StageDone)
		if err != nil {
			return err
		}
		s.tellWire(p, done, sc.Gzip)
		p.Figures["synced median s"] = report.Median(done.Seconds)
		p.Figures["synced last s"] = report.Quantile(done.Seconds, 1)
		return nil
	})
	return err
}
