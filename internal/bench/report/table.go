// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Table writes the medians per figure and target, and each target's ratio to the first, and below what was asked for.
func (r *Results) Table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "phase\tfigure\t")
	for i, t := range r.Targets {
		fmt.Fprintf(tw, "%s\t", t.Name)
		if i > 0 {
			fmt.Fprintf(tw, "%s/%s\t", t.Name, r.Targets[0].Name)
		}
	}
	fmt.Fprintln(tw)
	last := ""
	for _, s := range r.tabulate() {
		phase := s.phase
		if phase == last {
			phase = ""
		}
		last = s.phase
		fmt.Fprintf(tw, "%s\t%s\t", phase, s.figure)
		base := s.values[r.Targets[0].Name]
		for i, t := range r.Targets {
			values := s.values[t.Name]
			if len(values) == 0 {
				fmt.Fprint(tw, "failed\t")
			} else {
				fmt.Fprintf(tw, "%s\t", number(Median(values)))
			}
			switch {
			case i == 0:
			case len(values) == 0 || len(base) == 0 || Median(base) == 0:
				fmt.Fprint(tw, "-\t")
			default:
				fmt.Fprintf(tw, "%.2f\t", Median(values)/Median(base))
			}
		}
		fmt.Fprintln(tw)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	return r.caption(w)
}

// caption writes what has to be known to read the table.
func (r *Results) caption(w io.Writer) error {
	var lines []string
	for _, run := range r.Runs {
		line := run.Label + ": " + run.Asks
		if run.Asks != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for _, t := range r.Targets {
		if t.Sends != "" {
			lines = append(lines, fmt.Sprintf("%s: sends what %s sent", t.Name, t.Sends))
		}
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func number(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
