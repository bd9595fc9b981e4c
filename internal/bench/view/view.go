// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// View tells a person what a run is doing: lines that stay and, on a terminal, one live line below them. Where there is no
// terminal, a stretch that takes long is told of in plain lines from time to time. It is safe for concurrent use.
type View struct {
	out  io.Writer
	live bool

	mu  sync.Mutex
	now *Stretch // the one that is shown, or nil
}

// plainEvery is the distance of two plain lines about the same stretch.
const plainEvery = 10 * time.Second

// New makes a view that writes to out.
func New(out io.Writer) *View {
	file, ok := out.(*os.File)
	return &View{out: out, live: ok && term.IsTerminal(int(file.Fd()))}
}

// Say writes a line that stays.
func (v *View) Say(format string, args ...any) {
	line := fmt.Sprintf(format+"\n", args...)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now != nil && v.now.bars != nil {
		if _, err := io.WriteString(v.now.bars, line); err == nil {
			return
		}
	}
	_, _ = io.WriteString(v.out, line) // nobody listens: no reason not to measure
}

// Counts is how far a stretch has come.
type Counts struct {
	Done   int64  `json:"done"`           // of Total
	Total  int64  `json:"total"`          // 0 where nobody knows
	Unit   string `json:"unit,omitempty"` // what Done counts, such as "synced"
	Bytes  int64  `json:"bytes,omitempty"`
	Events int64  `json:"events,omitempty"`
}

// Stretch is a part of a run that takes its time: a phase, or a wait.
type Stretch struct {
	view *View
	name string
	rss  func() int64 // of the server, in bytes; nil where it is of no interest
	bars *mpb.Progress
	bar  *mpb.Bar
	end  chan struct{}
	all  sync.WaitGroup

	mu    sync.Mutex
	began time.Time
	last  Counts
	// Rates are taken over the time between two rateEvery.
	rateBegan   time.Time
	rateFrom    Counts
	bytesRate   float64
	eventsRate  float64
	ratesPassed bool
}

const rateEvery = time.Second

// Begin shows a stretch until Finish is called on it. There is one at a time: a nested one stands in for the outer until
// it ends, and the outer does not come back.
func (v *View) Begin(name string, rss func() int64) *Stretch {
	v.mu.Lock()
	outer := v.now
	v.mu.Unlock()
	if outer != nil {
		outer.Finish()
	}
	now := time.Now()
	s := &Stretch{view: v, name: name, rss: rss, began: now, rateBegan: now, end: make(chan struct{})}
	if v.live {
		s.bars = mpb.New(mpb.WithOutput(v.out), mpb.WithAutoRefresh(), mpb.WithRefreshRate(200*time.Millisecond))
		s.bar = s.bars.New(0, mpb.BarStyle(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return s.name + " " })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + s.figures() })))
	} else {
		s.all.Go(s.tellPlainly)
	}
	v.mu.Lock()
	v.now = s
	v.mu.Unlock()
	return s
}

// Update takes in how far the stretch that is shown has come.
func (v *View) Update(c Counts) {
	v.mu.Lock()
	now := v.now
	v.mu.Unlock()
	if now != nil {
		now.Update(c)
	}
}

// Update takes in how far it has come.
func (s *Stretch) Update(c Counts) {
	s.mu.Lock()
	s.last = c
	now := time.Now()
	if d := now.Sub(s.rateBegan); d >= rateEvery {
		s.bytesRate = float64(c.Bytes-s.rateFrom.Bytes) / d.Seconds()
		s.eventsRate = float64(c.Events-s.rateFrom.Events) / d.Seconds()
		s.rateBegan, s.rateFrom, s.ratesPassed = now, c, true
	}
	s.mu.Unlock()
	if s.bar != nil && c.Total > 0 {
		s.bar.SetTotal(c.Total, false) // it is over when Finish is called, not when it is full
		s.bar.SetCurrent(c.Done)
	}
}

// figures is the text beside the bar.
func (s *Stretch) figures() string {
	var parts []string
	s.mu.Lock()
	c, bytesRate, eventsRate, rates := s.last, s.bytesRate, s.eventsRate, s.ratesPassed
	took := time.Since(s.began)
	s.mu.Unlock()
	if c.Total > 0 {
		parts = append(parts, fmt.Sprintf("%d/%d %s", c.Done, c.Total, c.Unit))
	}
	if s.rss != nil {
		if rss := s.rss(); rss > 0 {
			parts = append(parts, fmt.Sprintf("RSS %.0f MB", float64(rss)/1e6))
		}
	}
	if rates && c.Bytes > 0 {
		parts = append(parts, fmt.Sprintf("%.1f MB/s", bytesRate/1e6))
	}
	if rates && c.Events > 0 {
		parts = append(parts, fmt.Sprintf("%.0f events/s", eventsRate))
	}
	parts = append(parts, fmt.Sprintf("%.0f s", took.Seconds()))
	return strings.Join(parts, ", ")
}

func (s *Stretch) tellPlainly() {
	tick := time.NewTicker(plainEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.view.Say("  ... %s: %s", s.name, s.figures())
		case <-s.end:
			return
		}
	}
}

// Finish takes the stretch off the screen. It may be called again.
func (s *Stretch) Finish() {
	s.view.mu.Lock()
	if s.view.now == s {
		s.view.now = nil
	}
	select {
	case <-s.end:
		s.view.mu.Unlock()
		return
	default:
		close(s.end)
	}
	s.view.mu.Unlock()
	if s.bars != nil {
		s.bar.Abort(true)
		s.bars.Wait()
	}
	s.all.Wait()
}
