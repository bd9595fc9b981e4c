// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxRatio is a limit on a figure of every target in proportion to the first target's.
type MaxRatio struct {
	figure string
	ratio  float64
}

// ParseRatios reads "figure=ratio".
func ParseRatios(list []string) ([]MaxRatio, error) {
	var ratios []MaxRatio
	for _, text := range list {
		figure, value, ok := strings.Cut(text, "=")
		ratio, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || ratio <= 0 {
			return nil, fmt.Errorf("--max-ratio %q: want figure=ratio, as in \"server CPU s=0.5\"", text)
		}
		ratios = append(ratios, MaxRatio{figure: figure, ratio: ratio})
	}
	return ratios, nil
}

// Hold compares the medians of every phase that has a limited figure. A limit on what no phase has, or on what cannot be
// compared because a run failed, is not held.
func (r *Results) Hold(ratios []MaxRatio) (broken []error) {
	for _, m := range ratios {
		compared := false
		for _, s := range r.tabulate() {
			if s.figure != m.figure {
				continue
			}
			first := r.Targets[0].Name
			for _, t := range r.Targets[1:] {
				base, values := s.values[first], s.values[t.Name]
				if len(base) == 0 || len(values) == 0 || Median(base) <= 0 {
					broken = append(broken, fmt.Errorf("%s: %s of %s and %s cannot be compared: one of them failed, or is 0", s.phase, s.figure, t.Name, first))
					continue
				}
				compared = true
				if got := Median(values) / Median(base); got > m.ratio {
					broken = append(broken, fmt.Errorf("%s: %s of %s is %.2f times that of %s; at most %.2f is allowed", s.phase, s.figure, t.Name, got, first, m.ratio))
				}
			}
		}
		if !compared && len(broken) == 0 {
			broken = append(broken, fmt.Errorf("--max-ratio %s: no phase has this figure for two targets", m.figure))
		}
	}
	return broken
}
