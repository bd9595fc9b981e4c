// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
)

// informersScenario: real client-go informers sync, a growing number of them on one server.
type informersScenario struct {
	command   string
	Dataset   string `json:"dataset"`
	Informers []int  `json:"informers"`
	Format    format `json:"format"`
	WatchList bool   `json:"watchList"`
	Gzip      bool   `json:"gzip"`
}

func (sc *informersScenario) name() string       { return sc.command }
func (sc *informersScenario) datasets() []string { return []string{sc.Dataset} }
func (sc *informersScenario) rounds() int        { return 1 }
func (sc *informersScenario) label() string {
	return fmt.Sprintf("%s-%s-%s", sc.command, sc.Format, sc.how())
}

func (sc *informersScenario) how() string {
	if sc.WatchList {
		return "watchlist"
	}
	return "list"
}

func (sc *informersScenario) run(ctx context.Context, s *session) error {
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

func (sc *informersScenario) once(ctx context.Context, s *session, count int) error {
	child, err := s.startClients(ctx, informersSubcommand, []string{fmt.Sprintf("%s=%t", watchListClientEnv, sc.WatchList)}, informerJob{
		Access: s.server.access, Data: sc.Dataset, Namespace: s.place.only,
		Format: sc.Format, Gzip: sc.Gzip, Count: count, Expect: int(s.data[sc.Dataset].served),
	})
	if err != nil {
		return err
	}
	defer endReaders(child)
	_, err = s.phase(ctx, fmt.Sprintf("%s %s %s x%d", sc.command, sc.Format, sc.how(), count), func(ctx context.Context, p *Phase) error {
		if err := child.say("go"); err != nil {
			return err
		}
		report, err := hearStage(ctx, child, stageDone)
		if err != nil {
			return err
		}
		p.Figures["received MB"] = float64(report.Bytes) / 1e6
		p.Figures["synced median s"] = median(report.Seconds)
		p.Figures["synced last s"] = quantile(report.Seconds, 1)
		return nil
	})
	return err
}
