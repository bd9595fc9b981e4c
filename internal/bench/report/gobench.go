// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
)

// Gobench writes one line per target and round in the format of "go test -bench", for benchstat: targets are told
// apart by the key "target", so that "benchstat -col /target" compares them.
func (r *Results) Gobench(w io.Writer) error {
	fmt.Fprintf(w, "goos: linux\ncpu: %s\n", r.Machine.CPU)
	units := strings.NewReplacer(" ", "-")
	for i := range r.Runs {
		run := &r.Runs[i]
		for _, p := range run.Phases {
			if len(p.Errors) > 0 {
				continue
			}
			name := strings.ReplaceAll(strings.ToUpper(p.Name[:1])+p.Name[1:], " ", "_")
			_, err := fmt.Fprintf(w, "Benchmark%s/target=%s 1 %.0f ns/op %.4g server-cpu-s %d peak-rss-B", name, run.Target, p.Wall*1e9, p.CPU, p.RSSPeak)
			if err != nil {
				return err
			}
			for _, figure := range sortedKeys(p.Figures) {
				fmt.Fprintf(w, " %.6g %s", p.Figures[figure], units.Replace(figure))
			}
			fmt.Fprintln(w)
		}
	}
	return nil
}
