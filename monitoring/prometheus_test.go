// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

var parse = parser.NewParser(parser.Options{})

// engine is Prometheus', with its defaults.
var engine = promql.NewEngine(promql.EngineOpts{
	MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: parse,
})

// series are what a query reads.
type series []promql.Series

// Querier implements storage.Queryable.
func (s series) Querier(int64, int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: func(sorted bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		set := &seriesSet{at: -1}
		for _, one := range s {
			if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(one.Metric.Get(m.Name)) }) {
				set.series = append(set.series, one)
			}
		}
		if sorted {
			slices.SortFunc(set.series, func(a, b promql.Series) int { return labels.Compare(a.Metric, b.Metric) })
		}
		return set
	}}, nil
}

type seriesSet struct {
	series []promql.Series
	at     int
}

func (s *seriesSet) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *seriesSet) At() storage.Series                { return promql.NewStorageSeries(s.series[s.at]) }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// at is a time after the beginning of all series.
func at(after time.Duration) time.Time { return time.UnixMilli(after.Milliseconds()) }

// evaluate returns what an expression is at a time.
func evaluate(ctx context.Context, t *testing.T, from series, expr string, when time.Time) promql.Vector {
	t.Helper()
	query, err := engine.NewInstantQuery(ctx, from, nil, expr, when)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer query.Close()
	v, err := query.Exec(ctx).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return slices.Clone(v)
}

// selectors returns what an expression reads.
func selectors(t *testing.T, expr string) []*parser.VectorSelector {
	t.Helper()
	tree, err := parse.ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	var found []*parser.VectorSelector
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			found = append(found, s)
		}
		return nil
	})
	return found
}

// filters tells whether an expression leaves out what is as it should be.
func filters(t *testing.T, expr string) bool {
	t.Helper()
	tree, err := parse.ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	found := false
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		if b, ok := n.(*parser.BinaryExpr); ok && b.Op.IsComparisonOperator() && !b.ReturnBool {
			found = true
		}
		return nil
	})
	return found
}

// grouping returns the labels that an expression names beside those of its selectors.
func grouping(t *testing.T, expr string) []string {
	t.Helper()
	tree, err := parse.ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	var names []string
	parser.Inspect(tree, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.AggregateExpr:
			names = append(names, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				names = append(names, n.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	return names
}

// variables are what Grafana puts into an expression before Prometheus sees it.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$cluster", ".*", "$job", ".*", "$instance", ".*")
