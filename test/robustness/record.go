// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/timeline"
)

type line = timeline.Line

// record is a history's file: JSON lines, in the order in which things ended.
type record struct {
	mu      sync.Mutex
	file    *os.File
	buf     *bufio.Writer
	failure error // the first

	size, most int64 // of file in bytes, and how large it becomes
	foundFile  *os.File
	found      *bufio.Writer // nil while nothing was found
	kept       int64         // bytes in it
}

func newRecord(path string) (*record, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &record{file: f, buf: bufio.NewWriterSize(f, 256<<10), most: maxHistory}, nil
}

func (r *record) write(l line) {
	data, err := json.Marshal(l)
	r.mu.Lock()
	defer r.mu.Unlock()
	data = append(data, '\n')
	if err == nil {
		_, err = r.buf.Write(data)
	}
	if r.size += int64(len(data)); err == nil && r.size >= r.most {
		err = r.turn()
	}
	if err == nil && len(l.Violations) > 0 {
		err = r.keep(data)
	}
	if r.failure == nil {
		r.failure = err
	}
}

// draw makes the page of the history, timeline.html beside it. The file must be closed.
func (r *record) draw(heading string) error {
	path := r.file.Name()
	page, err := os.Create(filepath.Join(filepath.Dir(path), "timeline.html"))
	if err != nil {
		return err
	}
	return errors.Join(timeline.Draw(page, path, heading), page.Close())
}

func (r *record) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.failure, r.buf.Flush(), r.file.Close(), r.closeFound())
}

// counts is how much a run has done.
type counts struct {
	acknowledged, refused, unanswered  atomic.Int64
	watches, resumed, events, bookmark atomic.Int64
	gone, notAnswered, herds           atomic.Int64
	lists, listsRefused, faults        atomic.Int64
	reads, wentOn, definitions         atomic.Int64
	compared                           atomic.Int64
	informers, informed, detected      atomic.Int64
}

func (c *counts) String() string {
	return fmt.Sprintf("%d writes acknowledged, %d refused, %d not answered; %d watches (%d resumed, %d ended with 410, %d not answered), %d events, %d bookmarks, %d herds; %d lists, %d refused, %d went on after 410; %d reads; %d definitions; %d events and objects of twins compared; %d informers, %d events, %d comparisons of their own; %d faults",
		c.acknowledged.Load(), c.refused.Load(), c.unanswered.Load(), c.watches.Load(), c.resumed.Load(), c.gone.Load(), c.notAnswered.Load(),
		c.events.Load(), c.bookmark.Load(), c.herds.Load(), c.lists.Load(), c.listsRefused.Load(), c.wentOn.Load(),
		c.reads.Load(), c.definitions.Load(), c.compared.Load(), c.informers.Load(), c.informed.Load(), c.detected.Load(), c.faults.Load())
}

// refusals counts answers other than 200 by their kind, with the first of each.
type refusals struct {
	mu    sync.Mutex
	count map[string]int
	first map[string]string
}

func (r *refusals) note(kind string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		r.count, r.first = map[string]int{}, map[string]string{}
	}
	if r.count[kind]++; r.count[kind] == 1 {
		r.first[kind] = rig.FirstLine(body)
	}
}

func (r *refusals) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(r.count)) {
		fmt.Fprintf(&b, "%s: %d times, first %s\n", kind, r.count[kind], r.first[kind])
	}
	return b.String()
}

// found is what was found, and when.
type found struct {
	mu         sync.Mutex
	first      time.Time
	firsts     []check.Violation // of the first record that had any
	violations []check.Violation
	records    int // that had any
	failures   []error
	stop       func() // called when something is found, if not nil
}

// One fault makes thousands of violations: so many are kept of one record, and in all, to be told in the end. All are in
// the history.
const (
	maxOfRecord = 2
	maxKept     = 30
)

func (f *found) add(list []check.Violation) {
	if len(list) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stop != nil {
		f.stop()
	}
	if f.records++; f.records == 1 {
		f.first, f.firsts = time.Now(), list
	}
	f.violations = append(f.violations, list[:min(len(list), maxOfRecord, maxKept-len(f.violations))]...)
}

// any tells whether there is anything.
func (f *found) any() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records > 0
}

// broken notes that an answer of 200 makes no sense.
func (r *Run) broken(what string, err error) {
	r.found.add([]check.Violation{{Rule: check.Broken, What: what, Text: err.Error()}})
}

// fail notes that the run itself cannot go on as it should, or that an answer makes no sense.
func (r *Run) fail(err error) {
	r.found.mu.Lock()
	defer r.found.mu.Unlock()
	if len(r.found.failures) < maxKept {
		r.found.failures = append(r.found.failures, err)
	}
}
