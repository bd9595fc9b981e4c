// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
)

// checkEvery is how often a weir compares each of its caches with etcd.
const checkEvery = 8 * time.Second

// complaint is a line of a server's log that says that it is wrong, by its own word.
var complaint = regexp.MustCompile(`^panic: |^fatal error: |^WARNING: DATA RACE|Observed a panic|Cache consistency check failed|Previously received data is different`)

// compared is a metric's line of upstream's comparison of a cache with etcd.
var compared = regexp.MustCompile(`(?m)^apiserver_storage_consistency_checks_total\{.*resource="(?:pods|configmaps)".*status="success"\} (\d+)`)

// processes checks that no weir has died by itself or complained, and that they did compare their caches with etcd.
func (r *Run) processes(ctx context.Context) error {
	var failures []error
	any := false
	for _, s := range r.servers {
		lines, err := complaints(s.rig.Log())
		failures = append(failures, err)
		died := s.rig.Died()
		if died != nil {
			lines = append(lines, died.Error()+s.rig.LogEnd())
		} else if metrics, err := s.rig.Get(ctx, "/metrics"); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", s.rig.Name(), err))
		} else {
			any = any || compared.Match(metrics)
		}
		l := line{}
		for _, text := range lines {
			l.Violations = append(l.Violations, check.Violation{Rule: check.Died, What: s.rig.Name(), Text: text})
		}
		if len(l.Violations) > 0 {
			r.found.add(l.Violations)
			r.record.write(l)
		}
	}
	if !any && r.config.Duration > 3*checkEvery {
		failures = append(failures, errors.New("no weir has compared a cache with etcd: the run was without upstream's check"))
	}
	return errors.Join(failures...)
}

// complaints are the lines of a log that complain, with some that follow each, and no more than a few.
func complaints(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	lines := bufio.NewReader(f)
	for follow := 0; ; {
		text, err := lines.ReadString('\n')
		switch {
		case complaint.MatchString(text) && len(found) < maxKept:
			found, follow = append(found, strings.TrimSpace(text)), 12
		case follow > 0:
			follow--
			found[len(found)-1] += "\n" + strings.TrimRight(text, "\n")
		}
		if err != nil {
			return found, nil // at its end
		}
	}
}
